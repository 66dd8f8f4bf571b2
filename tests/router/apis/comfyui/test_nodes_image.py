"""The nodes of pictures: sizes, cuts, batches, colours, layers and files."""

from __future__ import annotations

import io
import tracemalloc
from typing import Any

import numpy as np
import pytest
from PIL import Image

from deployments.errors import AtelierError, InvalidImage, InvalidRequest
from router.apis.comfyui.nodes import NODES
from router.apis.comfyui.nodes.load import load_image, load_image_mask
from router.apis.comfyui.resampling import METHODS, resize, resize_images
from router.apis.comfyui.several import gather, spread
from router.apis.comfyui.values import Images, Masks, Several, Shown


def run(class_type: str, **inputs: Any) -> Any:
    """The outputs of a node; one alone by itself."""
    outputs = NODES[class_type].run(**inputs)
    return outputs[0] if len(outputs) == 1 else outputs


def noise(width: int, height: int, channels: int = 3, seed: int = 0) -> np.ndarray[Any, Any]:
    shape = (height, width, channels)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def pictures(width: int, height: int, count: int = 1, channels: int = 3) -> Images:
    return Images(pixels=[noise(width, height, channels, seed) for seed in range(count)])


def flat(width: int, height: int, *colour: int) -> Images:
    return Images(pixels=[np.full((height, width, len(colour)), colour, np.uint8)])


def size(images: Images) -> tuple[int, int]:
    return images.width, images.height


# -- sizes -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "up", "down"),
    [
        ("nearest-exact", [0, 0, 4, 4, 8, 8, 12, 12], [4, 12]),
        ("bilinear", [0, 1, 3, 5, 7, 9, 11, 12], [2, 10]),
        ("area", [0, 0, 4, 4, 8, 8, 12, 12], [2, 10]),
        (
            "bicubic",
            [-0.421875, 0.765625, 2.671875, 5.1875, 6.8125, 9.328125, 11.234375, 12.421875],
            [1.625, 10.375],
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_resize_gives_what_torch_gives(method: str, up: list[float], down: list[float]) -> None:
    row = np.array([[0, 4, 8, 12]], np.float32)

    assert resize(row, 8, 1, method)[0] == pytest.approx(up, abs=1e-5)
    assert resize(row, 2, 1, method)[0] == pytest.approx(down, abs=1e-5)
    assert resize(row.T, 1, 8, method)[:, 0] == pytest.approx(up, abs=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_strip_that_is_turned_is_no_square_on_the_way(method: str) -> None:
    strip = Images(pixels=[np.zeros((1, 4096, 3), np.uint8)])
    tracemalloc.start()
    for image, width, height in (
        (strip, 1, 4096),
        (resize_images(strip, 1, 4096, method), 4096, 1),
    ):
        assert size(resize_images(image, width, height, method)) == (width, height)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2**21


def test_axes_may_be_resized_in_either_order() -> None:
    values = np.random.default_rng(0).random((40, 30, 3), np.float32)
    for width, height in ((90, 20), (10, 120)):
        turned = np.swapaxes(resize(np.swapaxes(values, 0, 1), height, width, "bicubic"), 0, 1)
        assert np.allclose(resize(values, width, height, "bicubic"), turned, atol=1e-6)


def test_crop_to_a_shape_leaves_a_pixel() -> None:
    strip = Images(pixels=[np.full((1, 4096, 3), 9, np.uint8)])
    cut = resize_images(strip, 1, 4096, "bilinear", "center")
    assert (cut.pixels[0] == 9).all()


@pytest.mark.parametrize("method", METHODS)
def test_image_scale_gives_the_size_by_every_method(method: str) -> None:
    image = pictures(30, 20, count=2, channels=4)

    for width, height in ((60, 40), (7, 33), (1, 1)):
        scaled = run(
            "ImageScale",
            image=image, upscale_method=method, width=width, height=height, crop="disabled",
        )  # fmt: skip
        assert size(scaled) == (width, height)
        assert len(scaled) == 2
        assert scaled.pixels[0].shape[2] == 4
    flat_one = flat(5, 5, 10, 200, 30)
    same = run(
        "ImageScale", image=flat_one, upscale_method=method, width=9, height=3, crop="disabled"
    )
    assert (same.pixels[0] == (10, 200, 30)).all()


def test_image_scale_keeps_proportions_where_a_side_is_zero() -> None:
    image = pictures(30, 20)
    scaled = {
        (width, height): size(
            run(
                "ImageScale",
                image=image, upscale_method="area", width=width, height=height, crop="disabled",
            )
        )
        for width, height in ((60, 0), (0, 10), (0, 0))
    }  # fmt: skip

    assert scaled == {(60, 0): (60, 40), (0, 10): (15, 10), (0, 0): (30, 20)}


def test_image_scale_cuts_the_middle_out() -> None:
    pixels = np.zeros((10, 30, 3), np.uint8)
    pixels[:, 10:20] = 255

    scaled = run(
        "ImageScale",
        image=Images(pixels=[pixels]),
        upscale_method="nearest-exact", width=10, height=10, crop="center",
    )  # fmt: skip

    assert (scaled.pixels[0] == 255).all()


def test_sizes_by_factor_pixels_and_longest_side() -> None:
    image = pictures(60, 40)

    assert size(run("ImageScaleBy", image=image, upscale_method="area", scale_by=0.26)) == (16, 10)
    for steps, expected in ((1, (1254, 836)), (64, (1280, 832))):
        scaled = run(
            "ImageScaleToTotalPixels",
            image=image, upscale_method="nearest-exact", megapixels=1.0, resolution_steps=steps,
        )  # fmt: skip
        assert size(scaled) == expected
    scaled = run("ImageScaleToTotalPixels", image=image, upscale_method="area", megapixels=0.01)
    assert size(scaled) == (125, 84)
    longest = run("ImageScaleToMaxDimension", image=image, upscale_method="area", largest_size=30)
    assert size(longest) == (30, 20)


def test_resize_and_pad_lays_the_picture_in_the_middle() -> None:
    padded = run(
        "ResizeAndPadImage",
        image=flat(4, 2, 9, 9, 9),
        target_width=8, target_height=8, padding_color="white", interpolation="area",
    ).pixels[0]  # fmt: skip

    assert (padded[2:6] == 9).all()
    assert (padded[:2] == 255).all()
    assert (padded[6:] == 255).all()


@pytest.mark.parametrize(
    ("class_type", "inputs"),
    [
        ("EmptyImage", {"width": 16384, "height": 16384}),
        ("EmptyImage", {"width": 64, "height": 64, "batch_size": 257}),
        ("EmptyImage", {"width": 0, "height": 64}),
        ("ImageScaleBy", {"image": pictures(9, 9), "upscale_method": "area", "scale_by": 1e4}),
        ("ImageScaleBy", {"image": pictures(9, 9), "upscale_method": "area", "scale_by": 0.01}),
        ("RepeatImageBatch", {"image": pictures(9, 9), "amount": 4096}),
        ("RepeatImageBatch", {"image": pictures(9, 9), "amount": 0}),
        ("SolidMask", {"value": 1.0, "width": 10**9, "height": 10**9}),
        ("ImageBlur", {"image": pictures(9, 9), "blur_radius": 9, "sigma": 1.0}),
        ("ImageBlur", {"image": pictures(9, 9), "blur_radius": 2, "sigma": 0.0}),
        (
            "ImagePadForOutpaint",
            {"image": pictures(9, 9), "left": 16384, "right": 0, "top": 16384, "bottom": 0,
             "feathering": 0},
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_sizes_beyond_the_limits_are_refused(class_type: str, inputs: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest):
        run(class_type, **inputs)


# -- cuts, turns, batches --------------------------------------------------------------------------


def test_empty_image_has_one_colour() -> None:
    image = run("EmptyImage", width=3, height=2, batch_size=2, color=0x01FF80)

    assert len(image) == 2
    assert size(image) == (3, 2)
    assert (image.pixels[1] == (1, 255, 128)).all()


def test_image_crop_stays_inside() -> None:
    image = pictures(10, 8)

    inner = run("ImageCrop", image=image, width=3, height=2, x=4, y=5)
    edge = run("ImageCrop", image=image, width=512, height=512, x=9000, y=7)

    assert np.array_equal(inner.pixels[0], image.pixels[0][5:7, 4:7])
    assert np.array_equal(edge.pixels[0], image.pixels[0][7:, 9:])


def test_pictures_are_flipped_and_turned() -> None:
    image = Images(pixels=[np.arange(6, dtype=np.uint8).reshape(2, 3, 1).repeat(3, axis=2)])

    def grey(images: Images) -> list[list[int]]:
        levels: list[list[int]] = images.pixels[0][..., 0].tolist()
        return levels

    assert grey(run("ImageFlip", image=image, flip_method="x-axis: vertically")) == [
        [3, 4, 5],
        [0, 1, 2],
    ]
    assert grey(run("ImageFlip", image=image, flip_method="y-axis: horizontally")) == [
        [2, 1, 0],
        [5, 4, 3],
    ]
    assert grey(run("ImageRotate", image=image, rotation="none")) == [[0, 1, 2], [3, 4, 5]]
    assert grey(run("ImageRotate", image=image, rotation="90 degrees")) == [[3, 0], [4, 1], [5, 2]]
    assert grey(run("ImageRotate", image=image, rotation="180 degrees")) == [[5, 4, 3], [2, 1, 0]]
    assert grey(run("ImageRotate", image=image, rotation="270 degrees")) == [
        [2, 5],
        [1, 4],
        [0, 3],
    ]


def test_image_batch_gives_the_second_the_size_of_the_first() -> None:
    first, second = pictures(10, 8), pictures(30, 9, count=2, channels=4)

    joined = run("ImageBatch", image1=first, image2=second)

    assert len(joined) == 3
    assert {one.shape for one in joined.pixels} == {(8, 10, 4)}
    assert np.array_equal(joined.pixels[0][..., :3], first.pixels[0])
    assert (joined.pixels[0][..., 3] == 255).all()


def test_pictures_are_taken_from_a_batch_and_repeated() -> None:
    image = pictures(4, 4, count=3)

    def taken(index: int, length: int) -> list[int]:
        some = run("ImageFromBatch", image=image, batch_index=index, length=length)
        return [next(k for k in range(3) if one is image.pixels[k]) for one in some.pixels]

    assert taken(1, 1) == [1]
    assert taken(1, 99) == [1, 2]
    assert taken(-1, 1) == [2]
    assert taken(99, 2) == [2]
    assert taken(-99, 2) == [0, 1]
    repeated = run("RepeatImageBatch", image=image, amount=2)
    assert [one is image.pixels[k % 3] for k, one in enumerate(repeated.pixels)] == [True] * 6
    assert run("GetImageSize", image=image) == (4, 4, 3)


@pytest.mark.parametrize(
    ("direction", "first", "second"),
    [
        ("right", np.s_[:, :4], np.s_[:, 6:]),
        ("left", np.s_[:, -4:], np.s_[:, :4]),
        ("down", np.s_[:4], np.s_[6:]),
        ("up", np.s_[-4:], np.s_[:4]),
    ],
    ids=["right", "left", "down", "up"],
)
def test_image_stitch_lays_pictures_side_by_side(direction: str, first: Any, second: Any) -> None:
    stitched = run(
        "ImageStitch",
        image1=flat(4, 4, 10, 10, 10),
        image2=flat(8, 8, 90, 90, 90),
        direction=direction, match_image_size=True, spacing_width=1, spacing_color="red",
    ).pixels[0]  # fmt: skip

    assert sorted(stitched.shape) == [3, 4, 10]
    assert (stitched[first] == 10).all()
    assert (stitched[second] == 90).all()
    assert (stitched == (255, 0, 0)).all(axis=2).sum() == 8


def test_image_stitch_pads_pictures_of_other_sizes() -> None:
    stitched = run(
        "ImageStitch",
        image1=flat(2, 2, 10, 10, 10),
        image2=flat(2, 6, 90, 90, 90),
        direction="right", match_image_size=False, spacing_width=0, spacing_color="white",
    ).pixels[0]  # fmt: skip

    assert stitched.shape == (6, 4, 3)
    assert (stitched[2:4, :2] == 10).all()
    assert (stitched[:2, :2] == 255).all()


# -- lists -----------------------------------------------------------------------------------------


def test_rebatch_images_gives_a_list_of_batches() -> None:
    node, image = NODES["RebatchImages"], pictures(4, 4, count=3)

    (call,) = spread(node, {"images": image, "batch_size": 2})
    (several,) = node.run(**call)

    assert [len(value) for value in several.values] == [2, 1]
    assert node.gives_lists == (True,)


def test_a_list_makes_a_call_for_each_of_its_values() -> None:
    node = NODES["ImageInvert"]
    values = tuple(flat(2, 2, level, 0, 0) for level in (1, 2, 3))

    calls = spread(node, {"image": Several(values=values), "other": 5})
    outputs = gather([node.run(image=call["image"]) for call in calls])

    assert [call["image"] for call in calls] == list(values)
    assert [call["other"] for call in calls] == [5, 5, 5]
    assert isinstance(outputs, tuple)
    assert [one.pixels[0][0, 0, 0] for one in outputs[0].values] == [254, 253, 252]


def test_lists_of_unlike_lengths_repeat_their_last_value() -> None:
    lists = {"a": Several(values=(1, 2, 3)), "b": Several(values=(7, 8)), "c": 9}

    calls = spread(NODES["ImageBlend"], lists)

    assert calls == [{"a": 1, "b": 7, "c": 9}, {"a": 2, "b": 8, "c": 9}, {"a": 3, "b": 8, "c": 9}]
    assert spread(NODES["ImageBlend"], {}) == [{}]
    with pytest.raises(InvalidRequest, match="256"):
        spread(NODES["ImageBlend"], {"a": Several(values=(1,) * 257)})


def test_what_several_calls_show_is_joined() -> None:
    shown = gather([Shown(output={"images": [1], "text": ["a"]}), Shown(output={"images": [2]})])

    assert isinstance(shown, Shown)
    assert shown.output == {"images": [1, 2], "text": ["a"]}


# -- colours ---------------------------------------------------------------------------------------


def test_image_invert_leaves_alpha() -> None:
    inverted = run("ImageInvert", image=flat(2, 2, 0, 100, 255, 7))

    assert (inverted.pixels[0] == (255, 155, 0, 7)).all()


def test_blur_keeps_flat_pictures_and_spreads_points() -> None:
    point = np.zeros((9, 9, 3), np.uint8)
    point[4, 4] = 255

    assert (
        run("ImageBlur", image=flat(9, 9, 7, 8, 9), blur_radius=4, sigma=2.0).pixels[0] == (7, 8, 9)
    ).all()
    blurred = run("ImageBlur", image=Images(pixels=[point]), blur_radius=1, sigma=1.0).pixels[0]

    window = np.exp(-np.array([[2, 1, 2], [1, 0, 1], [2, 1, 2]]) / 2)
    expected = np.rint(255 * window / window.sum())
    assert np.array_equal(blurred[3:6, 3:6, 0], expected)
    assert blurred[:3].sum() == 0


def test_sharpen_adds_what_a_blur_takes_away() -> None:
    edge = np.full((8, 8, 3), 100, np.uint8)
    edge[:, 4:] = 110

    sharp = run(
        "ImageSharpen", image=Images(pixels=[edge]), sharpen_radius=1, sigma=1.0, alpha=0.5
    ).pixels[0]

    assert (sharp[:, :3] == 100).all()
    assert (sharp[:, 3] < 90).all()
    assert (sharp[:, 4] > 120).all()


@pytest.mark.parametrize(
    ("mode", "level"),
    [
        ("normal", 153),
        ("multiply", 31),
        ("screen", 173),
        ("overlay", 61),
        ("soft_light", 64),
        ("difference", 0),
    ],
)
def test_image_blend_has_six_modes(mode: str, level: int) -> None:
    below, above = flat(2, 2, 51, 51, 51, 9), flat(4, 4, 153, 153, 153)

    whole = run("ImageBlend", image1=below, image2=above, blend_factor=1.0, blend_mode=mode)
    none = run("ImageBlend", image1=below, image2=above, blend_factor=0.0, blend_mode=mode)

    assert whole.pixels[0][0, 0].tolist() == [level, level, level, 9]
    assert none.pixels[0][0, 0].tolist() == [51, 51, 51, 9]


# -- layers ----------------------------------------------------------------------------------------


def composited(**changes: Any) -> np.ndarray[Any, Any]:
    inputs = {
        "destination": flat(6, 6, 0, 0, 0),
        "source": flat(3, 3, 200, 200, 200),
        "x": 0,
        "y": 0,
        "resize_source": False,
    } | changes
    levels: np.ndarray[Any, Any] = run("ImageCompositeMasked", **inputs).pixels[0][..., 0]
    return levels


def test_composite_lays_the_source_at_a_place_and_cuts_it_off() -> None:
    assert np.argwhere(composited(x=4, y=1)).tolist() == [
        [1, 4], [1, 5], [2, 4], [2, 5], [3, 4], [3, 5]
    ]  # fmt: skip
    assert composited(x=6, y=0).sum() == 0
    assert (composited(resize_source=True) == 200).all()
    assert np.argwhere(composited(x=-2, y=-2)).tolist() == [[0, 0]]


def test_composite_mixes_where_the_mask_says() -> None:
    half = Masks(values=np.full((1, 3, 3), 0.5, np.float32))
    left = Masks(values=np.tile(np.array([1, 0], np.float32), (1, 2, 1)))

    assert (composited(mask=half)[:3, :3] == 100).all()
    halves = composited(mask=left, source=flat(4, 4, 200, 200, 200))
    assert (halves[:4, 0] == 200).all()
    assert (halves[:4, 3] == 0).all()


def test_composite_of_pictures_with_and_without_alpha() -> None:
    opaque = run(
        "ImageCompositeMasked",
        destination=flat(2, 2, 1, 1, 1, 0), source=flat(1, 1, 9, 9, 9),
        x=0, y=0, resize_source=False,
    )  # fmt: skip
    cut = run(
        "ImageCompositeMasked",
        destination=flat(2, 2, 1, 1, 1), source=flat(1, 1, 9, 9, 9, 0),
        x=0, y=0, resize_source=False,
    )  # fmt: skip

    assert opaque.pixels[0][0, 0].tolist() == [9, 9, 9, 255]
    assert cut.pixels[0][0, 0].tolist() == [9, 9, 9]


def test_composite_repeats_a_short_batch() -> None:
    laid = run(
        "ImageCompositeMasked",
        destination=Images(pixels=[np.zeros((2, 2, 3), np.uint8)] * 3),
        source=Images(pixels=[np.full((2, 2, 3), level, np.uint8) for level in (10, 20)]),
        x=0, y=0, resize_source=False,
        mask=Masks(values=np.ones((1, 2, 2), np.float32)),
    )  # fmt: skip

    assert [one[0, 0, 0] for one in laid.pixels] == [10, 20, 10]


def test_pad_for_outpaint_is_grey_outside_and_feathered_inside() -> None:
    padded, masks = run(
        "ImagePadForOutpaint",
        image=flat(20, 16, 200, 100, 0), left=8, top=0, right=0, bottom=16, feathering=4,
    )  # fmt: skip

    assert size(padded) == (28, 32)
    assert (padded.pixels[0][:16, 8:] == (200, 100, 0)).all()
    assert (padded.pixels[0][:, :8] == 127).all()
    mask = masks.values[0]
    assert (mask[:, :8] == 1).all()
    assert (mask[16:] == 1).all()
    assert mask[0, 8:13].tolist() == [1, 0.5625, 0.25, 0.0625, 0]
    assert mask[12:16, 27].tolist() == [0, 0.0625, 0.25, 0.5625]


def test_pad_for_outpaint_feathers_only_what_is_large_enough() -> None:
    _, masks = run(
        "ImagePadForOutpaint",
        image=flat(20, 16, 0, 0, 0), left=8, top=0, right=0, bottom=0, feathering=8,
    )  # fmt: skip

    assert masks.values[0, :, 8:].sum() == 0


def test_alpha_is_split_off_and_joined() -> None:
    image, masks = run("SplitImageWithAlpha", image=flat(4, 4, 10, 20, 30, 51))
    _, none = run("SplitImageWithAlpha", image=flat(4, 4, 10, 20, 30))

    assert image.pixels[0].shape == (4, 4, 3)
    assert masks.values == pytest.approx(0.8)
    assert none.values.sum() == 0
    joined = run("JoinImageWithAlpha", image=image, alpha=masks)
    assert joined.pixels[0][0, 0].tolist() == [10, 20, 30, 51]
    larger = run("JoinImageWithAlpha", image=pictures(8, 6, count=3), alpha=masks)
    assert [one.shape for one in larger.pixels] == [(6, 8, 4)]


# -- files -----------------------------------------------------------------------------------------


class Desk:
    """A drawing that has files and nothing else."""

    def __init__(self, **files: bytes) -> None:
        self._files = files

    def input(self, name: str) -> bytes:
        return self._files[name]


def encoded(*images: Image.Image, file_format: str = "PNG", **options: Any) -> bytes:
    out = io.BytesIO()
    images[0].save(out, file_format, save_all=len(images) > 1, append_images=images[1:], **options)
    return out.getvalue()


async def load(data: bytes) -> tuple[Images, Masks]:
    return await load_image(Desk(file=data), image="file")  # type: ignore[arg-type]


async def test_load_image_gives_pixels_and_an_empty_mask() -> None:
    pixels = noise(7, 5)

    images, masks = await load(encoded(Image.fromarray(pixels)))

    assert np.array_equal(images.pixels[0], pixels)
    assert masks.values.shape == (1, 64, 64)
    assert masks.values.dtype == np.float32
    assert masks.values.sum() == 0


async def test_load_image_makes_alpha_a_mask() -> None:
    pixels = noise(7, 5, 4)

    images, masks = await load(encoded(Image.fromarray(pixels)))

    assert np.array_equal(images.pixels[0], pixels[..., :3])
    assert masks.values[0] == pytest.approx(1 - pixels[..., 3] / 255)


async def test_load_image_reads_palettes_grey_and_sixteen_bits() -> None:
    palette = Image.new("P", (2, 2))
    palette.putpalette([10, 20, 30, 40, 50, 60])
    palette.info["transparency"] = 0
    wide = Image.fromarray(np.full((2, 2), 25700, np.uint16))

    images, masks = await load(encoded(palette, transparency=0))
    assert (images.pixels[0] == (10, 20, 30)).all()
    assert (masks.values == 1).all()
    assert ((await load(encoded(wide)))[0].pixels[0] == 100).all()
    assert ((await load(encoded(Image.new("L", (2, 2), 9))))[0].pixels[0] == 9).all()


async def test_load_image_turns_what_the_camera_held_sideways() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6

    images, _ = await load(encoded(Image.new("RGB", (8, 4)), file_format="JPEG", exif=exif))

    assert size(images) == (4, 8)


async def test_load_image_gives_the_frames_of_an_animation() -> None:
    frames = [Image.new("RGB", (4, 4), (level, 0, 0)) for level in (0, 120, 240)]

    images, masks = await load(encoded(*frames, file_format="WEBP", lossless=True))

    assert [one[0, 0, 0] for one in images.pixels] == [0, 120, 240]
    assert len(masks.values) == 3


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"no picture",
        encoded(Image.fromarray(noise(40, 40)))[:900],
        encoded(Image.new("1", (9000, 9000))),
        encoded(*(Image.new("L", (2, 2), k % 256) for k in range(300)), file_format="TIFF"),
    ],
    ids=["empty", "text", "cut off", "large", "many frames"],
)
async def test_load_image_refuses_what_it_cannot_or_must_not_read(data: bytes) -> None:
    with pytest.raises(InvalidImage, match="file"):
        await load(data)


async def test_load_image_mask_takes_one_channel() -> None:
    pixels = noise(7, 5, 4)
    desk: Any = Desk(file=encoded(Image.fromarray(pixels)))

    for channel, place in (("red", 0), ("green", 1), ("blue", 2)):
        (masks,) = await load_image_mask(desk, image="file", channel=channel)
        assert masks.values[0] == pytest.approx(pixels[..., place] / 255)
    (masks,) = await load_image_mask(desk, image="file", channel="alpha")
    assert masks.values[0] == pytest.approx(1 - pixels[..., 3] / 255)


# -- any values ------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [-(2**63), -7, 0, 3, 2**63], ids=str)
@pytest.mark.parametrize(
    "class_type",
    [
        name
        for name, node in NODES.items()
        if node.category.startswith("image") and not node.takes_lists and not node.is_output
        and not name.startswith("Load")
    ],
)  # fmt: skip
def test_numbers_that_come_over_links_do_no_harm(class_type: str, number: int) -> None:
    """They were not held to any range: an error of ours or a result, and soon."""
    values: dict[str, Any] = {
        "IMAGE": pictures(6, 5),
        "MASK": Masks(values=np.ones((1, 5, 6), np.float32)),
        "INT": number,
        "FLOAT": float(number),
        "BOOLEAN": True,
    }
    node = NODES[class_type]
    inputs = {
        row.name: values[row.type] if row.choices is None else row.choices[0]  # type: ignore[index]
        for row in node.inputs
    }

    try:
        outputs = node.run(**inputs)
    except AtelierError:
        return
    assert len(outputs) == len(node.outputs)
