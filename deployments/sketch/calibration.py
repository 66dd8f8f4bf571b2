"""Scales fresh weights so that untrained pictures have contrast and differ between prompts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from torch import Tensor

#: Spread between prompts of what one cross-attention adds; the stream it adds to is about as wide.
_TEXT_SPREAD: Final = 4.0


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
