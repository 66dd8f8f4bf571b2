"""Offload: of several modules that take turns, the one that is on the device."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

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
