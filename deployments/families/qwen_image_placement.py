"""Placement: where a Qwen-Image's modules wait and compute, and what they take of a device."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import torch
from diffusers.hooks import apply_group_offloading

from deployments.families.checkpoint import num_bytes
from deployments.families.offload import Offload, device_bytes

if TYPE_CHECKING:
    from deployments.config import ModelConfig

#: The modules of a pipeline, and which of their own modules a call of each begins with.
ENTRANCES: Final = {
    "text_encoder": ("",),
    "transformer": ("",),
    "vae": ("encoder", "decoder", "quant_conv", "post_quant_conv"),
}


@dataclass(frozen=True, slots=True)
class Placement:
    """What became of the modules.

    Attributes:
        devices: by the component's name, where it computes.
        num_bytes: the most that they take of one device at once.
        waiting_bytes: of the host's memory, where they wait for their turn on a GPU.
    """

    devices: dict[str, torch.device]
    num_bytes: int
    waiting_bytes: int = 0


def place(pipeline: Any, config: ModelConfig, device: torch.device, device_map: str) -> Placement:
    """Put the modules where they belong. Raises ``ValueError`` when the GPUs have no room."""
    parts = {name: getattr(pipeline, name) for name in ENTRANCES}
    sizes = {name: num_bytes([part]) for name, part in parts.items()}
    total = sum(sizes.values())
    if device_map == "balanced":
        devices = spread(sizes, _free_bytes())
        for name, part in parts.items():
            part.to(devices[name])
        return Placement(devices, max(_held(sizes, devices).values()))
    devices = dict.fromkeys(parts, device)
    if config.offload != "none":
        # NOTE: asked before, since layers that wait elsewhere leave nothing behind to be measured.
        on_device = device_bytes(list(parts.values()), config.offload)
        _offload(parts, config.offload, device)
        # A CPU has but one memory, which they are in all the time.
        is_cpu = device.type == "cpu"
        return Placement(devices, total) if is_cpu else Placement(devices, on_device, total)
    for name, part in parts.items():
        if not (config.quantization == "nf4" and name != "vae"):
            part.to(device)  # four-bit modules are there already
    return Placement(devices, total)


def spread(
    sizes: Mapping[str, int], free_bytes: Mapping[torch.device, int]
) -> dict[str, torch.device]:
    """A device for each module: the largest first, each where most is left.

    Raises ``ValueError`` for one that no device has room for; modules are not cut in pieces.
    """
    left, devices = dict(free_bytes), {}
    for name in sorted(sizes, key=lambda name: sizes[name], reverse=True):
        device = max(left, key=lambda device: left[device])
        if sizes[name] > left[device]:
            raise ValueError(
                f"device_map 'balanced': {name} takes {sizes[name] / 2**30:.1f} GiB, and of the "
                f"GPUs' memory at most {left[device] / 2**30:.1f} GiB are left on one"
            )
        devices[name] = device
        left[device] -= sizes[name]
    return devices


def _held(sizes: Mapping[str, int], devices: Mapping[str, torch.device]) -> dict[str, int]:
    """Bytes of the modules on each device."""
    held: dict[str, int] = {}
    for name, device in devices.items():
        held[str(device)] = held.get(str(device), 0) + sizes[name]
    return held


def _offload(parts: Mapping[str, Any], how: str, device: torch.device) -> None:
    """Let modules, or with ``group`` their layers, come to the device when they are called."""
    if how == "model":
        offload = Offload(device)
        for name, part in parts.items():
            offload.add(part, [part.get_submodule(entrance) for entrance in ENTRANCES[name]])
        return
    for part in parts.values():
        apply_group_offloading(
            part,
            onload_device=device,
            offload_device=torch.device("cpu"),
            offload_type="leaf_level",
            use_stream=device.type == "cuda",
        )


def _free_bytes() -> dict[torch.device, int]:
    devices = [torch.device("cuda", index) for index in range(torch.cuda.device_count())]
    return {device: torch.cuda.mem_get_info(device)[0] for device in devices}
