"""Between bytes and pixels: what is read, what is refused, what is written."""

from __future__ import annotations

import json
import struct
import zlib
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms
from safetensors.numpy import load

from deployments.errors import InvalidImage
from deployments.pictures import decode_image, decode_mask, encode, encode_preview, shrink


def saved(image: Image.Image, output_format: str = "png", **options: Any) -> bytes:
    buffer = BytesIO()
    image.save(buffer, output_format, **options)
    return buffer.getvalue()


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds next to nothing."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def gradient(height: int = 48, width: int = 64) -> Any:
    ramp = np.linspace(0, 1, height * width * 3, dtype=np.float32)
    return ramp.reshape(height, width, 3)


@pytest.mark.parametrize("output_format", ["png", "jpeg", "webp", "gif", "bmp", "tiff", "avif"])
def test_decode_image_reads(output_format: str) -> None:
    image = decode_image(saved(Image.new("RGB", (32, 16), (200, 30, 30)), output_format))
    assert (image.mode, image.size) == ("RGB", (32, 16))
    assert np.abs(np.asarray(image, dtype=int) - [200, 30, 30]).max() <= 6


@pytest.mark.parametrize(
    ("image", "mode", "pixel"),
    [
        pytest.param(Image.new("RGBA", (4, 4), (1, 2, 3, 4)), "RGBA", (1, 2, 3, 4), id="alpha"),
        pytest.param(Image.new("LA", (4, 4), (9, 5)), "RGBA", (9, 9, 9, 5), id="grey and alpha"),
        pytest.param(Image.new("L", (4, 4), 7), "RGB", (7, 7, 7), id="grey"),
        pytest.param(Image.new("1", (4, 4), 1), "RGB", (255, 255, 255), id="one bit"),
        pytest.param(Image.new("I;16", (4, 4), 257 * 8), "RGB", (8, 8, 8), id="16 bits"),
        pytest.param(
            Image.new("RGB", (4, 4), (1, 2, 3)).quantize(2), "RGB", (1, 2, 3), id="palette"
        ),
    ],
)
def test_decode_image_gives_eight_bit_colour(
    image: Image.Image, mode: str, pixel: tuple[int, ...]
) -> None:
    decoded = decode_image(saved(image))
    assert decoded.mode == mode
    assert decoded.getpixel((0, 0)) == pixel


def test_decode_image_turns_upright() -> None:
    image = Image.new("RGB", (32, 16))
    exif = Image.Exif()
    exif[0x0112] = 6
    assert decode_image(saved(image, "jpeg", exif=exif)).size == (16, 32)


def test_decode_image_takes_the_first_frame() -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    data = saved(frames[0], "gif", save_all=True, append_images=frames[1:])
    assert decode_image(data).getpixel((0, 0)) == (255, 0, 0)


def swapped_profile() -> bytes:
    """An ICC profile whose red is sRGB's blue and the reverse, with a plain gamma of 2.2."""

    def xyz(x: float, y: float, z: float) -> bytes:
        return b"XYZ \0\0\0\0" + b"".join(struct.pack(">i", round(v * 65536)) for v in (x, y, z))

    red, green, blue = (0.4361, 0.2225, 0.0139), (0.3851, 0.7169, 0.0971), (0.1431, 0.0606, 0.7141)
    curve = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(2.2 * 256)) + b"\0\0"
    name = b"desc\0\0\0\0" + struct.pack(">I", 8) + b"swapped\0" + bytes(78) + b"\0\0"
    tags = {
        b"desc": name, b"cprt": b"text\0\0\0\0none\0\0\0\0", b"wtpt": xyz(0.9642, 1, 0.8249),
        b"rXYZ": xyz(*blue), b"gXYZ": xyz(*green), b"bXYZ": xyz(*red),
        b"rTRC": curve, b"gTRC": curve, b"bTRC": curve,
    }  # fmt: skip
    offset, table, body = 128 + 4 + 12 * len(tags), struct.pack(">I", len(tags)), b""
    for tag, value in tags.items():
        data = value + bytes(-len(value) % 4)
        table += tag + struct.pack(">II", offset + len(body), len(data))
        body += data
    head = b"\0\0\0\0" + struct.pack(">I", 0x02100000) + b"mntrRGB XYZ " + bytes(12) + b"acsp"
    head += bytes(28) + b"".join(struct.pack(">i", round(v * 65536)) for v in (0.9642, 1, 0.8249))
    return struct.pack(">I", offset + len(body)) + head + bytes(48) + table + body


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_decode_image_converts_an_embedded_profile(mode: str) -> None:
    pixel = (250, 10, 10, 77)[: len(mode)]
    decoded = decode_image(saved(Image.new(mode, (4, 4), pixel), icc_profile=swapped_profile()))
    expected = (10, 10, 250, 77)[: len(mode)]
    assert decoded.mode == mode
    assert np.abs(np.subtract(decoded.getpixel((0, 0)), expected)).max() <= 10


@pytest.mark.parametrize(
    "profile",
    [
        pytest.param(b"nonsense", id="unreadable"),
        pytest.param(
            ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes(), id="of another space"
        ),
        pytest.param(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes(), id="srgb"),
    ],
)
def test_decode_image_leaves_pixels_alone(profile: bytes) -> None:
    image = Image.new("RGBA", (4, 4), (200, 30, 30, 77))
    decoded = decode_image(saved(image, icc_profile=profile))
    assert decoded.getpixel((0, 0)) == (200, 30, 30, 77)


def test_decode_image_reads_cmyk() -> None:
    image = decode_image(saved(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "jpeg"))
    assert image.mode == "RGB"
    red, green, blue = np.asarray(image)[0, 0]
    assert red > 150 > 80 > max(green, blue)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"nothing", id="text"),
        pytest.param(saved(Image.new("RGB", (64, 64)))[:-30], id="truncated"),
        pytest.param(png_header(64, 64), id="no pixels"),
        pytest.param(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", id="program"),
    ],
)
def test_decode_image_refuses_what_it_cannot_read(data: bytes) -> None:
    with pytest.raises(InvalidImage, match="cannot be decoded"):
        decode_image(data)


@pytest.mark.parametrize("side", [8001, 12_000, 60_000])
def test_decode_image_refuses_too_many_pixels_by_the_header(side: int) -> None:
    with pytest.raises(InvalidImage, match="64 megapixels"):
        decode_image(png_header(side, side))


def test_decode_mask_is_grey_of_the_size() -> None:
    mask = Image.new("RGBA", (4, 4), (255, 255, 255, 255))
    mask.paste((255, 255, 255, 0), (0, 0, 2, 4))
    decoded = decode_mask(saved(mask), (8, 8))
    assert (decoded.mode, decoded.size) == ("L", (8, 8))
    assert (decoded.getpixel((0, 0)), decoded.getpixel((7, 7))) == (0, 255)


def test_decode_mask_names_the_mask() -> None:
    with pytest.raises(InvalidImage, match="the mask cannot") as caught:
        decode_mask(b"nothing", (8, 8))
    assert caught.value.param == "mask"


@pytest.mark.parametrize(("output_format", "tolerance"), [("png", 0), ("jpeg", 12), ("webp", 12)])
def test_encode_keeps_the_picture(output_format: Any, tolerance: int) -> None:
    decoded = Image.open(BytesIO(encode(gradient(), output_format)))
    assert decoded.format == output_format.upper()
    expected = (gradient() * 255).round()
    assert np.abs(np.asarray(decoded, dtype=float) - expected).max() <= tolerance


def test_encode_of_better_quality_is_larger() -> None:
    noise = np.random.default_rng(0).random((64, 64, 3), dtype=np.float32)
    assert len(encode(noise, "jpeg", 95)) > len(encode(noise, "jpeg", 20))


def test_encode_as_safetensors_keeps_every_bit() -> None:
    tensors = load(encode(gradient(), "safetensors"))
    assert set(tensors) == {"image"}
    assert (tensors["image"].shape, tensors["image"].dtype) == ((3, 48, 64), np.float32)
    assert np.array_equal(tensors["image"].transpose(1, 2, 0), gradient())


def test_encode_clips_what_is_out_of_range() -> None:
    pixels = np.full((2, 2, 3), 1.5, dtype=np.float32)
    pixels[0] = -0.5
    decoded = np.asarray(Image.open(BytesIO(encode(pixels, "png"))))
    assert (decoded[0, 0, 0], decoded[1, 0, 0]) == (0, 255)


@pytest.mark.parametrize(("height", "size"), [(1024, (256, 512)), (64, (32, 64))])
def test_encode_preview_is_a_small_jpeg(height: int, size: tuple[int, int]) -> None:
    decoded = Image.open(BytesIO(encode_preview(gradient(height, height // 2))))
    assert (decoded.format, decoded.size) == ("JPEG", size)


TEXTS = (("parameters", "a cat\nSteps: 4"), ("prompt", "猫 и кот"))


def test_encode_keeps_texts_in_png() -> None:
    data = encode(gradient(), "png", texts=TEXTS)
    assert Image.open(BytesIO(data)).text == dict(TEXTS)
    assert b"tEXtparameters\0a cat" in data
    assert b"iTXtprompt\0" in data


@pytest.mark.parametrize("output_format", ["jpeg", "webp"])
def test_encode_keeps_parameters_as_the_exif_comment(output_format: Any) -> None:
    data = encode(gradient(), output_format, texts=(("parameters", "猫: 4"), ("prompt", "no")))
    exif = Image.open(BytesIO(data)).getexif().get_ifd(0x8769)
    assert exif[0x9286] == b"UNICODE\0" + "猫: 4".encode("utf-16-be")


@pytest.mark.parametrize("texts", [(), (("prompt", "a"),), (("parameters", "x" * 40_000),)])
def test_encode_leaves_out_what_a_jpeg_cannot_hold(texts: Any) -> None:
    assert encode(gradient(), "jpeg", texts=texts) == encode(gradient(), "jpeg")


def test_encode_keeps_texts_in_safetensors() -> None:
    data = encode(gradient(), "safetensors", texts=TEXTS)
    length = int.from_bytes(data[:8], "little")
    assert json.loads(data[8 : 8 + length])["__metadata__"] == dict(TEXTS)


def test_shrink_leaves_what_is_not_far_too_large() -> None:
    for size in ((640, 480), (2000, 2000), (4000, 1500)):
        data = saved(Image.new("RGB", size), "jpeg")
        assert shrink(data, 512 if size[0] < 4000 else 1024, 1024) is data


@pytest.mark.parametrize(
    ("size", "expected"),
    [((3000, 2000), (1536, 1024)), ((2000, 3000), (1024, 1536)), ((9000, 1100), (8378, 1024))],
)
def test_shrink_covers_twice_the_size_in_the_picture_s_shape(size: Any, expected: Any) -> None:
    data = shrink(saved(Image.new("RGB", size, (9, 99, 200)), "jpeg"), 512, 512)
    image = decode_image(data)
    assert image.size == expected
    assert np.abs(np.subtract(image.getpixel((0, 0)), (9, 99, 200))).max() <= 1


def test_shrink_turns_a_photo_upright_first() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = shrink(saved(Image.new("RGB", (3000, 2000)), "jpeg", exif=exif), 512, 1024)
    assert decode_image(data).size == (1365, 2048)


@pytest.mark.parametrize(
    "data", [b"", b"no picture", png_header(9000, 9000), png_header(3000, 3000)]
)
def test_shrink_leaves_what_decode_refuses(data: bytes) -> None:
    assert shrink(data, 512, 512) is data


def test_shrink_leaves_a_strip_that_is_long_but_narrow() -> None:
    data = saved(Image.new("RGB", (9000, 600)), "jpeg")
    assert shrink(data, 512, 512) is data
