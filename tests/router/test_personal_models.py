"""Owners' weights behind the APIs: what is swept, and what a host that is not there means."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator

import pytest

from deployments.errors import ModelNotReady
from deployments.types import CheckedWeights, WeightsSource
from router.fake_models import FakeModels, fake_card
from router.models import WorkerUnavailable
from router.personal_models import GRACE_SECONDS, PersonalModels
from router.store.images import MemoryImageStore
from router.store.personal_models import MemoryPersonalModelStore
from tests.router.store.conftest import Clock


class SharedImages(MemoryImageStore):
    """A store whose bytes others can read."""

    def url(self, key: str) -> str:
        return f"s3://bucket/{key}"


class Busy(FakeModels):
    """No replica has time to look at weights."""

    async def check_weights(
        self, model: str, source: WeightsSource, max_bytes: int
    ) -> CheckedWeights:
        raise WorkerUnavailable("all are busy")


def personal(models: FakeModels, images: MemoryImageStore, clock: Clock) -> PersonalModels:
    store = MemoryPersonalModelStore()
    return PersonalModels(store=store, images=images, models=models, clock=clock)


def file() -> io.BytesIO:
    return io.BytesIO((2).to_bytes(8, "little") + b"{}")


async def kept(images: MemoryImageStore) -> set[str]:
    listed: AsyncIterator = images.list()  # type: ignore[type-arg]
    return {one.key async for one in listed}


async def test_sweep_removes_uploads_without_a_row_after_a_while() -> None:
    clock = Clock()
    images = SharedImages(clock=clock)
    own = personal(FakeModels(fake_card("sd")), images, clock)
    first = await own.put_upload(file(), owner="ann", name="sks", base="sd")
    second = await own.put_upload(file(), owner="ann", name="sks", base="sd")
    await images.put("inputs/other", b"")
    await own.sweep()
    assert await kept(images) == {first.key, second.key, "inputs/other"}
    clock.now += GRACE_SECONDS + 1
    await own.sweep()
    assert await kept(images) == {second.key, "inputs/other"}


async def test_upload_that_nobody_can_check_is_to_be_tried_again() -> None:
    clock = Clock()
    images = SharedImages(clock=clock)
    own = personal(Busy(fake_card("sd")), images, clock)
    with pytest.raises(ModelNotReady, match="cannot check the weights just now"):
        await own.put_upload(file(), owner="ann", name="sks", base="sd")
    assert await kept(images) == set()


async def test_name_is_found_for_its_base_alone() -> None:
    clock = Clock()
    sd, other = fake_card("sd", aliases=("sd15",)), fake_card("other")
    own = personal(FakeModels(sd, other), SharedImages(clock=clock), clock)
    model = await own.put_upload(file(), owner="ann", name="sks", base="sd15")
    assert model.base == "sd"
    assert await own.find("sks", sd, owner="ann") == model
    assert await own.find("sks", other, owner="ann") is None
    assert await own.find("sks", sd, owner="bob") is None


async def test_sweeping_goes_on_when_the_store_fails(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(SharedImages):
        def list(self, prefix: str = "") -> AsyncIterator:  # type: ignore[type-arg, override]
            raise RuntimeError(prefix)

    clock = Clock()
    own = personal(FakeModels(), Broken(clock=clock), clock)
    task = asyncio.create_task(own.run(0.001))
    await asyncio.sleep(0.05)
    assert not task.done()
    task.cancel()
    assert "trying again" in caplog.text
