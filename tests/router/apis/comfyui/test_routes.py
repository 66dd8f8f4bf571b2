"""Prompts, queue and history over HTTP, as ComfyUI's clients use them."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import httpx
import pytest

from router.apis.comfyui.errors import PromptRefused
from router.apis.comfyui.live import Live
from router.apis.comfyui.prompt import Prompts
from router.fake_models import FakeModels
from tests.router.apis.comfyui.client import Comfy, wait_until
from tests.router.apis.comfyui.graphs import drawn, flat
from tests.router.apis.comfyui_gateway import SDXL, comfyui_gateway
from tests.router.making import running

#: A model that takes one request at a time, so that others wait.
ONE_AT_A_TIME = replace(SDXL, max_ongoing_requests=1)


@pytest.fixture(scope="module")
def shared() -> Iterator[Comfy]:
    with comfyui_gateway(ONE_AT_A_TIME, step_seconds=0.1) as served:
        yield Comfy(served.http)


@pytest.fixture
def comfy(shared: Comfy) -> Comfy:
    """The gateway, with nothing in its queue or history."""
    shared.post("/queue", clear=True)
    shared.post("/interrupt")
    wait_until(lambda: shared.get("/prompt")["exec_info"]["queue_remaining"] == 0)
    shared.post("/history", clear=True)
    return shared


def test_a_prompt_is_accepted_with_its_id_and_number(comfy: Comfy) -> None:
    body = comfy.http.post("/prompt", json={"prompt": flat()}).json()
    assert set(body) == {"prompt_id", "number", "node_errors"}
    assert str(uuid.UUID(body["prompt_id"])) == body["prompt_id"]
    assert body["node_errors"] == {}


@pytest.mark.parametrize(
    "content_type",
    ["application/json", "application/x-www-form-urlencoded", "text/plain;charset=UTF-8", ""],
)
def test_bodies_are_json_whatever_their_type(comfy: Comfy, content_type: str) -> None:
    for path in ("/prompt", "/api/prompt"):
        response = comfy.http.post(
            path,
            content=json.dumps({"prompt": flat(), "unknown": 1}),
            headers={"content-type": content_type},
        )
        assert response.status_code == 200


def test_saved_picture_may_be_an_input(comfy: Comfy) -> None:
    first = comfy.submit(flat(0x102030))
    (saved,) = comfy.entry(first)["outputs"]["9"]["images"]
    graph = flat()
    name = f"{saved['filename']} [output]"
    graph["1"] = {"class_type": "LoadImage", "inputs": {"image": name}}
    entry = comfy.entry(comfy.submit(graph))
    (again,) = entry["outputs"]["9"]["images"]
    assert comfy.http.get("/view", params={**saved, "channel": "rgb"}).content == (
        comfy.http.get("/view", params={**again, "channel": "rgb"}).content
    )


async def test_files_of_a_graph_are_bounded_together() -> None:
    async with running(FakeModels(SDXL)) as inside:
        for name in ("a", "b"):
            await inside.files.upload(
                name.encode() * 5, owner="ann", kind="input", subfolder="", name=name
            )
        live = Live(inside.service, features={})
        prompts = Prompts(inside.service, live, max_input_bytes=9)
        assert list(await prompts.inputs("ann", ["a", "a", "missing"])) == ["a"]
        with pytest.raises(PromptRefused, match="its files have 10 bytes; accepted: 9"):
            await prompts.inputs("ann", ["a", "b"])


def test_extra_data_is_bounded(comfy: Comfy) -> None:
    workflow = {"text": "x" * 2**22}
    error = comfy.refused(flat(), extra_data={"extra_pnginfo": {"workflow": workflow}})
    assert error["type"] == "invalid_prompt"
    assert "accepted: at most 4194304" in error["message"]


def test_numbers_count_up_and_front_is_negative(comfy: Comfy) -> None:
    def number(**fields: Any) -> Any:
        return comfy.http.post("/prompt", json={"prompt": flat(), **fields}).json()["number"]

    first = number()
    assert number() == first + 1
    assert number(front=True) == -(first + 2)
    assert number(number=7) == 7.0
    assert number(number=7, front=True) == 7.0
    assert number() == first + 3


def test_a_prompt_at_the_front_overtakes_those_that_wait(comfy: Comfy) -> None:
    first = comfy.submit(drawn(seed=1))
    wait_until(lambda: comfy.running() == [first])
    waiting = [comfy.submit(drawn(seed=seed)) for seed in (2, 3)]
    front = comfy.submit(drawn(seed=4), front=True)
    explicit = comfy.submit(drawn(seed=5), number=10**9)
    assert comfy.pending() == [front, *waiting, explicit]


@pytest.mark.parametrize("name", ["x", "an id", "Ünïcode/7", str(uuid.uuid4())])
def test_any_id_is_echoed(comfy: Comfy, name: str) -> None:
    assert comfy.submit(flat(), prompt_id=name) == name
    assert comfy.entry(name)["prompt"][1] == name


@pytest.mark.parametrize("name", ["", 7, ["a"], "x" * 1000], ids=["empty", "int", "list", "long"])
def test_what_is_no_id_is_refused(comfy: Comfy, name: Any) -> None:
    assert comfy.refused(flat(), prompt_id=name)["type"] == "invalid_prompt_id"


def test_an_id_that_still_runs_is_refused_and_one_that_ended_is_free(comfy: Comfy) -> None:
    comfy.submit(drawn(), prompt_id="again")
    assert comfy.refused(flat(), prompt_id="again")["type"] == "invalid_prompt_id"
    comfy.entry("again")
    comfy.submit(drawn(steps=8), prompt_id="again")
    assert "again" not in comfy.get("/history")
    assert comfy.entry("again")["prompt"][2]["3"]["inputs"]["steps"] == 8
    assert list(comfy.get("/history")) == ["again"]


def test_prompts_for_a_model_that_has_yet_to_start_may_come_again() -> None:
    with comfyui_gateway(SDXL) as served:
        comfy, graph = Comfy(served.http), drawn()
        graph["4"]["inputs"]["ckpt_name"] = "late"
        assert comfy.refused(graph)["type"] == "prompt_outputs_failed_validation"
        served.models.start_later("late")
        response = served.http.post("/prompt", json={"prompt": graph})
        assert response.status_code == 503
        assert int(response.headers["retry-after"]) > 0
        assert response.json()["error"]["type"] == "model_not_ready"


def test_a_method_that_prompts_do_not_know_is_no_fault_of_ours(comfy: Comfy) -> None:
    response = comfy.http.put("/prompt", json={})
    assert response.status_code == 405
    assert response.json()["error"]["type"] == "invalid_request"


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"nonsense", "invalid_request"),
        (b"", "invalid_request"),
        (b"[]", "invalid_request"),
        (b"{}", "no_prompt"),
        (b'{"prompt": {}}', "prompt_no_outputs"),
        (b'{"prompt": {"1": {"inputs": {}}}}', "missing_node_type"),
        (b'{"prompt": {"1": {"class_type": "X"}}}', "missing_node_type"),
    ],
    ids=["text", "empty", "list", "no prompt", "no outputs", "no class", "unknown class"],
)
def test_refused_prompts_have_comfyuis_shape(comfy: Comfy, body: bytes, kind: str) -> None:
    response = comfy.http.post("/api/prompt", content=body)
    assert response.status_code == 400
    assert response.json()["error"]["type"] == kind
    assert response.json()["node_errors"] == {}


@pytest.mark.parametrize("value", ["a", [], {}], ids=str)
def test_a_number_that_is_none_is_refused(comfy: Comfy, value: Any) -> None:
    assert comfy.refused(flat(), number=value)["type"] == "invalid_prompt"


def test_a_graph_that_is_valid_in_part_runs_in_part(comfy: Comfy) -> None:
    graph = flat() | {"8": {"class_type": "SaveImage", "inputs": {"images": ["77", 0]}}}
    body = comfy.http.post("/prompt", json={"prompt": graph}).json()
    assert list(body["node_errors"]) == ["8"]
    assert list(comfy.entry(body["prompt_id"])["outputs"]) == ["9"]


def test_queue_entries_are_five_fields_without_secrets(comfy: Comfy) -> None:
    extra_data = {"extra_pnginfo": {"workflow": {"id": "w"}}, "api_key_comfy_org": "secret"}
    name = comfy.submit(drawn(), extra_data=extra_data, client_id="me")
    queue = comfy.get("/queue")
    (item,) = queue["queue_running"] + queue["queue_pending"]
    number, told, graph, extra, outputs = item
    assert (told, outputs) == (name, ["9"])
    assert isinstance(number, int)
    assert graph == drawn()
    assert extra.pop("create_time") > 1_000_000_000_000
    assert extra == {"extra_pnginfo": {"workflow": {"id": "w"}}, "client_id": "me"}
    assert "secret" not in json.dumps(comfy.entry(name))


def test_an_ended_prompt_has_outputs_status_and_meta(comfy: Comfy) -> None:
    entry = comfy.entry(comfy.submit(drawn()))
    (image,) = entry["outputs"]["9"]["images"]
    assert image["type"] == "output"
    assert entry["status"]["status_str"] == "success"
    assert entry["status"]["completed"] is True
    assert [kind for kind, _ in entry["status"]["messages"]] == [
        "execution_start",
        "execution_cached",
        "execution_success",
    ]
    assert entry["meta"]["9"]["display_node"] == "9"
    picture = comfy.http.get("/view", params=image)
    assert picture.headers["content-type"] == "image/png"


def test_the_history_of_a_prompt_that_has_not_ended_is_empty(comfy: Comfy) -> None:
    name = comfy.submit(drawn(steps=20))
    assert comfy.get(f"/history/{name}") == {}
    assert comfy.get("/history/unknown") == {}
    assert comfy.get("/history") == {}


def test_deleting_takes_what_waits_and_leaves_no_trace(comfy: Comfy) -> None:
    names = [comfy.submit(drawn(seed=seed)) for seed in range(3)]
    wait_until(lambda: comfy.running() == names[:1])
    assert comfy.post("/queue", delete=[names[0], names[1], "unknown"]).content == b""
    assert comfy.running() == names[:1]
    assert comfy.pending() == names[2:]
    assert names[1] not in comfy.get("/history")
    assert comfy.get("/prompt") == {"exec_info": {"queue_remaining": 2}}


def test_clearing_the_queue_leaves_what_runs(comfy: Comfy) -> None:
    names = [comfy.submit(drawn(seed=seed)) for seed in range(3)]
    wait_until(lambda: comfy.running() == names[:1])
    comfy.post("/queue", clear=True)
    assert (comfy.running(), comfy.pending()) == (names[:1], [])


@pytest.mark.parametrize("body", [None, b"", b"{}", b"nonsense", b'{"prompt_id": null}'])
def test_interrupting_ends_what_runs(comfy: Comfy, body: bytes | None) -> None:
    name = comfy.submit(drawn(steps=100))
    wait_until(lambda: comfy.running() == [name])
    response = comfy.http.post("/interrupt", content=body)
    assert (response.status_code, response.content) == (200, b"")
    status = comfy.entry(name)["status"]
    assert (status["status_str"], status["completed"]) == ("error", False)
    assert status["messages"][-1][0] == "execution_interrupted"


def test_interrupting_by_id_spares_the_others_and_those_that_wait(comfy: Comfy) -> None:
    names = [comfy.submit(drawn(seed=seed, steps=20)) for seed in range(2)]
    wait_until(lambda: comfy.running() == names[:1])
    comfy.post("/interrupt", prompt_id=names[1])
    comfy.post("/interrupt", prompt_id="unknown")
    assert (comfy.running(), comfy.pending()) == (names[:1], names[1:])
    comfy.post("/interrupt", prompt_id=names[0])
    comfy.entry(names[0])
    assert names[1] in comfy.running() + comfy.pending()


@pytest.mark.parametrize("body", [{}, {"unload_models": True}, {"free_memory": True}], ids=str)
def test_freeing_answers_with_nothing(comfy: Comfy, body: dict[str, bool]) -> None:
    assert comfy.post("/free", **body).content == b""


def test_freed_memory_is_not_remembered(comfy: Comfy) -> None:
    cached = [
        dict(comfy.entry(comfy.submit(flat(3)))["status"]["messages"])["execution_cached"]["nodes"]
        for _ in range(2)
    ]
    comfy.post("/free", free_memory=True)
    entry = comfy.entry(comfy.submit(flat(3)))
    assert cached[1] != []
    assert dict(entry["status"]["messages"])["execution_cached"]["nodes"] == []


def test_the_history_is_told_in_windows(comfy: Comfy) -> None:
    names = [comfy.submit(flat(color)) for color in range(5)]
    wait_until(lambda: len(comfy.get("/history")) == 5)
    names = list(comfy.get("/history"))
    for params, expected in (
        ({"max_items": 2}, names[-2:]),
        ({"offset": 2}, names[2:]),
        ({"offset": 0}, names),
        ({"offset": 1, "max_items": 2}, names[1:3]),
        ({"offset": 9}, []),
        ({"max_items": 9}, names),
        ({"max_items": 0}, []),
        ({"offset": -1, "max_items": 1}, names[-1:]),
    ):
        assert list(comfy.get("/history", **params)) == expected, params
    assert comfy.http.get("/history", params={"offset": "x"}).status_code == 400


def test_entries_of_the_history_are_deleted_and_cleared(comfy: Comfy) -> None:
    names = [comfy.submit(flat(color)) for color in range(3)]
    wait_until(lambda: len(comfy.get("/history")) == 3)
    assert comfy.post("/history", delete=[names[0], "unknown", 7]).content == b""
    assert set(comfy.get("/history")) == set(names[1:])
    assert comfy.get(f"/history/{names[0]}") == {}
    comfy.post("/history", clear=True)
    assert comfy.get("/history") == {}


@pytest.mark.parametrize("path", ["/queue", "/history"])
@pytest.mark.parametrize("body", [b"nonsense", b"[]", b"7"])
def test_bad_edits_are_refused_with_a_text(comfy: Comfy, path: str, body: bytes) -> None:
    response = comfy.http.post(path, content=body)
    assert response.status_code == 400
    assert isinstance(response.json()["error"], str)


def test_too_much_at_once_is_refused_until_later() -> None:
    with comfyui_gateway(ONE_AT_A_TIME, step_seconds=0.5, max_queued_jobs=1) as served:
        comfy = Comfy(served.http)

        def refusal() -> httpx.Response:
            return served.http.post("/prompt", json={"prompt": drawn()})

        wait_until(lambda: refusal().status_code == 503, seconds=10)
        response = refusal()
        assert int(response.headers["retry-after"]) >= 1
        assert response.json()["error"]["type"] == "overloaded"
        comfy.post("/queue", clear=True)
