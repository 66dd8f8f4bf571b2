"""What the WebSockets carry, to whom and in which order, wherever the prompt runs."""

from __future__ import annotations

import asyncio
import json
import struct
from typing import Any

import pytest
from websockets.exceptions import InvalidStatus

from deployments.errors import StorageFailure
from router.job import JobStatus
from router.store.memory_jobs import MemoryJobStore
from tests.router.apis.comfyui.stage import Stage, names, remaining, staged


async def test_first_frame_is_the_status_with_the_clients_own_id() -> None:
    async with staged() as stage, stage.client("me") as client:
        assert await client.next() == (
            "status",
            {"status": {"exec_info": {"queue_remaining": 0}}, "sid": "me"},
        )


async def test_a_client_without_id_is_given_one() -> None:
    async with staged() as stage, stage.client() as client:
        _, data = await client.next()
        assert len(data["sid"]) == 32


async def test_a_prompts_frames_come_in_order_and_both_endings_last() -> None:
    async with staged() as stage, stage.client("me") as client:
        await client.next()
        await stage.submit("p1", client_id="me")
        assert remaining(await client.next()) == 1
        worker = await stage.begin()
        await worker.start()
        frames = await client.until("execution_cached")
        await worker.tell("progress_state", nodes={})
        await worker.tell("executing", node="9", display_node="9")
        await worker.tell("executed", node="9", display_node="9", output={"images": []})
        await worker.end()
        frames += await client.to_the_end("p1")
        assert names(frames) == [
            "status",
            "execution_start",
            "execution_cached",
            "progress_state",
            "executing",
            "executed",
            "execution_success",
            "status",
            "executing",
        ]
        assert [remaining(frame) for frame in frames if frame[0] == "status"] == [1, 0]
        assert frames[-1] == ("executing", {"node": None, "prompt_id": "p1"})
        await client.hears_nothing()


async def test_the_history_can_be_read_before_the_ending_is_told() -> None:
    async with staged() as stage, stage.client("me") as client:
        await client.next()
        await stage.submit("p1", client_id="me")
        worker = await stage.begin()
        await worker.start()
        await client.until("execution_cached")
        await worker.end()
        await client.until("execution_success")
        job = await stage.service.named("p1", owner="default", api="comfyui")
        assert job.status is JobStatus.COMPLETED


@pytest.mark.parametrize(
    ("ending", "status"),
    [("execution_error", JobStatus.FAILED), ("execution_interrupted", JobStatus.CANCELLED)],
)
async def test_failures_and_interruptions_end_both_ways(ending: str, status: JobStatus) -> None:
    async with staged() as stage, stage.client("me") as client:
        await client.next()
        await stage.submit("p1", client_id="me")
        worker = await stage.begin()
        await worker.start()
        await worker.end(ending, status=status, node_id="9", node_type="SaveImage")
        frames = await client.to_the_end("p1")
        assert names(frames[-3:]) == [ending, "status", "executing"]
        assert frames[-3][1]["node_id"] == "9"


async def test_a_prompt_that_ends_before_its_script_begins_still_has_a_beginning() -> None:
    async with staged() as stage, stage.client("me") as client:
        await client.next()
        job = await stage.submit("p1", client_id="me")
        await stage.begin()
        await stage.service.cancel(job.id, owner="default")
        frames = await client.to_the_end("p1")
        assert names(frames)[-5:] == [
            "execution_start",
            "execution_cached",
            "execution_interrupted",
            "status",
            "executing",
        ]


async def test_a_prompt_that_leaves_the_queue_unstarted_changes_the_status_alone() -> None:
    async with staged() as stage, stage.client("me") as client:
        await client.next()
        job = await stage.submit("p1", client_id="me")
        assert remaining(await client.next()) == 1
        stage.live.tell(await stage.service.cancel(job.id, owner="default"))
        assert remaining(await client.next()) == 0
        await client.hears_nothing()


async def test_frames_are_their_clients_alone_and_the_status_everyones() -> None:
    async with staged() as stage, stage.client("a") as mine, stage.client("b") as other:
        await mine.next()
        await other.next()
        await stage.submit("p1", client_id="a")
        worker = await stage.begin()
        await worker.start()
        await mine.until("execution_cached")
        await worker.tell("executing", node="9", display_node="9")
        await worker.end()
        await mine.to_the_end("p1")
        frames = [await other.next() for _ in range(3)]
        assert [remaining(frame) for frame in frames] == [1, 1, 0]
        await other.hears_nothing()


async def test_another_owner_hears_nothing_even_under_the_same_client_id() -> None:
    async with (
        staged() as stage,
        stage.client("me", owner="ann") as ann,
        stage.client("me", owner="bob") as bob,
    ):
        await ann.next()
        await bob.next()
        await stage.submit("p1", client_id="me", owner="ann")
        worker = await stage.begin()
        await worker.start()
        await worker.end()
        await ann.to_the_end("p1")
        await bob.hears_nothing()


async def test_without_a_client_id_everybody_hears_the_progress_and_nothing_else() -> None:
    async with staged() as stage, stage.client("a") as a, stage.client("b") as b:
        await a.next()
        await b.next()
        await stage.submit("p1")
        worker = await stage.begin()
        await worker.start()
        await worker.tell("executing", node="9", display_node="9")
        await worker.tell("progress_state", nodes={})
        frames = await a.until("progress_state")
        await worker.tell("progress", value=1, max=2, node="9")
        await worker.end()
        frames += [await a.next() for _ in range(2)]
        for heard in (frames, [await b.next() for _ in range(5)]):
            assert names(heard) == ["status", "status", "progress_state", "progress", "status"]
        for client in (a, b):
            await client.hears_nothing(0.2)


async def test_the_socket_may_be_on_one_gateway_and_the_prompt_on_another() -> None:
    jobs = MemoryJobStore()
    async with (
        staged(jobs=jobs) as here,
        staged(jobs=jobs) as there,
        here.client("me") as client,
    ):
        await client.next()
        await there.submit("p1", client_id="me")
        assert remaining(await client.next()) == 1
        worker = await there.begin()
        await worker.start()
        frames = await client.until("execution_cached")
        await worker.tell("executing", node="9", display_node="9")
        await worker.end()
        frames += await client.to_the_end("p1")
        assert names(frames) == [
            "status",
            "execution_start",
            "execution_cached",
            "executing",
            "execution_success",
            "status",
            "executing",
        ]
        await client.hears_nothing()


async def test_a_prompt_that_runs_between_two_looks_is_told_whole() -> None:
    jobs = MemoryJobStore()
    async with (
        staged(jobs=jobs) as here,
        staged(jobs=jobs) as there,
        here.client("me") as client,
    ):
        await client.next()
        await there.submit("p1", client_id="me")
        worker = await there.begin()
        await worker.start()
        await worker.tell("executed", node="9", display_node="9", output={"images": []})
        await worker.end()
        frames = await client.to_the_end("p1")
        told = [name for name in names(frames) if name != "status"]
        assert told == [
            "execution_start",
            "execution_cached",
            "executed",
            "execution_success",
            "executing",
        ]
        await client.hears_nothing()


async def test_a_client_that_connects_late_hears_its_prompt_from_the_beginning() -> None:
    async with staged() as stage:
        await stage.submit("p1", client_id="me")
        worker = await stage.begin()
        await worker.start()
        await worker.tell("executing", node="9", display_node="9")
        async with stage.client("me") as client:
            assert remaining(await client.next()) == 1
            frames = await client.until("executing", node="9")
            assert names(frames) == ["execution_start", "execution_cached", "executing"]
            await worker.end()
            assert names(await client.to_the_end("p1")) == [
                "execution_success",
                "status",
                "executing",
            ]


async def test_a_prompt_that_ended_before_the_client_connected_is_not_told() -> None:
    async with staged() as stage:
        await stage.submit("p1", client_id="me")
        worker = await stage.begin()
        await worker.start()
        await worker.end()
        async with stage.client("me") as client:
            assert remaining(await client.next()) == 0
            await client.hears_nothing()


async def test_nor_is_one_whose_end_its_gateway_has_not_heard_of_when_the_client_connects() -> None:
    jobs = MemoryJobStore()
    async with (
        staged(jobs=jobs) as here,
        staged(jobs=jobs) as there,
        here.client("other") as other,
    ):
        await other.next()
        await there.submit("p1", client_id="me")
        worker = await there.begin()
        await worker.start()
        await worker.end()
        async with here.client("me") as client:
            assert remaining(await client.next()) == 0
            await other.until("status")
            await asyncio.sleep(0.3)
            await there.submit("p2", client_id="me")
            await (await there.begin()).end()
            frames = await client.to_the_end("p2")
            assert {data["prompt_id"] for kind, data in frames if kind != "status"} == {"p2"}


async def test_what_a_connected_client_asks_for_is_told_however_slow_the_store() -> None:
    async with staged(jobs=SlowJobStore()) as stage, stage.client("me") as client:
        await stage.submit("p1", client_id="me")
        worker = await stage.begin()
        await worker.start()
        await worker.end()
        await client.to_the_end("p1")


async def test_who_connects_while_one_who_left_is_still_told_hears_his_own() -> None:
    jobs = HaltingJobStore()
    async with staged(jobs=jobs) as stage:
        async with stage.client("a") as client:
            await client.next()
            jobs.goes_on.clear()
            await stage.submit("p1", client_id="nobody", is_told=False)
            await jobs.is_asked.wait()
        coming = asyncio.create_task(connected_and_told(stage))
        await asyncio.sleep(0.3)
        jobs.goes_on.set()
        await coming


async def connected_and_told(stage: Stage) -> None:
    async with stage.client("b") as client:
        await stage.submit("p2", client_id="b")
        await stage.begin()
        await (await stage.begin()).end()
        await client.to_the_end("p2")


async def test_what_ends_while_its_client_connects_is_told() -> None:
    jobs = HaltingJobStore()
    async with staged(jobs=jobs) as stage, stage.client("other") as other:
        await other.next()
        await stage.submit("p1", client_id="me")
        worker = await stage.begin()
        await worker.start()
        await asyncio.sleep(0.5)
        jobs.goes_on.clear()
        coming = asyncio.create_task(told_the_end_of("p1", stage))
        await jobs.is_asked.wait()
        await worker.end()
        await other.until("status")
        await asyncio.sleep(0.5)
        jobs.goes_on.set()
        await coming


async def told_the_end_of(name: str, stage: Stage) -> None:
    async with stage.client("me") as client:
        frames = await client.to_the_end(name)
        assert names(frames).count("execution_success") == 1
        await client.hears_nothing()


async def test_an_older_socket_hears_again_when_the_newer_one_has_left() -> None:
    async with staged() as stage, stage.client("me") as old:
        await old.next()
        async with stage.client("me") as new:
            await new.next()
        await asyncio.sleep(0.3)
        await stage.submit("p1", client_id="me")
        await (await stage.begin()).end()
        await old.to_the_end("p1")


async def test_a_client_that_comes_back_hears_the_running_node_and_then_what_is_new() -> None:
    async with staged() as stage:
        async with stage.client("me") as client:
            await client.next()
            await stage.submit("p1", client_id="me")
            worker = await stage.begin()
            await worker.start()
            await worker.tell("executing", node="9", display_node="9")
            await client.until("executing", node="9")
        async with stage.client("me") as client:
            assert remaining(await client.next()) == 1
            assert await client.next() == ("executing", {"node": "9"})
            await worker.end()
            told = [name for name in names(await client.to_the_end("p1")) if name != "status"]
            assert told == ["execution_success", "executing"]


async def test_a_newer_socket_of_the_same_client_takes_the_place_of_the_older() -> None:
    async with staged() as stage, stage.client("me") as old, stage.client("me") as new:
        await old.next()
        await new.next()
        await stage.submit("p1", client_id="me")
        worker = await stage.begin()
        await worker.start()
        await worker.end()
        await new.to_the_end("p1")
        await old.hears_nothing()


async def test_features_are_negotiated_by_the_first_message_alone() -> None:
    async with staged() as stage, stage.client("me", flags={"x": 1}) as client:
        await client.next()
        assert await client.next() == ("feature_flags", {"supports_preview_metadata": True})
        await client.connection.send("no JSON")
        await client.connection.send(json.dumps({"type": "feature_flags", "data": {}}))
        await client.hears_nothing()


async def test_an_unreadable_first_message_leaves_the_socket_open() -> None:
    async with staged() as stage, stage.client("me") as client:
        await client.next()
        await client.connection.send("no JSON")
        await stage.submit("p1", client_id="me")
        assert remaining(await client.next()) == 1


async def test_replaced_notes_are_skipped_and_later_ones_told_once() -> None:
    async with staged() as stage, stage.client("me") as client:
        await client.next()
        await stage.submit("p1", client_id="me")
        worker = await stage.begin()
        await worker.start()
        await worker.note(None, None, worker.frame("progress", value=3, max=4, node="9"))
        assert (await client.until("progress"))[-1][1]["value"] == 3
        await worker.note(worker.frame("progress", value=4, max=4, node="9"))
        assert (await client.until("progress"))[-1][1]["value"] == 4


async def test_a_prompt_that_is_run_again_does_not_begin_twice() -> None:
    async with staged() as stage, stage.client("me") as client:
        await client.next()
        await stage.submit("p1", client_id="me")
        worker = await stage.begin()
        await worker.start()
        await worker.tell("executing", node="7", display_node="7")
        await client.until("executing")
        await stage.jobs.release(worker.claim.job.id, worker.claim.token)
        again = await stage.begin()
        await again.note(
            again.frame("execution_start", timestamp=5),
            again.frame("execution_cached", nodes=[], timestamp=5),
            again.frame("executing", node="8", display_node="8"),
        )
        await again.end()
        told = [name for name in names(await client.to_the_end("p1")) if name != "status"]
        assert told == ["executing", "execution_success", "executing"]


async def _preview(stage: Stage, client: Any, **extra_data: Any) -> list[Any]:
    await stage.submit("p1", client_id="me", extra_data=extra_data)
    worker = await stage.begin()
    await worker.start()
    await worker.tell("executing", node="3", display_node="3")
    await worker.note({"preview": 1, "node": "3"}, preview=b"a jpeg", num_previews=1)
    await asyncio.sleep(0.5)
    await worker.end()
    frames: list[Any] = await client.to_the_end("p1")
    return [frame for frame in frames if isinstance(frame, bytes)]


async def test_previews_are_sent_plainly_to_clients_that_know_no_metadata() -> None:
    async with staged() as stage, stage.client("me") as client:
        pictures = await _preview(stage, client, preview_method="auto")
        assert pictures == [struct.pack(">II", 1, 1) + b"a jpeg"]


async def test_previews_carry_metadata_for_clients_that_know_them() -> None:
    flags = {"supports_preview_metadata": True}
    async with staged() as stage, stage.client("me", flags=flags) as client:
        await client.until("feature_flags")
        (picture,) = await _preview(stage, client, preview_method="taesd")
        event, length = struct.unpack(">II", picture[:8])
        assert event == 4
        assert json.loads(picture[8 : 8 + length]) == {
            "node_id": "3",
            "prompt_id": "p1",
            "display_node_id": "3",
            "parent_node_id": None,
            "real_node_id": "3",
            "image_type": "image/jpeg",
        }
        assert picture[8 + length :] == b"a jpeg"


@pytest.mark.parametrize("extra_data", [{}, {"preview_method": "none"}], ids=["absent", "none"])
async def test_previews_are_off_unless_asked_for(extra_data: dict[str, Any]) -> None:
    async with staged() as stage, stage.client("me") as client:
        assert await _preview(stage, client, **extra_data) == []


async def test_a_preview_of_a_node_that_is_done_is_left_out() -> None:
    async with staged() as stage, stage.client("me") as client:
        await stage.submit("p1", client_id="me", extra_data={"preview_method": "auto"})
        worker = await stage.begin()
        await worker.start()
        await worker.note(
            worker.frame("executing", node="3", display_node="3"),
            {"preview": 1, "node": "3"},
            worker.frame("executing", node="9", display_node="9"),
            preview=b"a jpeg",
            num_previews=1,
        )
        await worker.end()
        assert "binary" not in names(await client.to_the_end("p1"))


async def test_whole_pictures_are_shown_as_png_between_their_nodes_frames() -> None:
    async with staged() as stage, stage.client("me") as client:
        files = stage.service.files
        place = {"kind": "temp", "subfolder": "", "name": "a.png"}
        await files.write(b"a png", owner="default", **place)
        await stage.submit("p1", client_id="me")
        worker = await stage.begin()
        await worker.start()
        await worker.note(
            worker.frame("executing", node="9", display_node="9"),
            {"show": place, "node": "9", "value": 0, "max": 1},
        )
        await worker.end()
        frames = await client.to_the_end("p1")
        begun = names(frames).index("executing")
        assert names(frames)[begun : begun + 4] == [
            "executing",
            "progress",
            "binary",
            "execution_success",
        ]
        assert frames[begun + 2] == struct.pack(">II", 1, 2) + b"a png"


async def test_a_slow_socket_delays_nobody() -> None:
    async with (
        staged() as stage,
        stage.client("slow", max_queue=1),
        stage.client("me") as client,
    ):
        await stage.submit("p1")
        worker = await stage.begin()
        await worker.start()
        for number in range(40):
            await worker.tell("progress", value=number, max=40, node="x" * 500_000)
        values: list[int] = []
        while len(values) < 40:
            kind, data = await client.next()
            if kind == "progress":
                values.append(data["value"])
        assert values == list(range(40))


async def test_a_client_that_leaves_is_noticed() -> None:
    async with staged() as stage:
        async with stage.client("me") as client:
            await client.next()
        for _ in range(100):
            if not stage.live.owners:
                return
            await asyncio.sleep(0.02)
        raise AssertionError("the socket is still there")


async def test_too_many_sockets_are_refused_until_one_leaves() -> None:
    async with staged(max_sockets=1) as stage:
        async with stage.client("a") as client:
            await client.next()
            with pytest.raises(InvalidStatus) as refused:
                await stage.client("b").__aenter__()
            assert refused.value.response.status_code == 503
        await asyncio.sleep(0.1)
        async with stage.client("b") as client:
            await client.next()


async def test_sockets_are_refused_while_the_store_is_out_of_reach() -> None:
    jobs = ForgetfulJobStore()
    async with staged(jobs=jobs) as stage, stage.client("me") as client:
        jobs.is_broken = True
        with pytest.raises(InvalidStatus) as refused:
            await stage.client("you").__aenter__()
        assert refused.value.response.status_code == 503
        jobs.is_broken = False
        await client.next()
        await stage.submit("p1", client_id="me")
        assert remaining(await client.next()) == 1


async def test_an_ending_is_told_once_the_store_can_be_read_again() -> None:
    jobs = ForgetfulJobStore()
    async with staged(jobs=jobs) as stage, stage.client("me") as client:
        await client.next()
        await stage.submit("p1", client_id="me")
        worker = await stage.begin()
        await worker.start()
        await client.until("execution_cached")
        jobs.is_broken = True
        await worker.end()
        await client.hears_nothing(1.0)
        jobs.is_broken = False
        frames = await client.to_the_end("p1")
        assert names(frames) == ["execution_success", "status", "executing"]
        await client.hears_nothing()


class ForgetfulJobStore(MemoryJobStore):
    """A store of which the queue cannot be read for a while."""

    is_broken = False

    async def unfinished(self, **asked: Any) -> Any:
        self._check()
        return await super().unfinished(**asked)

    async def unfinished_ids(self, **asked: Any) -> Any:
        self._check()
        return await super().unfinished_ids(**asked)

    def _check(self) -> None:
        if self.is_broken:
            raise StorageFailure("the store is out of reach")


class SlowJobStore(MemoryJobStore):
    """A store that takes its time to say what has changed."""

    async def changed_since(self, *asked: Any, **which: Any) -> Any:
        await asyncio.sleep(0.3)
        return await super().changed_since(*asked, **which)


class HaltingJobStore(MemoryJobStore):
    """A store that says what had not ended when it was asked, but only when it is let to."""

    def __init__(self) -> None:
        super().__init__()
        self.is_asked = asyncio.Event()
        self.goes_on = asyncio.Event()
        self.goes_on.set()

    async def unfinished(self, **asked: Any) -> Any:
        return await self._held_back(await super().unfinished(**asked))

    async def unfinished_ids(self, **asked: Any) -> Any:
        return await self._held_back(await super().unfinished_ids(**asked))

    async def _held_back(self, answer: Any) -> Any:
        if not self.goes_on.is_set():
            self.is_asked.set()
        await self.goes_on.wait()
        return answer
