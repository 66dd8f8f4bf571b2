"""Graphs as they run: frames in order, branches at once, failures, interruption, a second try."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from deployments.errors import (
    Cancelled,
    GenerationFailed,
    InvalidRequest,
    ModelNotReady,
    OutOfMemory,
)
from deployments.types import GenerationRequest, GenerationResult, Progress
from router.apis.comfyui.cache import CACHE, NodeCache
from router.apis.comfyui.node import Input, Node
from router.apis.comfyui.nodes import NODES
from router.apis.comfyui.values import Images
from router.fake_models import FakeModels
from router.files import Files, StoredFile
from router.job import Job, JobStatus
from router.models import WorkerDied
from router.store.memory_files import MemoryFileStore
from tests.router.apis.comfyui.easel import (
    QWEN,
    SDXL,
    Easel,
    execution,
    interrupt,
    node,
    text_to_image,
    types_of,
)
from tests.router.making import Inside, running


def table(*nodes: Node) -> dict[str, Node]:
    return {**NODES, **{row.class_type: row for row in nodes}}


def picture_node(name: str, run: Any) -> Node:
    return Node(class_type=name, run=run, outputs=("IMAGE",))


def grey() -> tuple[Images]:
    return (Images(pixels=[np.full((8, 8, 3), 90, np.uint8)]),)


GREY = picture_node("Grey", grey)


class BrokenModels(FakeModels):
    """Fake models that fail in the way a test wants, from some call on."""

    def __init__(self, error: Exception, *, task: str = "generate") -> None:
        super().__init__(SDXL, QWEN)
        self.error = error
        self.task = task

    async def generate(
        self, model: str, request_id: str, request: GenerationRequest
    ) -> AsyncIterator[Progress | GenerationResult]:
        if request.task == self.task:
            raise self.error
        async for news in super().generate(model, request_id, request):
            yield news


# -- frames -------------------------------------------------------------------------------------


async def test_frames_are_in_comfyuis_order() -> None:
    easel = Easel()
    await execution(easel, text_to_image()).run()
    assert easel.frames[:3] == [
        ("execution_start", None),
        ("execution_cached", None),
        ("progress_state", None),
    ]
    at = easel.frames.index(("executing", "3"))
    assert easel.frames[at - 1] == ("progress_state", None)
    assert easel.frames[at:][:7] == [
        ("executing", "3"),
        *[("progress_state", None), ("progress", "3")] * 3,
    ]
    assert easel.frames[-4:] == [
        ("progress_state", None),
        ("executing", "9"),
        ("executed", "9"),
        ("progress_state", None),
    ]


async def test_frames_have_comfyuis_fields() -> None:
    easel = Easel()
    await execution(easel, text_to_image()).run()
    by_type = {note["type"]: note["data"] for note in easel.notes}
    assert by_type["execution_start"].keys() == {"prompt_id", "timestamp"}
    assert isinstance(by_type["execution_start"]["timestamp"], int)
    assert by_type["execution_cached"].keys() == {"nodes", "prompt_id", "timestamp"}
    assert by_type["executing"] == {"node": "9", "display_node": "9", "prompt_id": "p1"}
    assert by_type["progress"] == {"value": 3, "max": 3, "prompt_id": "p1", "node": "3"}
    saved = [{"filename": "ComfyUI_00001_.png", "subfolder": "", "type": "output"}]
    assert by_type["executed"] == {
        "node": "9",
        "display_node": "9",
        "output": {"images": saved},
        "prompt_id": "p1",
    }
    assert by_type["progress_state"]["nodes"]["3"] == {
        "value": 3,
        "max": 3,
        "state": "finished",
        "node_id": "3",
        "prompt_id": "p1",
        "display_node_id": "3",
        "parent_node_id": None,
        "real_node_id": "3",
    }


async def test_steps_replace_each_other_and_nothing_else_does() -> None:
    easel = Easel()
    await execution(easel, text_to_image()).run()
    topics = {(note["type"], topic) for note, topic in zip(easel.notes, easel.topics, strict=True)}
    assert ("progress", "progress:3") in topics
    assert ("progress_state", "state:3") in topics
    assert {topic for kind, topic in topics if kind not in ("progress", "progress_state")} == {""}


async def test_large_graphs_tell_states_now_and_then() -> None:
    graph = {str(k): node("PrimitiveInt", value=k) for k in range(300)}
    graph |= {f"s{k}": node("PreviewAny", source=[str(k), 0]) for k in range(300)}
    easel = Easel()
    await execution(easel, graph).run()
    states = [note for note in easel.notes if note["type"] == "progress_state"]
    assert 1 <= len(states) < 60
    assert len(easel.result["outputs"]) == 300


async def test_result_is_the_historys() -> None:
    easel = Easel()
    await execution(easel, text_to_image()).run()
    assert list(easel.result["outputs"]) == ["9"]
    assert easel.result["meta"]["9"] == {
        "node_id": "9",
        "display_node": "9",
        "parent_node": None,
        "real_node_id": "9",
    }
    kinds = [kind for kind, _ in easel.result["messages"]]
    assert kinds == ["execution_start", "execution_cached", "execution_success"]


async def test_ending_is_told_to_the_history_alone() -> None:
    easel = Easel()
    await execution(easel, text_to_image()).run()
    assert not types_of(easel.frames, "execution_success", "execution_error")


async def test_graph_is_held_for_those_who_listen_late() -> None:
    easel = Easel()
    loop = asyncio.get_running_loop()
    told: list[float] = []
    note = easel.note
    easel.note = lambda *args, **more: (told.append(loop.time()), note(*args, **more))[1]  # type: ignore[method-assign]
    await execution(easel, text_to_image()).run()
    assert loop.time() - told[-1] >= 0.049


async def test_many_nodes_keep_only_the_newest_state() -> None:
    graph = {
        f"{k}": node("InvertMask", mask=[f"{k - 1}", 0])
        if k
        else node("SolidMask", value=1.0, width=8, height=8)
        for k in range(70)
    }
    graph |= {
        "image": node("MaskToImage", mask=["69", 0]),
        "out": node("PreviewImage", images=["image", 0]),
    }
    easel = Easel()
    await execution(easel, graph).run()
    assert {"state"} == {topic for topic in easel.topics if topic.startswith("state")}


# -- running ------------------------------------------------------------------------------------


async def test_independent_branches_run_at_the_same_time() -> None:
    both = threading.Barrier(2, timeout=5)

    def meet() -> tuple[Images]:
        both.wait()
        return grey()

    rows = table(picture_node("Meet", meet))
    graph = {
        "a": node("Meet"),
        "b": node("Meet"),
        "c": node("SaveImage", images=["a", 0], filename_prefix="a"),
        "d": node("SaveImage", images=["b", 0], filename_prefix="b"),
    }
    easel = Easel()
    await execution(easel, graph, table=rows).run()
    assert set(easel.result["outputs"]) == {"c", "d"}


async def test_models_are_asked_by_so_many_nodes_at_once_as_the_job_has_places() -> None:
    class CountingModels(FakeModels):
        running = most = 0

        async def generate(
            self, model: str, request_id: str, request: GenerationRequest
        ) -> AsyncIterator[Progress | GenerationResult]:
            self.running += 1
            self.most = max(self.most, self.running)
            try:
                async for news in super().generate(model, request_id, request):
                    yield news
            finally:
                self.running -= 1

    graph = text_to_image()
    for k in range(4):
        graph[f"s{k}"] = node("KSampler", **{**graph["3"]["inputs"], "seed": k})
        graph[f"d{k}"] = node("VAEDecode", samples=[f"s{k}", 0], vae=["4", 2])
        graph[f"o{k}"] = node("PreviewImage", images=[f"d{k}", 0])
    models = CountingModels(SDXL, QWEN, step_seconds=0.01)
    await execution(Easel(models), graph, width=2).run()
    assert models.most == 2


async def test_only_what_the_outputs_need_runs() -> None:
    graph = text_to_image()
    graph["10"] = node("PreviewImage", images=["8", 0])
    easel = Easel()
    await execution(easel, graph, "10").run()
    assert "9" not in easel.result["outputs"]
    assert ("executing", "9") not in easel.frames


async def test_node_runs_once_for_each_of_a_list() -> None:
    graph = {
        "1": node("EmptyImage", width=8, height=8, batch_size=3, color=255),
        "2": node("RebatchImages", images=["1", 0], batch_size=1),
        "3": node("SaveImage", images=["2", 0], filename_prefix="one"),
    }
    easel = Easel()
    await execution(easel, graph).run()
    names = [image["filename"] for image in easel.result["outputs"]["3"]["images"]]
    assert names == ["one_00001_.png", "one_00002_.png", "one_00003_.png"]
    assert list(easel.pictures) == [0, 1, 2]


async def test_websocket_pictures_follow_their_nodes_own_frame() -> None:
    graph = {
        "1": node("EmptyImage", width=8, height=8, batch_size=2, color=255),
        "ws": node("SaveImageWebsocket", images=["1", 0]),
    }
    easel = Easel()
    await execution(easel, graph).run()
    shown = [note for note in easel.notes if "show" in note]
    assert [(note["node"], note["value"], note["max"]) for note in shown] == [
        ("ws", 0, 2),
        ("ws", 1, 2),
    ]
    file = await easel.files.find(owner="ann", **shown[1]["show"])
    assert (await easel.files.read(file)).startswith(b"\x89PNG")
    assert types_of(easel.frames, "executing")[-1] == ("executing", "ws")
    assert easel.result["outputs"] == {}
    assert not types_of(easel.frames, "executed")


async def test_previews_are_told_when_they_were_asked_for() -> None:
    easel = Easel()
    await execution(easel, text_to_image(), extra_data={"preview_method": "auto"}).run()
    previews = [note for note in easel.notes if "preview" in note]
    assert [note["preview"] for note in previews] == list(range(1, len(previews) + 1))
    assert {note["node"] for note in previews} == {"3"}


async def test_no_preview_unless_asked_for() -> None:
    easel = Easel()
    await execution(easel, text_to_image()).run()
    assert easel.num_previews == 0


# -- failures -----------------------------------------------------------------------------------


async def test_failing_node_is_told_with_what_it_was_given() -> None:
    easel = Easel(BrokenModels(OutOfMemory("it does not fit")))
    with pytest.raises(OutOfMemory):
        await execution(easel, text_to_image()).run()
    kind, data = easel.result["messages"][-1]
    assert kind == "execution_error"
    assert data.keys() == {
        "prompt_id",
        "node_id",
        "node_type",
        "executed",
        "exception_message",
        "exception_type",
        "traceback",
        "current_inputs",
        "current_outputs",
        "timestamp",
    }
    assert (data["node_id"], data["node_type"]) == ("3", "KSampler")
    assert data["exception_type"] == "torch.OutOfMemoryError"
    assert data["exception_message"].startswith("it does not fit")
    assert data["traceback"] == []
    assert set(data["executed"]) == set(data["current_outputs"]) == {"4", "5", "6", "7"}
    assert data["current_inputs"]["seed"] == [5]
    assert data["current_inputs"]["latent_image"] == ["LATENT"]


async def test_failure_speaks_the_wires_names() -> None:
    models = FakeModels(replace(SDXL, max_num_inference_steps=2), QWEN)
    easel = Easel(models)
    with pytest.raises(InvalidRequest):
        await execution(easel, text_to_image()).run()
    _, data = easel.result["messages"][-1]
    assert data["exception_message"] == "steps 3 is out of range; accepted: 1 to 2"
    assert data["exception_type"] == "ValueError"


async def test_linked_inputs_are_told_by_their_types() -> None:
    def fail(*, image: Images) -> tuple[Images]:
        raise InvalidRequest("no")

    failing = Node(
        class_type="Fail", run=fail, inputs=(Input(name="image", type="IMAGE"),), outputs=("IMAGE",)
    )
    graph = {
        "1": node("Grey"),
        "2": node("Fail", image=["1", 0]),
        "3": node("PreviewImage", images=["2", 0]),
    }
    easel = Easel()
    with pytest.raises(InvalidRequest):
        await execution(easel, graph, table=table(GREY, failing)).run()
    assert easel.result["messages"][-1][1]["current_inputs"] == {"image": ["IMAGE"]}


async def test_fault_of_ours_names_nothing_of_ours() -> None:
    def stumble() -> tuple[Images]:
        raise KeyError("/secret/path")

    rows = table(picture_node("Stumble", stumble))
    graph = {"1": node("Stumble"), "2": node("PreviewImage", images=["1", 0])}
    easel = Easel()
    with pytest.raises(GenerationFailed):
        await execution(easel, graph, table=rows).run()
    _, data = easel.result["messages"][-1]
    assert data["exception_message"] == "Stumble cannot work with these inputs"
    assert data["exception_type"] == "RuntimeError"


async def test_failure_keeps_what_was_made_and_stops_other_branches() -> None:
    stopped = asyncio.Event()

    async def dawdle(drawing: Any) -> tuple[Images]:
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            stopped.set()
            raise
        return grey()

    def fail(*, image: Images) -> tuple[Images]:
        raise InvalidRequest("no")

    failing = Node(
        class_type="Fail", run=fail, inputs=(Input(name="image", type="IMAGE"),), outputs=("IMAGE",)
    )

    rows = table(GREY, failing, picture_node("Dawdle", dawdle))
    graph = {
        "grey": node("Grey"),
        "fail": node("Fail", image=["late", 0]),
        "late": node("ImageScaleBy", image=["grey", 0], upscale_method="bilinear", scale_by=8.0),
        "saved": node("SaveImage", images=["grey", 0], filename_prefix="kept"),
        "slow": node("Dawdle"),
        "never": node("PreviewImage", images=["slow", 0]),
        "broken": node("PreviewImage", images=["fail", 0]),
    }

    def hold(*, image: Images, **_: Any) -> tuple[Images]:
        saved.wait(5)
        return (image,)

    saved = threading.Event()
    rows["ImageScaleBy"] = replace(rows["ImageScaleBy"], run=hold)
    easel = Easel()
    note = easel.note

    def listen(told: Any, *, topic: str = "") -> None:
        note(told, topic=topic)
        if told.get("type") == "executed":
            saved.set()

    easel.note = listen  # type: ignore[method-assign]
    with pytest.raises(InvalidRequest, match="no"):
        await execution(easel, graph, table=rows).run()
    assert stopped.is_set()
    assert list(easel.result["outputs"]) == ["saved"]
    assert len(easel.pictures) == 1


@pytest.mark.parametrize(
    "error", [WorkerDied("gone"), ModelNotReady("it starts")], ids=["died", "starts"]
)
async def test_missing_worker_leaves_the_graph_to_another_attempt(error: Exception) -> None:
    easel = Easel(BrokenModels(error, task="decode"))
    cache = NodeCache()
    with pytest.raises(type(error)):
        await execution(easel, text_to_image(), cache=cache).run()
    assert easel.result == {}
    # The latents that it made may lie with who died.
    easel.models = FakeModels(SDXL, QWEN)
    await execution(easel, text_to_image(), cache=cache).run()
    cached = easel.result["messages"][1][1]["nodes"]
    assert "3" not in cached
    assert {"4", "5", "6", "7"} <= set(cached)


async def test_lasting_failure_goes_before_a_passing_one() -> None:
    async def die(drawing: Any) -> tuple[Images]:
        raise WorkerDied("gone")

    async def fail(drawing: Any) -> tuple[Images]:
        raise InvalidRequest("no")

    rows = table(picture_node("Die", die), picture_node("Fail", fail))
    graph = {
        "1": node("Die"),
        "2": node("Fail"),
        "3": node("PreviewImage", images=["1", 0]),
        "4": node("PreviewImage", images=["2", 0]),
    }
    with pytest.raises(InvalidRequest):
        await execution(Easel(), graph, table=rows).run()


# -- interruption -------------------------------------------------------------------------------


async def test_interrupted_graph_tells_where_it_was() -> None:
    easel = Easel(FakeModels(SDXL, QWEN, step_seconds=5))
    task = asyncio.create_task(execution(easel, text_to_image()).run())
    await asyncio.sleep(0.2)
    await interrupt(easel, task)
    with pytest.raises(Cancelled):
        task.result()
    kind, data = easel.result["messages"][-1]
    assert kind == "execution_interrupted"
    assert data.keys() == {"prompt_id", "node_id", "node_type", "executed", "timestamp"}
    assert (data["node_id"], data["node_type"]) == ("3", "KSampler")
    assert set(data["executed"]) == {"4", "5", "6", "7"}


async def test_graph_interrupted_before_its_first_node_tells_that() -> None:
    class SlowFiles(Files):
        async def find(self, **_: Any) -> StoredFile:
            await asyncio.sleep(30)
            raise AssertionError

    easel, cache = Easel(), NodeCache()
    await execution(easel, text_to_image(), cache=cache).run()
    easel.files = SlowFiles(files=MemoryFileStore(), images=easel.images)
    task = asyncio.create_task(execution(easel, text_to_image(), cache=cache).run())
    await asyncio.sleep(0.05)
    await interrupt(easel, task)
    assert isinstance(task.exception(), Cancelled)
    kinds = [kind for kind, _ in easel.result["messages"]]
    assert kinds == ["execution_start", "execution_cached", "execution_interrupted"]
    assert easel.result["messages"][-1][1]["executed"] == []


async def test_interruption_after_the_last_node_changes_nothing() -> None:
    easel = Easel()
    task = asyncio.create_task(execution(easel, text_to_image()).run())
    while not types_of(easel.frames, "executed"):  # noqa: ASYNC110 - it is an easel, no event
        await asyncio.sleep(0.005)
    await interrupt(easel, task)
    assert task.exception() is None
    assert easel.result["messages"][-1][0] == "execution_success"


async def test_gateway_that_stops_leaves_the_graph_to_another() -> None:
    easel = Easel(FakeModels(SDXL, QWEN, step_seconds=5))
    task = asyncio.create_task(execution(easel, text_to_image()).run())
    await asyncio.sleep(0.1)
    task.cancel()
    await asyncio.wait({task})
    assert task.cancelled()
    assert easel.result == {}


# -- another attempt ----------------------------------------------------------------------------


async def test_another_attempt_makes_no_second_file() -> None:
    easel = Easel()
    for attempts in (1, 2):
        await execution(easel, text_to_image(), attempts=attempts).run()
        assert list(easel.pictures) == [0]
    files = await easel.files.list(owner="ann", kind="output")
    assert [file.name for file in files] == ["ComfyUI_00001_.png"]
    assert await easel.files.read(files[0]) == await easel.images.get(easel.pictures[0].key)


async def test_requests_are_told_apart() -> None:
    easel = Easel()
    graph = text_to_image()
    graph["5"]["inputs"]["batch_size"] = 3
    await execution(easel, graph).run()
    assert len(set(easel.indices)) == len(easel.indices) == 6


async def test_fault_of_a_node_that_asks_models_is_told_as_that_nodes() -> None:
    async def fail(drawing: Any) -> tuple[Images]:
        raise IndexError(drawing)

    row = picture_node("Fault", fail)
    graph = {"1": node("Fault"), "9": node("SaveImage", images=["1", 0], filename_prefix="x")}
    easel = Easel()
    with pytest.raises(GenerationFailed, match="Fault cannot work with these inputs"):
        await execution(easel, graph, table=table(row)).run()
    _, data = easel.result["messages"][-1]
    assert (data["node_id"], data["exception_type"]) == ("1", "RuntimeError")


async def test_graph_that_shows_too_much_fails_where_it_does() -> None:
    graph = {"text": node("PrimitiveString", value="x" * 20_000)}
    graph |= {f"s{k}": node("PreviewAny", source=["text", 0]) for k in range(300)}
    easel = Easel()
    with pytest.raises(InvalidRequest, match="more than 4194304 characters"):
        await execution(easel, graph).run()
    _, data = easel.result["messages"][-1]
    assert data["node_type"] == "PreviewAny"
    assert len(easel.result["outputs"]) == 209


# -- as a job -----------------------------------------------------------------------------------


async def enqueued(inside: Inside, graph: dict[str, Any], name: str = "p1") -> Job:
    """A graph as a job of a gateway, none of whose nodes ran before; its end."""
    CACHE.clear("ann")
    args = {
        "graph": graph,
        "outputs": ["9"],
        "inputs": {},
        "models": ["sdxl-turbo"],
        "width": 1,
    }
    job = await inside.service.enqueue(
        "graph", args, model="sdxl-turbo", api="comfyui", owner="ann", name=name
    )
    async for news in inside.service.watch(job.id):
        if isinstance(news, Job):
            return news
    raise AssertionError


async def test_graph_is_a_job_with_pictures_and_a_result() -> None:
    async with running(FakeModels(SDXL, QWEN)) as inside:
        job = await enqueued(inside, text_to_image("job"))
        assert job.status is JobStatus.COMPLETED
        assert list(job.result["outputs"]) == ["9"]
        (file,) = await inside.files.list(owner="ann", kind="output")
        assert file.key == job.images[0].key
        assert await inside.files.read(file) == await inside.service.image(job, 0)
        progress = await inside.service.progress(job.id)
        assert progress is not None
        told = [note["type"] for note in progress.notes if note is not None]
        assert told[:2] == ["execution_start", "execution_cached"]
        assert {"executing", "progress", "executed", "progress_state"} <= set(told)


async def test_graph_that_fails_is_a_failed_job_that_tells_where() -> None:
    async with running(BrokenModels(GenerationFailed("it broke"))) as inside:
        job = await enqueued(inside, text_to_image("fails"))
        assert job.status is JobStatus.FAILED
        assert job.error is not None
        assert job.error.message == "it broke"
        kind, data = job.result["messages"][-1]
        assert (kind, data["node_id"]) == ("execution_error", "3")


async def test_graph_whose_worker_died_runs_again() -> None:
    class MortalModels(FakeModels):
        deaths = 0

        async def generate(
            self, model: str, request_id: str, request: GenerationRequest
        ) -> AsyncIterator[Progress | GenerationResult]:
            if request.task == "decode" and not self.deaths:
                self.deaths += 1
                raise WorkerDied("gone")
            async for news in super().generate(model, request_id, request):
                yield news

    models = MortalModels(SDXL, QWEN)
    async with running(models) as inside:
        job = await enqueued(inside, text_to_image("again"))
        assert (job.status, job.attempts) == (JobStatus.COMPLETED, 2)
        assert len(await inside.files.list(owner="ann", kind="output")) == 1
        assert [call.task for call in models.calls] == ["generate", "generate", "decode"]


async def test_interrupted_graph_is_a_cancelled_job_that_tells_where() -> None:
    async with running(FakeModels(SDXL, QWEN, step_seconds=0.2)) as inside:
        asked = asyncio.create_task(enqueued(inside, text_to_image("stop")))
        await asyncio.sleep(0.4)
        (job,) = await inside.service.unfinished(owner="ann", api="comfyui")
        await inside.service.interrupt(job.id, owner="ann")
        job = await asked
        assert job.status is JobStatus.CANCELLED
        kind, data = job.result["messages"][-1]
        assert (kind, data["node_type"]) == ("execution_interrupted", "KSampler")
