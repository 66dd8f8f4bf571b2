"""What deployments have of each device's memory, summed."""

from __future__ import annotations

from dataclasses import replace

from deployments.types import Device, Holding, Load
from router.models import Application, Deployment, Replica
from router.overview import Part, needed_bytes, overview

GPU = Device(node="one", id="GPU-1", name="H200", total_bytes=1000)
CPU = Device(node="one", id="cpu", name="CPU", total_bytes=5000)
LOAD = Load(
    num_running=1,
    num_waiting=0,
    work=1.0,
    weight_bytes=300,
    lora_bytes=30,
    work_bytes=50,
    picture_bytes=40,
    memory_bytes=400,
    holdings=(
        Holding(name="", kind="base", num_bytes=100),
        Holding(name="ann", kind="personal", num_bytes=100, is_used=True),
        Holding(name="bob", kind="personal", num_bytes=100),
        Holding(name="ink", kind="lora", num_bytes=20, is_used=True),
        Holding(name="wool", kind="lora", num_bytes=10),
    ),
    device=GPU,
)


def application(name: str, *loads: Load | None) -> Application:
    replicas = tuple(Replica(state="RUNNING", load=load) for load in loads)
    host = Deployment(name="ModelHost", status="HEALTHY", replicas=replicas)
    return Application(id=name, status="RUNNING", deployments=(host,))


def test_what_is_needed_is_all_but_the_idle_and_work_on_a_picture_at_least() -> None:
    assert needed_bytes(LOAD) == 100 + 100 + 20 + 50
    assert needed_bytes(replace(LOAD, work_bytes=0)) == 100 + 100 + 20 + 40


def test_devices_have_the_sums_of_all_replicas_on_them() -> None:
    other = replace(LOAD, device=replace(GPU, node="two"))
    seen = overview([application("a", LOAD, other, None), application("b", LOAD)])
    first, second = seen.devices
    assert (first.device.node, second.device.node) == ("one", "two")
    part = Part(application="a", share_bytes=400, held_bytes=330, needed_bytes=270)
    assert first.parts == (part, replace(part, application="b"))
    assert (first.share_bytes, first.held_bytes, first.needed_bytes) == (800, 660, 540)
    assert second.parts == (part,)
    assert seen.warnings == ()
    assert [one.id for one in seen.applications] == ["a", "b"]


def test_too_much_for_a_device_is_warned_of() -> None:
    seen = overview([application(name, LOAD) for name in "abc"])
    [use] = seen.devices
    assert use.share_bytes == 1200
    assert seen.warnings == (
        "H200 of one: the shares of its deployments are 1200 bytes together, "
        "200 bytes more than it has",
    )
    full = replace(LOAD, work_bytes=900, memory_bytes=None)
    [warning] = overview([application("a", full)]).warnings
    assert "weights, LoRAs in use and the work on pictures take 1120 bytes" in warning
    huge = replace(LOAD, memory_bytes=3 * 2**30)
    [warning] = overview([application("a", huge)]).warnings
    assert "are 3.00 GiB together" in warning
    unknown = replace(LOAD, device=replace(GPU, total_bytes=None))
    assert overview([application(name, unknown) for name in "abc"]).warnings == ()


def test_what_is_kept_for_a_gpu_counts_for_its_node() -> None:
    kept = replace(LOAD, host_bytes=70)
    on_cpu = replace(LOAD, device=CPU)
    seen = overview([application("a", kept), application("b", on_cpu)])
    uses = {use.device.id: use for use in seen.devices}
    assert uses["cpu"].device == CPU
    assert uses["cpu"].held_bytes == 70 + 330
    assert uses["cpu"].needed_bytes == 70 + 270


def test_models_elsewhere_are_on_no_device() -> None:
    remote = Load(num_running=0, num_waiting=0, work=0.0)
    assert overview([application("gemini", remote)]).devices == ()
