"""References: the pictures that an edit looks at, as Qwen2.5-VL and the denoiser see them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from diffusers.image_processor import VaeImageProcessor

from deployments import pictures
from deployments.errors import InvalidImage

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

#: Pixels that Qwen2.5-VL sees of a reference (diffusers' ``CONDITION_IMAGE_SIZE``).
SEEN_PIXELS: Final = 384 * 384
#: Sides of references are multiples of this many pixels.
_MULTIPLE: Final = 32
#: The largest logarithm of the ratio of two shapes that are taken for the same, the one stretched
#: into the other.
_SAME_SHAPE: Final = 0.12
#: A longer and thinner picture would have a side of nearly nothing.
_MAX_RATIO: Final = 100


@dataclass(frozen=True, slots=True)
class Reference:
    """One input picture of an edit.

    Attributes:
        seen: what the language model looks at.
        pixels: (1, 3, height, width), -1..1, what the denoiser looks at once it is encoded.
    """

    seen: Image.Image
    pixels: Tensor


class ReferenceReader:
    """Decodes references.

    Args:
        factor: pixels of one of the denoiser's tokens' side.
        num_pixels: that the denoiser sees of a reference, about, whatever the output's size; with
            0 as many as of the output, at the same places where their shapes are nearly the same.
    """

    def __init__(self, factor: int, num_pixels: int) -> None:
        self._num_pixels = num_pixels
        self._processor = VaeImageProcessor(vae_scale_factor=factor)

    def read(self, data: bytes, output: tuple[int, int]) -> Reference:
        """One encoded picture, for an output of this width and height.

        Raises ``InvalidImage`` when it cannot be used.
        """
        image = pictures.decode_image(data).convert("RGB")
        ratio = image.width / image.height
        if not 1 / _MAX_RATIO <= ratio <= _MAX_RATIO:
            message = (
                f"the input picture is {image.width} by {image.height}; "
                f"one side may be at most {_MAX_RATIO} times the other"
            )
            raise InvalidImage(message, param="images")
        seen_width, seen_height = size_of(SEEN_PIXELS, ratio)
        width, height = self._size(ratio, output)
        return Reference(
            seen=self._processor.resize(image, seen_height, seen_width),
            pixels=self._processor.preprocess(image, height, width),
        )

    def _size(self, ratio: float, output: tuple[int, int]) -> tuple[int, int]:
        if self._num_pixels:
            return size_of(self._num_pixels, ratio)
        width, height = output
        if abs(math.log(ratio * height / width)) < _SAME_SHAPE:
            return output
        return size_of(width * height, ratio)


def size_of(num_pixels: int, ratio: float) -> tuple[int, int]:
    """Width and height of a shape with about so many pixels (diffusers' ``calculate_dimensions``).

    Sides are rounded to multiples of 32, at least 32 where the pipelines' would be 0.
    """
    width = math.sqrt(num_pixels * ratio)
    height = width / ratio
    sides = (round(side / _MULTIPLE) * _MULTIPLE for side in (width, height))
    width, height = (max(side, _MULTIPLE) for side in sides)
    return width, height
