"""Scales fresh weights so that untrained pictures have contrast and differ between prompts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, Final

import torch
from torch import Tensor

#: Pixels of the pictures that are measured; small, since statistics barely depend on it.
_SIZE: Final = 128

#: Spread between prompts of what one cross-attention adds; the stream it adds to is about as wide.
_TEXT_SPREAD: Final = 4.0


@torch.no_grad()
def calibrate(
    pipeline: Any, prompts: Sequence[str], *, with_decoder: bool = True, **call: Any
) -> None:
    """Scale cross-attention, the UNet's last layer and the VAE decoder's, in this order.

    Args:
        pipeline: a text-to-image pipeline of float32 modules; changed in place.
        prompts: what to measure with.
        with_decoder: False leaves the VAE as it is.
        call: how pictures are usually asked of it (``num_inference_steps``, ``guidance_scale``).
    """
    latents = _sampler(pipeline, prompts, call)
    once = partial(latents, num_inference_steps=1, guidance_scale=0.0)
    for layer in _cross_attentions(pipeline.unet):
        unify_across_prompts(layer, once)
    # Three times the noise it is asked for, so that what the UNet says outweighs the first noise.
    unify(pipeline.unet.conv_out, once, spread=3.0)
    if not with_decoder:
        return
    drawn = latents() / pipeline.vae.config.scaling_factor
    # A spread of 0.5 around 0 fills -1..1 with few pixels cut off.
    unify(pipeline.vae.decoder.conv_out, lambda: pipeline.vae.decode(drawn), spread=0.5)


def _sampler(pipeline: Any, prompts: Sequence[str], call: dict[str, Any]) -> Callable[..., Tensor]:
    """Final latents of all prompts, from the same noise at each call."""

    def sample(**changes: Any) -> Tensor:
        generators = [torch.Generator().manual_seed(7) for _ in prompts]
        options = {"height": _SIZE, "width": _SIZE, "output_type": "latent", **call, **changes}
        latents: Tensor = pipeline(list(prompts), generator=generators, **options).images
        return latents

    return sample


def _cross_attentions(unet: Any) -> Iterator[Any]:
    """The output layers of cross-attention, in the order they run."""
    blocks = (*unet.down_blocks, unet.mid_block, *unet.up_blocks)
    for block in blocks:
        for name, module in block.named_modules():
            if name.endswith("attn2.to_out.0"):
                yield module


def unify_across_prompts(layer: Any, run: Callable[[], object]) -> None:
    """Make what a linear layer adds zero on average and as loud as the rest from prompt to prompt.

    Fresh encoders say nearly the same of all prompts: without this, so does the UNet.
    """
    seen = _output(layer, run).mean(dim=1)  # over positions
    mean, spread = seen.mean(dim=0), (seen - seen.mean(dim=0)).square().mean().sqrt()
    layer.weight.mul_(_TEXT_SPREAD / spread)
    layer.bias.sub_(mean).mul_(_TEXT_SPREAD / spread)


def unify(layer: Any, run: Callable[[], object], spread: float = 1.0, axis: int = 1) -> None:
    """Make each output channel of a layer zero on average and of the given spread.

    ``axis`` is that of the channels: 1 for convolutions, -1 for linear layers.
    """
    seen = _output(layer, run).movedim(axis, 0).flatten(1)
    scale = spread / seen.std(dim=1)
    layer.weight.mul_(scale.view(-1, *[1] * (layer.weight.ndim - 1)))
    layer.bias.sub_(seen.mean(dim=1)).mul_(scale)


def _output(layer: Any, run: Callable[[], object]) -> Tensor:
    """What a layer returned when ``run`` last called it."""
    seen: list[Tensor] = []
    hook = layer.register_forward_hook(lambda _layer, _inputs, output: seen.append(output))
    run()
    hook.remove()
    return seen[-1]
