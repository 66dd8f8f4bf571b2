"""Offload: of several modules that take turns, the one that is on the device."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from deployments.families.checkpoint import num_bytes, tensor_bytes

if TYPE_CHECKING:
    import torch


class Offload:
    """Keeps modules on the CPU and brings one to the device when it is called.

    One stays until another is called: calls of the same module in a row move nothing.
    ``present`` is the one that is there; None before the first call.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.present: Any = None

    def add(self, module: Any, entrances: Iterable[Any]) -> None:
        """Take charge of a module; a call of it begins with a call of one of its ``entrances``."""
        module.to("cpu")

        def bring(*_: object) -> None:
            self._bring(module)

        for entrance in entrances:
            entrance.register_forward_pre_hook(bring)

    def _bring(self, module: Any) -> None:
        if self.present is module:
            return
        if self.present is not None:
            self.present.to("cpu")
        module.to(self._device)
        self.present = module


def device_bytes(modules: Sequence[Any], offload: str) -> int:
    """Bytes that modules have on their device at once: all of them, the largest (``model``), or
    with ``group`` the largest layer and the one that is brought meanwhile."""
    if offload == "model":
        return max(num_bytes([module]) for module in modules)
    if offload == "group":
        return 2 * max(_layer_bytes(layer) for module in modules for layer in module.modules())
    return num_bytes(modules)


def _layer_bytes(layer: Any) -> int:
    """Of a layer's own tensors, without those of the layers in it."""
    own = [*layer.parameters(recurse=False), *layer.buffers(recurse=False)]
    return sum(map(tensor_bytes, own))
