"""Nodes over latents: empty ones, batches, masks, sizes.

Their arrays stay with the models' hosts: batches are only taken apart and joined here, and what
changes a picture's size goes through its pixels.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from deployments.errors import InvalidRequest, UnsupportedField
from deployments.types import Latents
from router.apis.comfyui.drawing import Drawing
from router.apis.comfyui.node import Input, Node, Offer
from router.apis.comfyui.resampling import resize_images
from router.apis.comfyui.values import MAX_BATCH, Latent, Masks
from router.apis.comfyui.widgets import choice, count, mask, number, pixels, whole

_METHODS: Final = ("nearest-exact", "bilinear", "area", "bicubic", "bislerp")
#: Pixels are not vectors to be turned: bislerp is of latents alone.
_PIXEL_METHODS: Final = {"bislerp": "bicubic"}
#: Sides of latents of zeros are asked for in multiples of it.
_MULTIPLE: Final = 8
_MIN_SIDE: Final = 64


# -- latents of zeros ---------------------------------------------------------------------------


def empty_latent(*, width: int, height: int, batch_size: int = 1) -> tuple[Latent]:
    """Zeros: where a picture begins that is drawn from noise alone."""
    if batch_size > MAX_BATCH:
        raise InvalidRequest(f"{batch_size} pictures are too many; accepted: at most {MAX_BATCH}")
    return (Latent(pictures=(Latents(num_images=1, width=width, height=height),) * batch_size),)


def refuse_large_batch(offer: Offer, literals: Mapping[str, Any]) -> tuple[str, str] | None:  # noqa: ARG001
    if literals.get("batch_size", 1) > MAX_BATCH:
        return "batch_size", f"more than {MAX_BATCH} pictures at once are too many"
    return None


# -- masks and batches --------------------------------------------------------------------------


def set_noise_mask(*, samples: Latent, mask: Masks) -> tuple[Latent]:
    """The same latents, re-drawn under a mask alone."""
    return (replace(samples, mask=mask),)


def repeat_batch(*, samples: Latent, amount: int) -> tuple[Latent]:
    """The batch several times over, each picture with noise of its own."""
    if len(samples.pictures) * amount > MAX_BATCH:
        raise InvalidRequest(
            f"{len(samples.pictures)} x {amount} pictures are too many; "
            f"accepted: at most {MAX_BATCH}"
        )
    indices = samples.noise_indices
    if indices:
        span = max(indices) - min(indices) + 1
        indices = tuple(index + copy * span for copy in range(amount) for index in indices)
    return (
        replace(
            samples,
            pictures=samples.pictures * amount,
            noise_indices=indices,
            mask=_masks_of_batch(samples),
            source=samples.source * amount,
        ),
    )


def take_from_batch(*, samples: Latent, batch_index: int, length: int) -> tuple[Latent]:
    """Some pictures of a batch, in a row, with the noise that they had in it."""
    first = min(len(samples.pictures) - 1, batch_index)
    part = slice(first, first + length)
    masks = _masks_of_batch(samples)
    if masks is not None and len(masks.values) > 1:
        masks = Masks(values=masks.values[part])
    return (
        replace(
            samples,
            pictures=samples.pictures[part],
            noise_indices=samples.indices[part],
            mask=masks,
            source=samples.source[part],
        ),
    )


def _masks_of_batch(samples: Latent) -> Masks | None:
    """One mask for all of the batch, or one for each of its pictures."""
    if samples.mask is None or len(samples.mask.values) == 1:
        return samples.mask
    values = samples.mask.values
    return Masks(values=values[[k % len(values) for k in range(len(samples.pictures))]])


# -- sizes --------------------------------------------------------------------------------------


async def upscale(
    drawing: Drawing, *, samples: Latent, upscale_method: str, width: int, height: int, crop: str
) -> tuple[Latent]:
    """Latents of another size; a side of 0 follows from the other one."""
    if not width and not height:
        return (samples,)
    if not width:
        width = round(samples.width * height / samples.height)
    if not height:
        height = round(samples.height * width / samples.width)
    size = max(_MIN_SIDE, width), max(_MIN_SIDE, height)
    return (await _resized(drawing, samples, size, upscale_method, crop),)


async def upscale_by(
    drawing: Drawing, *, samples: Latent, upscale_method: str, scale_by: float
) -> tuple[Latent]:
    """Latents larger, or smaller, by a factor."""
    size = round(samples.width * scale_by), round(samples.height * scale_by)
    return (await _resized(drawing, samples, size, upscale_method, "disabled"),)


async def _resized(
    drawing: Drawing, samples: Latent, size: tuple[int, int], method: str, crop: str
) -> Latent:
    """By way of pixels: enlarged latents are no latents of an enlarged picture, which is why models
    draw them over so much; an enlarged picture's are."""
    multiple = drawing.card(samples.model).size_multiple if samples.model else _MULTIPLE
    width, height = (max(multiple, side // multiple * multiple) for side in size)
    if not samples.model:
        zeros = (Latents(num_images=1, width=width, height=height),) * len(samples.pictures)
        return replace(samples, pictures=zeros)
    if samples.is_noisy:
        raise UnsupportedField(
            "latents that still hold noise cannot be resized; "
            "accepted: those of a sampler that returns without leftover noise"
        )
    images = await drawing.decode(samples.model, samples.pictures)
    method = _PIXEL_METHODS.get(method, method)
    files = await asyncio.to_thread(
        lambda: resize_images(images, width, height, method, crop).encoded
    )
    return replace(samples, pictures=await drawing.encode(samples.model, files), source=())


_SAMPLES: Final = Input(name="samples", type="LATENT")
_METHOD: Final = choice("upscale_method", *_METHODS)

NODES: Final = (
    Node(
        class_type="EmptyLatentImage",
        run=empty_latent,
        inputs=(
            pixels("width", minimum=16, step=8),
            pixels("height", minimum=16, step=8),
            count("batch_size"),
        ),
        outputs=("LATENT",),
        category="latent",
        display_name="Empty Latent Image",
        description="Where pictures begin that are drawn from noise alone.",
        check=refuse_large_batch,
    ),
    Node(
        class_type="EmptySD3LatentImage",
        run=empty_latent,
        inputs=(
            pixels("width", 1024, minimum=16, step=16),
            pixels("height", 1024, minimum=16, step=16),
            count("batch_size"),
        ),
        outputs=("LATENT",),
        category="latent/sd3",
        display_name="EmptySD3LatentImage",
        check=refuse_large_batch,
        module="comfy_extras.nodes_sd3",
    ),
    Node(
        class_type="SetLatentNoiseMask",
        run=set_noise_mask,
        inputs=(_SAMPLES, mask()),
        outputs=("LATENT",),
        category="latent/inpaint",
        display_name="Set Latent Noise Mask",
    ),
    Node(
        class_type="LatentUpscale",
        run=upscale,
        inputs=(
            _SAMPLES,
            _METHOD,
            pixels("width", minimum=0, step=8),
            pixels("height", minimum=0, step=8),
            choice("crop", "disabled", "center"),
        ),
        outputs=("LATENT",),
        category="latent",
        display_name="Upscale Latent",
    ),
    Node(
        class_type="LatentUpscaleBy",
        run=upscale_by,
        inputs=(_SAMPLES, _METHOD, number("scale_by", 1.5, 0.01, 8.0)),
        outputs=("LATENT",),
        category="latent",
        display_name="Upscale Latent By",
    ),
    Node(
        class_type="RepeatLatentBatch",
        run=repeat_batch,
        inputs=(_SAMPLES, whole("amount", 1, 1, 64)),
        outputs=("LATENT",),
        category="latent/batch",
        display_name="Repeat Latent Batch",
    ),
    Node(
        class_type="LatentFromBatch",
        run=take_from_batch,
        inputs=(_SAMPLES, whole("batch_index", 0, 0, 63), whole("length", 1, 1, 64)),
        outputs=("LATENT",),
        category="latent/batch",
        display_name="Latent From Batch",
    ),
)
