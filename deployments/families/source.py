"""Source: an input picture as the denoiser's start, and the reader that makes one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from diffusers.image_processor import VaeImageProcessor

from deployments import pictures
from deployments.errors import InvalidImage, InvalidRequest
from deployments.families.frame import Box, Frame, redrawn_box

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image
    from torch import Tensor

    from deployments.types import GenerationRequest

#: An input that is kept around a re-drawn box may have so many times the most pixels drawn.
_FRAME_PIXELS = 4


@dataclass(frozen=True, slots=True)
class Source:
    """An input picture at the size of the output.

    Attributes:
        pixels: (1, 3, height, width), -1..1, on the CPU.
        mask: (1, 1, height, width), 0..1, 1 where the picture is re-drawn; None without a mask.
        natural: the pixels at the input's own size when latents are to be resized, else None.
        frame: the whole input when ``pixels`` are a box of it, else None.
    """

    pixels: Tensor
    mask: Tensor | None = None
    natural: Tensor | None = None
    frame: Frame | None = None

    @property
    def redrawn(self) -> Tensor:
        """The mask as the denoiser sees it: 0 or 1, cut at one half."""
        assert self.mask is not None
        return (self.mask >= 0.5).float()

    def composite(self, drawn: NDArray[np.float32]) -> NDArray[np.float32]:
        """The drawn pixels where the mask is white, the input's own elsewhere; 0..1 each.

        (height, width, 3) both; with a frame the result has the input's own size.
        """
        if self.frame is not None:
            return self.frame.filled(drawn)
        if self.mask is None:
            return drawn
        kept: NDArray[np.float32] = (self.pixels[0] * 0.5 + 0.5).permute(1, 2, 0).numpy()
        share: NDArray[np.float32] = self.mask[0].permute(1, 2, 0).numpy()
        return share * drawn + (1 - share) * kept


class SourceReader:
    """Decodes input pictures for a VAE.

    Args:
        factor: pixels of one latent position's side.
        max_pixels: of a picture that passes through the VAE at its own size.
    """

    def __init__(self, factor: int, max_pixels: int) -> None:
        self._factor = factor
        self._max_pixels = max_pixels
        self._pixels = VaeImageProcessor(vae_scale_factor=factor)
        self._masks = VaeImageProcessor(
            vae_scale_factor=factor, do_normalize=False, do_convert_grayscale=True
        )

    def read(self, request: GenerationRequest) -> Source:
        """The request's first input picture and its mask at the size of its params."""
        params = request.params
        assert params.width is not None
        assert params.height is not None
        picture = pictures.decode_image(request.images[0]).convert("RGB")
        mask = None if request.mask is None else pictures.decode_mask(request.mask, picture.size)
        frame = natural = None
        if mask is not None and request.mask_padding is not None:
            _limit(picture, _FRAME_PIXELS * self._max_pixels)
            box = redrawn_box(mask, request.mask_padding, params.width, params.height)
            self._limit_box(box)
            frame = Frame(picture, mask, box)
            picture, mask = frame.inside()
        elif request.is_latent_resize and picture.size != (params.width, params.height):
            _limit(picture, self._max_pixels)
            if min(picture.size) < self._factor:
                message = f"the input picture is {picture.width} by {picture.height}: too small"
                raise InvalidImage(message, param="images")
            natural = self._pixels.preprocess(picture)
        pixels = self._pixels.preprocess(picture, params.height, params.width)
        if mask is not None:
            mask = self._masks.preprocess(mask, params.height, params.width)
        return Source(pixels, mask, natural, frame)

    def _limit_box(self, box: Box) -> None:
        """A box of another shape than the input may reach far beyond it."""
        width, height = box[2] - box[0], box[3] - box[1]
        if width * height > _FRAME_PIXELS * self._max_pixels:
            message = (
                f"the masked part, in the shape asked for, is {width} by {height}; "
                f"it may have {_FRAME_PIXELS * self._max_pixels} pixels at most"
            )
            raise InvalidRequest(message, param="mask")


def _limit(picture: Image.Image, max_pixels: int) -> None:
    if picture.width * picture.height > max_pixels:
        message = (
            f"the input picture is {picture.width} by {picture.height}; "
            f"at its own size it may have {max_pixels} pixels at most"
        )
        raise InvalidImage(message, param="images")
