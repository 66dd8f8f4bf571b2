"""Nodes between pictures and latents: a model's autoencoder, at its host."""

from __future__ import annotations

import asyncio
import math
from dataclasses import replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from router.apis.comfyui.drawing import Drawing
from router.apis.comfyui.node import Input, Node
from router.apis.comfyui.nodes.conditioning import without_alpha
from router.apis.comfyui.resampling import resize_masks
from router.apis.comfyui.values import Conditioning, Images, Latent, Masks, Vae
from router.apis.comfyui.widgets import flag, image, mask, whole


async def encode(drawing: Drawing, *, pixels: Images, vae: Vae, **_: int) -> tuple[Latent]:
    """Pictures as latents; edges beyond a multiple of the model's are cut off on all sides.

    Sizes of tiles are the host's to choose.
    """
    return (await encode_pictures(drawing, pixels, vae.model),)


async def encode_for_inpaint(
    drawing: Drawing, *, pixels: Images, vae: Vae, mask: Masks, grow_mask_by: int = 6
) -> tuple[Latent]:
    """Pictures, grey where they are to be re-drawn, and the mask, grown by some pixels."""
    covered, grown = await asyncio.to_thread(_cover, pixels, mask, grow_mask_by)
    return (replace(await encode_pictures(drawing, covered, vae.model), mask=grown),)


async def condition_inpaint(
    drawing: Drawing,
    *,
    positive: Conditioning,
    negative: Conditioning,
    pixels: Images,
    vae: Vae,
    mask: Masks,
    noise_mask: bool = True,
) -> tuple[Conditioning, Conditioning, Latent]:
    """Pictures as latents that are re-drawn under a mask. No model here is told of the mask in
    another way, so the texts stay as they are."""
    latent = await encode_pictures(drawing, pixels, vae.model)
    return positive, negative, replace(latent, mask=mask if noise_mask else None)


async def decode(drawing: Drawing, *, samples: Latent, vae: Vae, **_: int) -> tuple[Images]:
    """Latents as pictures. Sizes of tiles are the host's to choose."""
    return (await drawing.decode(vae.model, samples.pictures),)


async def encode_pictures(drawing: Drawing, images: Images, model: str) -> Latent:
    """Latents of pictures, cut to the model's multiple."""
    multiple = drawing.card(model).size_multiple
    files = await asyncio.to_thread(lambda: _cut(without_alpha(images), multiple).encoded)
    return Latent(pictures=await drawing.encode(model, files), model=model)


def _cut(images: Images, multiple: int) -> Images:
    """The middle of the pictures whose sides are multiples."""
    x, y = images.width % multiple, images.height % multiple
    if (not x and not y) or images.width < multiple or images.height < multiple:
        return images
    left, top = x // 2, y // 2
    right, bottom = left + images.width - x, top + images.height - y
    return Images(pixels=[one[top:bottom, left:right] for one in images.pixels])


def _cover(images: Images, masks: Masks, grow_by: int) -> tuple[Images, Masks]:
    fitted = resize_masks(masks.values, images.width, images.height).round()
    covered = [
        np.where(fitted[k % len(fitted), ..., None] > 0, np.uint8(128), one[..., :3])
        for k, one in enumerate(images.pixels)
    ]
    grown = np.stack([_grow(one, grow_by) for one in fitted])
    return Images(pixels=covered), Masks(values=grown)


def _grow(mask: NDArray[np.float32], by: int) -> NDArray[np.float32]:
    """The largest value in a square of ``by`` pixels around each."""
    before = math.ceil((by - 1) / 2)
    for axis in (0, 1):
        length = mask.shape[axis]
        around = [(0, 0), (0, 0)]
        around[axis] = (before, by)
        padded = np.moveaxis(np.pad(mask, around), axis, 0)
        grown = padded[:length].copy()
        for k in range(1, by):
            np.maximum(grown, padded[k : k + length], out=grown)
        mask = np.moveaxis(grown, 0, axis)
    return mask


_SAMPLES: Final = Input(name="samples", type="LATENT")
_VAE: Final = Input(name="vae", type="VAE")
_TILES: Final = (
    whole("tile_size", 512, 64, 4096, step=32),
    whole("overlap", 64, 0, 4096, step=32),
    replace(whole("temporal_size", 64, 8, 4096, step=4), is_optional=True),
    replace(whole("temporal_overlap", 8, 4, 4096, step=4), is_optional=True),
)

NODES: Final = (
    Node(
        class_type="VAEDecode",
        run=decode,
        inputs=(_SAMPLES, _VAE),
        outputs=("IMAGE",),
        category="latent",
        display_name="VAE Decode",
        description="Latents as pictures.",
    ),
    Node(
        class_type="VAEDecodeTiled",
        run=decode,
        inputs=(_SAMPLES, _VAE, *_TILES),
        outputs=("IMAGE",),
        category="_for_testing",
        display_name="VAE Decode (Tiled)",
    ),
    Node(
        class_type="VAEEncode",
        run=encode,
        inputs=(image("pixels"), _VAE),
        outputs=("LATENT",),
        category="latent",
        display_name="VAE Encode",
    ),
    Node(
        class_type="VAEEncodeTiled",
        run=encode,
        inputs=(image("pixels"), _VAE, *_TILES),
        outputs=("LATENT",),
        category="_for_testing",
        display_name="VAE Encode (Tiled)",
    ),
    Node(
        class_type="VAEEncodeForInpaint",
        run=encode_for_inpaint,
        inputs=(image("pixels"), _VAE, mask(), whole("grow_mask_by", 6, 0, 64, step=1)),
        outputs=("LATENT",),
        category="latent/inpaint",
        display_name="VAE Encode (for Inpainting)",
    ),
    Node(
        class_type="InpaintModelConditioning",
        run=condition_inpaint,
        inputs=(
            Input(name="positive", type="CONDITIONING"),
            Input(name="negative", type="CONDITIONING"),
            _VAE,
            image("pixels"),
            mask(),
            flag("noise_mask", True),
        ),
        outputs=("CONDITIONING", "CONDITIONING", "LATENT"),
        output_names=("positive", "negative", "latent"),
        category="conditioning/inpaint",
        display_name="InpaintModelConditioning",
    ),
)
