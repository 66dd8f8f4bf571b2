"""Overview: all that the cluster runs, and what it holds of each device's memory together. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from deployments.types import Device, Load
from router.models import Application


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """What one replica has of a device's memory.

    Attributes:
        share_bytes: what is reserved for it; None is nothing.
        held_bytes: weights and LoRAs, in use and idle.
        needed_bytes: what cannot leave, with what its work takes, and at least a picture of the
            model's default size.
    """

    application: str
    share_bytes: int | None
    held_bytes: int
    needed_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceUse:
    """A device, and what all deployments have of its memory."""

    device: Device
    parts: tuple[Part, ...]

    @property
    def share_bytes(self) -> int:
        """All that is reserved."""
        return sum(part.share_bytes or 0 for part in self.parts)

    @property
    def held_bytes(self) -> int:
        """All weights and LoRAs."""
        return sum(part.held_bytes for part in self.parts)

    @property
    def needed_bytes(self) -> int:
        """All that cannot leave, with what work takes."""
        return sum(part.needed_bytes for part in self.parts)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What is too much for the device, as sentences."""
        total = self.device.total_bytes
        if total is None:
            return ()
        sums = {
            "the shares of its deployments are": self.share_bytes,
            "weights, LoRAs in use and the work on pictures take": self.needed_bytes,
            "weights and LoRAs take": self.held_bytes,
        }
        name = f"{self.device.name} of {self.device.node}"
        excesses = {what: taken for what, taken in sums.items() if taken > total}
        return tuple(
            f"{name}: {what} {_told(taken)} together, {_told(taken - total)} more than it has"
            for what, taken in excesses.items()
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Overview:
    """What the cluster runs, and on which devices."""

    applications: tuple[Application, ...]
    devices: tuple[DeviceUse, ...]

    @property
    def warnings(self) -> tuple[str, ...]:
        """Of all devices."""
        return tuple(warning for use in self.devices for warning in use.warnings)


def _told(num_bytes: int) -> str:
    """Bytes as people read them."""
    return f"{num_bytes / 2**30:.2f} GiB" if num_bytes >= 2**30 else f"{num_bytes} bytes"


def overview(applications: Sequence[Application]) -> Overview:
    """The sums over what every replica told."""
    devices: dict[tuple[str, str], Device] = {}
    parts: dict[tuple[str, str], list[Part]] = {}
    for application, load in _loads(applications):
        for device, part in _parts(application, load):
            place = device.node, device.id
            if place not in devices or devices[place].total_bytes is None:
                devices[place] = device
            parts.setdefault(place, []).append(part)
    return Overview(
        applications=tuple(applications),
        devices=tuple(
            DeviceUse(device=devices[place], parts=tuple(parts[place])) for place in sorted(devices)
        ),
    )


def _loads(applications: Iterable[Application]) -> Iterable[tuple[str, Load]]:
    for application in applications:
        for deployment in application.deployments:
            for replica in deployment.replicas:
                if replica.load is not None:
                    yield application.id, replica.load


def _parts(application: str, load: Load) -> Iterable[tuple[Device, Part]]:
    """What a replica has of its device, and of its node's own memory beside a GPU."""
    if load.device is None:
        return
    yield (
        load.device,
        Part(
            application=application,
            share_bytes=load.memory_bytes,
            held_bytes=load.weight_bytes + load.lora_bytes,
            needed_bytes=needed_bytes(load),
        ),
    )
    if load.host_bytes:
        yield (
            Device(node=load.device.node, id="cpu", name="CPU"),
            Part(
                application=application,
                share_bytes=None,
                held_bytes=load.host_bytes,
                needed_bytes=load.host_bytes,
            ),
        )


def needed_bytes(load: Load) -> int:
    """What of a replica's memory cannot leave, with what its work takes."""
    idle = sum(
        holding.num_bytes
        for holding in load.holdings
        if holding.kind != "base" and not holding.is_used
    )
    work = max(load.work_bytes, load.picture_bytes)
    return load.weight_bytes + load.lora_bytes - idle + work
