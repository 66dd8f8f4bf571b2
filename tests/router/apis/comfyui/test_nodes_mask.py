"""The nodes of masks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from deployments.errors import InvalidRequest
from router.apis.comfyui.nodes import NODES
from router.apis.comfyui.values import Images, Masks

SIDES = ("left", "top", "right", "bottom")


def run(class_type: str, **inputs: Any) -> Any:
    return NODES[class_type].run(**inputs)[0]


def masks(*rows: list[float]) -> Masks:
    return Masks(values=np.array([rows], np.float32))


def levels(value: Masks) -> list[list[float]]:
    rounded: list[list[float]] = value.values[0].round(4).tolist()
    return rounded


def dot(size: int = 7) -> Masks:
    values = np.zeros((1, size, size), np.float32)
    values[0, size // 2, size // 2] = 1
    return Masks(values=values)


def test_solid_and_inverted_masks() -> None:
    solid = run("SolidMask", value=0.25, width=3, height=2)

    assert solid.values.shape == (1, 2, 3)
    assert solid.values.dtype == np.float32
    assert (run("InvertMask", mask=solid).values == 0.75).all()


def test_masks_become_pictures_and_back() -> None:
    mask = masks([0, 0.5, 1])

    image = run("MaskToImage", mask=mask)

    assert image.pixels[0].shape == (1, 3, 3)
    assert image.pixels[0][0, :, 0].tolist() == [0, 128, 255]
    back = run("ImageToMask", image=image, channel="green")
    assert back.values == pytest.approx(mask.values, abs=0.003)
    assert (run("ImageToMask", image=image, channel="alpha").values == 1).all()


def test_a_colour_becomes_a_mask() -> None:
    image = Images(pixels=[np.array([[(1, 2, 3), (1, 2, 4)]], np.uint8)])

    assert levels(run("ImageColorToMask", image=image, color=0x010203)) == [[1, 0]]


def test_crop_mask_stays_inside_of_the_mask() -> None:
    mask = masks([1, 2, 3], [4, 5, 6])

    assert levels(run("CropMask", mask=mask, x=1, y=1, width=512, height=1)) == [[5, 6]]
    with pytest.raises(InvalidRequest, match="3x2"):
        run("CropMask", mask=mask, x=3, y=0, width=1, height=1)


@pytest.mark.parametrize(
    ("operation", "expected"),
    [
        ("multiply", [0.25, 0.12, 0.0]),
        ("add", [0.25, 0.8, 0.8]),
        ("subtract", [0.25, 0.0, 0.0]),
        ("and", [0.25, 0.0, 0.0]),
        ("or", [0.25, 1.0, 1.0]),
        ("xor", [0.25, 1.0, 1.0]),
    ],
)
def test_masks_are_combined_where_one_lies(operation: str, expected: list[float]) -> None:
    combined = run(
        "MaskComposite",
        destination=masks([0.25, 0.2, 0.0]), source=masks([0.6, 0.8, 9.0]),
        x=1, y=0, operation=operation,
    )  # fmt: skip

    assert levels(combined) == [pytest.approx(expected)]


def test_masks_of_other_numbers_cannot_be_combined() -> None:
    three = Masks(values=np.ones((3, 2, 2), np.float32))
    two = Masks(values=np.ones((2, 2, 2), np.float32))

    with pytest.raises(InvalidRequest, match="1 or 2"):
        run("MaskComposite", destination=two, source=three, x=0, y=0, operation="add")
    nothing = run("MaskComposite", destination=two, source=dot(), x=9, y=9, operation="multiply")
    assert (nothing.values == 1).all()


def feathered(**sides: int) -> list[list[float]]:
    one = Masks(values=np.ones((1, 4, 4), np.float32))
    return levels(run("FeatherMask", mask=one, **{side: sides.get(side, 0) for side in SIDES}))


def test_feather_mask_rises_from_each_edge() -> None:
    assert feathered(left=2)[0] == [0.5, 1, 1, 1]
    assert feathered(right=4)[0] == [1, 0.75, 0.5, 0.25]
    assert [row[0] for row in feathered(top=9, bottom=2)] == [0.25, 0.5, 0.75, 0.5]
    assert feathered(top=-3) == [[1] * 4] * 4


def test_grow_mask_reaches_along_rows_and_columns_or_diagonals() -> None:
    diamond = run("GrowMask", mask=dot(), expand=2, tapered_corners=True).values[0]
    square = run("GrowMask", mask=dot(), expand=2, tapered_corners=False).values[0]

    across = np.abs(np.arange(7) - 3)
    assert np.array_equal(diamond, across[:, None] + across <= 2)
    assert np.array_equal(square, np.maximum(across[:, None], across) <= 2)
    back = run("GrowMask", mask=Masks(values=square[None]), expand=-2, tapered_corners=False)
    assert np.array_equal(back.values, dot().values)


@pytest.mark.parametrize("expand", [16384, -16384])
def test_grow_mask_reaches_any_distance_in_few_passes(expand: int) -> None:
    grown = run("GrowMask", mask=dot(401), expand=expand, tapered_corners=True)

    assert (grown.values == (expand > 0)).all()
    assert (
        dot().values == run("GrowMask", mask=dot(), expand=0, tapered_corners=True).values
    ).all()


def test_threshold_mask_is_one_above_a_value() -> None:
    assert levels(run("ThresholdMask", mask=masks([0.4, 0.5, 0.6]), value=0.5)) == [[0, 0, 1]]


async def test_a_mask_is_shown_as_a_picture_of_a_temporary_file() -> None:
    class Desk:
        async def save(self, images: Images, **options: str) -> list[dict[str, str]]:
            return [{"filename": f"{images.pixels[0].max()}", **options}]

    shown = await NODES["MaskPreview"].run(Desk(), mask=dot())

    assert shown.output == {"images": [{"filename": "255", "kind": "temp", "prefix": "ComfyUI"}]}
