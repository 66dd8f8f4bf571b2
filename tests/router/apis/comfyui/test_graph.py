"""Graphs: what ComfyUI says of a wrong one, what becomes of a right one, and limits."""

from __future__ import annotations

import copy
import json
import random
import time
from collections.abc import Mapping
from typing import Any

import pytest

from deployments.types import ModelCard, SamplingParams
from router.apis.comfyui.graph import Graph, Link, named_files
from router.apis.comfyui.literal import MAX_TEXT
from router.apis.comfyui.node import Input, Node, Offer
from router.apis.comfyui.nodes import NODES
from router.apis.comfyui.validation import MAX_NODES, Refusal, ValidGraph, validate


def nothing(**_: Any) -> tuple[()]:
    return ()


def find_missing(offer: Offer, literals: Mapping[str, Any]) -> tuple[str, str] | None:
    found = literals["image"] in offer.files
    return None if found else ("image", f"Invalid image file: {literals['image']}")


def list_models(offer: Offer) -> list[str]:
    return [name for card in offer.cards for name in (card.id, *card.aliases)]


TABLE = {
    node.class_type: node
    for node in (
        Node(
            class_type="Load",
            run=nothing,
            inputs=(Input(name="ckpt_name", choices=list_models),),
            outputs=("MODEL", "CLIP"),
        ),
        Node(
            class_type="Empty",
            run=nothing,
            inputs=(
                Input(name="width", type="INT", options={"default": 8, "min": 8, "max": 16384}),
                Input(name="height", type="INT", options={"default": 8, "min": 8, "max": 16384}),
                Input(name="batch_size", type="INT", options={"min": 1, "max": 4096}),
            ),
            outputs=("LATENT",),
        ),
        Node(
            class_type="Sample",
            run=nothing,
            inputs=(
                Input(name="model", type="MODEL"),
                Input(name="seed", type="INT", options={"min": 0, "max": 2**64 - 1}),
                Input(name="cfg", type="FLOAT", options={"min": 0.0, "max": 100.0}),
                Input(name="sampler_name", choices=("euler", "lcm")),
                Input(name="latent_image", type="LATENT"),
                Input(name="text", type="STRING"),
                Input(name="tiled", type="BOOLEAN"),
                Input(name="mask", type="MASK", is_optional=True),
            ),
            outputs=("LATENT",),
        ),
        Node(
            class_type="File",
            run=nothing,
            inputs=(
                Input(
                    name="image",
                    choices=lambda offer: offer.files,
                    options={"image_upload": True},
                    is_open=True,
                ),
            ),
            outputs=("IMAGE", "MASK"),
            check=find_missing,
        ),
        Node(class_type="Step", run=nothing, inputs=(Input(name="image", type="IMAGE"),),
             outputs=("IMAGE",)),
        Node(class_type="Either", run=nothing, inputs=(Input(name="on", type="IMAGE, MASK"),),
             outputs=("IMAGE,MASK",)),
        Node(class_type="Any", run=nothing, inputs=(Input(name="of", type="*"),), outputs=("*",)),
        Node(class_type="Save", run=nothing, inputs=(Input(name="images", type="IMAGE"),),
             outputs=("IMAGE",), is_output=True),
        Node(class_type="Keep", run=nothing, inputs=(Input(name="samples", type="LATENT"),),
             is_output=True),
    )
}  # fmt: skip
CARD = ModelCard(
    id="sdxl", family="fake", modes=("text-to-image",), defaults=SamplingParams(), aliases=("xl",)
)
OFFER = Offer(cards=(CARD,), files=("a.png",))


def node(class_type: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": class_type, "inputs": inputs}


def sampling(**changes: Any) -> dict[str, Any]:
    """A graph whose node "s" samples with these inputs; None leaves one out."""
    inputs = {
        "model": ["m", 0],
        "seed": 1,
        "cfg": 7.0,
        "sampler_name": "euler",
        "latent_image": ["e", 0],
        "text": "a cat",
        "tiled": False,
    } | changes
    return {
        "m": node("Load", ckpt_name="xl"),
        "e": node("Empty", width=512, height=512, batch_size=1),
        "s": node("Sample", **{name: value for name, value in inputs.items() if value is not None}),
        "k": node("Keep", samples=["s", 0]),
    }


def accept(prompt: Any, **body: Any) -> ValidGraph:
    valid = validate({"prompt": prompt, **body}, OFFER, table=TABLE)
    assert isinstance(valid, ValidGraph), valid
    return valid


def refuse(prompt: Any, **body: Any) -> Refusal:
    refusal = validate({"prompt": prompt, **body}, OFFER, table=TABLE)
    assert isinstance(refusal, Refusal), refusal
    return refusal


def complaint(prompt: Any, node_id: str) -> dict[str, Any]:
    """The only complaint about the only wrong node of a graph."""
    errors = refuse(prompt).node_errors
    assert list(errors) == [node_id]
    assert len(errors[node_id]["errors"]) == 1
    only: dict[str, Any] = errors[node_id]["errors"][0]
    return only


# -- whole graphs ----------------------------------------------------------------------------------


def test_validate_gives_the_graph_its_outputs_and_their_order() -> None:
    prompt = sampling()

    valid = accept(prompt)

    assert valid.node_errors == {}
    assert valid.graph.outputs == ("k",)
    assert valid.graph.order == ("m", "e", "s", "k")
    assert valid.graph.links("s") == {
        "model": Link(node="m", slot=0),
        "latent_image": Link(node="e", slot=0),
    }
    assert valid.graph.literals("e") == {"width": 512, "height": 512, "batch_size": 1}
    assert valid.graph.nodes == prompt


@pytest.mark.parametrize("body", [None, [], "prompt", 3, {}, {"client_id": "a"}], ids=repr)
def test_a_body_without_a_prompt_is_refused(body: Any) -> None:
    refusal = validate(body, OFFER, table=TABLE)

    assert isinstance(refusal, Refusal)
    assert refusal.body == {
        "error": {
            "type": "no_prompt",
            "message": "No prompt provided",
            "details": "No prompt provided",
            "extra_info": {},
        },
        "node_errors": {},
    }


@pytest.mark.parametrize("prompt", [None, [], "x", 3, [["a"]]], ids=repr)
def test_a_prompt_that_is_no_object_is_refused(prompt: Any) -> None:
    assert refuse(prompt).error["type"] == "invalid_prompt"


@pytest.mark.parametrize("wrong", [{}, {"inputs": {}}, "Save", None, 4, [], {"_meta": 3}], ids=repr)
def test_a_node_without_a_class_is_named(wrong: Any) -> None:
    refusal = refuse({"7": wrong})

    assert refusal.node_errors == {}
    assert refusal.error == {
        "type": "missing_node_type",
        "message": "Node 'ID #7' has no class_type. "
        "The workflow may be corrupted or a custom node is missing.",
        "details": "Node ID '#7'",
        "extra_info": {"node_id": "7", "class_type": None, "node_title": None},
    }


def test_an_unknown_node_is_named_by_its_title() -> None:
    assert refuse({"7": {"class_type": "Nope", "_meta": {"title": "My node"}}}).error == {
        "type": "missing_node_type",
        "message": "Node 'My node' not found. The custom node may not be installed.",
        "details": "Node ID '#7'",
        "extra_info": {"node_id": "7", "class_type": "Nope", "node_title": "My node"},
    }
    assert refuse({"7": node("Nope")}).error["extra_info"]["node_title"] == "Nope"
    assert refuse({"7": {"class_type": ["Save"]}}).error["type"] == "missing_node_type"


def test_a_graph_without_outputs_is_refused() -> None:
    for prompt in ({}, {"e": node("Empty", width=8, height=8, batch_size=1)}):
        assert refuse(prompt).error == {
            "type": "prompt_no_outputs",
            "message": "Prompt has no outputs",
            "details": "",
            "extra_info": {},
        }


def test_targets_choose_among_the_outputs() -> None:
    prompt = {"f": node("File", image="a.png"), "1": node("Save", images=["f", 0])}
    prompt["2"] = node("Save", images=["f", 0])

    assert accept(prompt).graph.outputs == ("1", "2")
    assert accept(prompt, partial_execution_targets=None).graph.outputs == ("1", "2")
    assert accept(prompt, partial_execution_targets=["2", "f", 4]).graph.outputs == ("2",)
    for none in ([], ["f"], [[]]):
        error = refuse(prompt, partial_execution_targets=none).error
        assert error["type"] == "prompt_no_outputs"
    assert refuse(prompt, partial_execution_targets="2").error["type"] == "invalid_prompt"


def test_good_outputs_run_although_others_fail() -> None:
    prompt = {
        "f": node("File", image="a.png"),
        "g": node("File", image="b.png"),
        "1": node("Save", images=["f", 0]),
        "2": node("Save", images=["g", 0]),
        "3": node("Save", images=["g", 0]),
        "4": node("Save"),
    }

    valid = accept(prompt)

    assert valid.graph.outputs == ("1",)
    assert valid.graph.order == ("f", "1")
    assert valid.graph.files() == ("a.png",)
    assert valid.node_errors == {
        "g": {
            "errors": [
                {
                    "type": "custom_validation_failed",
                    "message": "Custom validation failed for node",
                    "details": "image - Invalid image file: b.png",
                    "extra_info": {"input_name": "image"},
                }
            ],
            "dependent_outputs": ["2", "3"],
            "class_type": "File",
        },
        "4": {
            "errors": [
                {
                    "type": "required_input_missing",
                    "message": "Required input is missing",
                    "details": "images",
                    "extra_info": {"input_name": "images"},
                }
            ],
            "dependent_outputs": ["4"],
            "class_type": "Save",
        },
    }


def test_only_complaints_about_outputs_are_in_the_error_of_the_whole() -> None:
    failed = "Prompt outputs failed validation"
    upstream = refuse({"g": node("File", image="b.png"), "1": node("Save", images=["g", 0])})
    own = refuse({"1": node("Save"), "2": node("Save", images=[1])})

    assert upstream.error == {
        "type": "prompt_outputs_failed_validation",
        "message": failed,
        "details": "",
        "extra_info": {},
    }
    assert own.error["details"] == (
        "Required input is missing: images\n"
        "Bad linked input, must be a length-2 list of [node_id, slot_index]: images"
    )


def test_nodes_that_no_output_needs_are_left_alone() -> None:
    prompt = {"f": node("File", image="a.png"), "1": node("Save", images=["f", 0])}
    prompt["x"] = node("Sample", seed="no number")

    valid = accept(prompt)

    assert valid.node_errors == {}
    assert valid.graph.nodes["x"] == node("Sample", seed="no number")


# -- inputs ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "given", "kept"),
    [
        ("seed", "5", 5),
        ("seed", 5.7, 5),
        ("seed", True, 1),
        ("seed", 2**64 - 1, 2**64 - 1),
        ("cfg", "7.5", 7.5),
        ("cfg", 7, 7.0),
        ("text", 3, "3"),
        ("text", None, None),
        ("text", {"__value__": ["a", 0]}, "['a', 0]"),
        ("tiled", "false", True),
        ("tiled", 0, False),
        ("sampler_name", {"__value__": "lcm"}, "lcm"),
    ],
    ids=repr,
)
def test_literals_become_what_comfyui_makes_of_them(name: str, given: Any, kept: Any) -> None:
    prompt = sampling()
    prompt["s"]["inputs"][name] = given
    before = copy.deepcopy(prompt)

    graph = accept(prompt).graph

    expected = "None" if given is None else kept
    assert graph.nodes["s"]["inputs"][name] == expected
    assert type(graph.literals("s")[name]) is type(expected)
    assert prompt == before


@pytest.mark.parametrize(
    ("name", "given", "reason"),
    [
        ("seed", "x", "invalid literal for int() with base 10: 'x'"),
        ("seed", "1.5", "invalid literal for int() with base 10: '1.5'"),
        ("cfg", "much", "could not convert string to float: 'much'"),
        ("cfg", "nan", "it is not a finite number"),
        ("cfg", "1e999", "it is not a finite number"),
    ],
    ids=repr,
)
def test_a_literal_of_another_type_is_refused(name: str, given: Any, reason: str) -> None:
    kind = {"seed": "INT", "cfg": "FLOAT"}[name]
    limits = dict(TABLE["Sample"].find_input(name).options)  # type: ignore[union-attr]

    assert complaint(sampling(**{name: given}), "s") == {
        "type": "invalid_input_type",
        "message": f"Failed to convert an input value to a {kind} value",
        "details": f"{name}, {given}, {reason}",
        "extra_info": {
            "input_name": name,
            "input_config": [kind, limits],
            "received_value": given,
            "exception_message": reason,
        },
    }


@pytest.mark.parametrize("given", [None, {}, {"__value__": [1]}, {"a": 1}], ids=repr)
def test_what_is_no_number_at_all_is_refused(given: Any) -> None:
    prompt = sampling()
    prompt["s"]["inputs"]["seed"] = given

    assert complaint(prompt, "s")["type"] == "invalid_input_type"


def test_numbers_out_of_range_are_refused() -> None:
    assert complaint(sampling(seed=-1), "s") == {
        "type": "value_smaller_than_min",
        "message": "Value -1 smaller than min of 0",
        "details": "seed",
        "extra_info": {
            "input_name": "seed",
            "input_config": ["INT", {"min": 0, "max": 2**64 - 1}],
            "received_value": -1,
        },
    }
    assert complaint(sampling(cfg=101), "s") == {
        "type": "value_bigger_than_max",
        "message": "Value 101.0 bigger than max of 100.0",
        "details": "cfg",
        "extra_info": {
            "input_name": "cfg",
            "input_config": ["FLOAT", {"min": 0.0, "max": 100.0}],
            "received_value": 101.0,
        },
    }


def test_a_value_that_is_no_choice_is_refused() -> None:
    assert complaint(sampling(sampler_name="dpm"), "s") == {
        "type": "value_not_in_list",
        "message": "Value not in list",
        "details": "sampler_name: 'dpm' not in ['euler', 'lcm']",
        "extra_info": {
            "input_name": "sampler_name",
            "input_config": [["euler", "lcm"], {}],
            "received_value": "dpm",
        },
    }
    assert complaint(sampling(sampler_name=["euler"]), "s")["type"] == "bad_linked_input"
    assert complaint(sampling(sampler_name=4), "s")["details"].startswith("sampler_name: 4 not in")


def test_a_model_is_named_by_id_or_alias() -> None:
    prompt = sampling()
    prompt["m"] = node("Load", ckpt_name="sd_xl_base_1.0.safetensors")

    assert complaint(prompt, "m")["details"] == (
        "ckpt_name: 'sd_xl_base_1.0.safetensors' not in ['sdxl', 'xl']"
    )
    for name in ("sdxl", "xl"):
        prompt["m"] = node("Load", ckpt_name=name)
        graph = accept(prompt).graph
        assert graph.models(OFFER) == ("sdxl",)
        assert graph.first_model(OFFER) == "sdxl"
        assert graph.samplers() == ("s",)


def test_many_choices_are_told_by_their_number() -> None:
    files = tuple(f"{k}.png" for k in range(21))
    row = Input(name="file", choices=files)
    table = {"Save": Node(class_type="Save", run=nothing, inputs=(row,), is_output=True)}

    refusal = validate({"prompt": {"1": node("Save", file="x")}}, OFFER, table=table)

    assert isinstance(refusal, Refusal)
    error = refusal.node_errors["1"]["errors"][0]
    assert error["details"] == "file: 'x' not in (list of length 21)"
    assert error["extra_info"]["input_config"] is None


def test_inputs_that_a_node_does_not_have_are_ignored() -> None:
    graph = accept(sampling(extra=["nowhere", 3], control_after_generate="fixed")).graph

    assert "extra" not in graph.links("s")
    assert graph.nodes["s"]["inputs"]["extra"] == ["nowhere", 3]


def test_an_optional_link_may_be_null_or_missing() -> None:
    prompt = sampling()
    prompt["s"]["inputs"]["mask"] = None

    graph = accept(prompt).graph

    assert "mask" not in graph.literals("s")
    assert complaint(sampling(mask="x"), "s")["type"] == "bad_linked_input"


# -- links -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("given", [[], ["e"], ["e", 0, 0], [[]]], ids=repr)
def test_a_list_that_is_no_pair_is_no_link(given: Any) -> None:
    assert complaint(sampling(latent_image=given), "s") == {
        "type": "bad_linked_input",
        "message": "Bad linked input, must be a length-2 list of [node_id, slot_index]",
        "details": "latent_image",
        "extra_info": {
            "input_name": "latent_image",
            "input_config": ["LATENT", {}],
            "received_value": given,
        },
    }


def test_a_literal_where_only_a_link_can_be_is_refused() -> None:
    assert complaint(sampling(model="sdxl"), "s")["type"] == "bad_linked_input"


def test_types_that_differ_are_refused() -> None:
    assert complaint(sampling(latent_image=["m", 0]), "s") == {
        "type": "return_type_mismatch",
        "message": "Return type mismatch between linked nodes",
        "details": "latent_image, received_type(MODEL) mismatch input_type(LATENT)",
        "extra_info": {
            "input_name": "latent_image",
            "input_config": ["LATENT", {}],
            "received_type": "MODEL",
            "linked_node": ["m", 0],
        },
    }
    assert complaint(sampling(sampler_name=["m", 1]), "s")["details"] == (
        "sampler_name, received_type(CLIP) mismatch input_type(['euler', 'lcm'])"
    )


def test_unions_meet_where_they_share_a_type() -> None:
    prompt = {
        "f": node("File", image="a.png"),
        "x": node("Either", on=["f", 1]),
        "1": node("Save", images=["x", 0]),
    }

    assert accept(prompt).graph.order == ("f", "x", "1")
    prompt["1"] = node("Keep", samples=["x", 0])
    assert complaint(prompt, "1")["details"] == (
        "samples, received_type(IMAGE,MASK) mismatch input_type(LATENT)"
    )


def test_a_file_cannot_come_over_a_link() -> None:
    prompt = {
        "x": node("Any", of=None),
        "f": node("File", image=["x", 0]),
        "1": node("Save", images=["f", 0]),
    }

    assert complaint(prompt, "f")["type"] == "return_type_mismatch"


def test_any_type_passes_on_the_type_that_it_gets() -> None:
    prompt = {
        "f": node("File", image="a.png"),
        "x": node("Any", of=["f", 0]),
        "y": node("Any", of=["x", 0]),
        "1": node("Save", images=["y", 0]),
    }
    assert accept(prompt).graph.order == ("f", "x", "y", "1")

    prompt["x"] = node("Any", of=["f", 1])
    assert "received_type(MASK)" in complaint(prompt, "1")["details"]

    prompt["x"] = node("Any", of=12)
    assert "received_type(INT,FLOAT)" in complaint(prompt, "1")["details"]


@pytest.mark.parametrize(
    ("link", "details", "exception"),
    [
        (["nowhere", 0], "'nowhere'", "KeyError"),
        ([5, 0], "5", "KeyError"),
        ([["f"], 0], "['f']", "KeyError"),
        (["f", 2], "tuple index out of range", "IndexError"),
        (["f", -1], "tuple index out of range", "IndexError"),
        (["f", "0"], "tuple indices must be integers or slices, not str", "TypeError"),
        (["f", 0.0], "tuple indices must be integers or slices, not float", "TypeError"),
        (["f", None], "tuple indices must be integers or slices, not NoneType", "TypeError"),
    ],
    ids=repr,
)
def test_a_link_to_what_is_not_there_is_refused(link: Any, details: str, exception: str) -> None:
    at_output = {"f": node("File", image="a.png"), "1": node("Save", images=link)}
    inside = at_output | {"1": node("Step", image=link), "2": node("Save", images=["1", 0])}

    assert complaint(at_output, "1") == {
        "type": "exception_during_validation",
        "message": "Exception when validating node",
        "details": details,
        "extra_info": {"exception_type": exception, "traceback": []},
    }
    assert complaint(inside, "1") == {
        "type": "exception_during_inner_validation",
        "message": "Exception when validating inner node",
        "details": details,
        "extra_info": {
            "input_name": "images",
            "input_config": ["IMAGE", {}],
            "exception_message": details,
            "exception_type": exception,
            "traceback": [],
            "linked_node": ["1", 0],
        },
    }


def test_inputs_may_be_left_out_but_not_be_something_else() -> None:
    assert refuse({"1": {"class_type": "Save"}}).node_errors["1"]["errors"][0]["type"] == (
        "required_input_missing"
    )
    assert complaint({"1": {"class_type": "Save", "inputs": []}}, "1")["type"] == (
        "exception_during_validation"
    )


def test_a_cycle_is_told_at_each_of_its_nodes() -> None:
    refusal = refuse(
        {
            "a": node("Step", image=["b", 0]),
            "b": node("Step", image=["c", 0]),
            "c": node("Step", image=["a", 0]),
            "1": node("Save", images=["a", 0]),
        }
    )

    assert refusal.error["type"] == "prompt_outputs_failed_validation"
    assert sorted(refusal.node_errors) == ["a", "b", "c"]
    assert refusal.node_errors["b"] == {
        "errors": [
            {
                "type": "dependency_cycle",
                "message": "Dependency cycle detected",
                "details": "a (Step) -> b (Step) -> c (Step) -> a (Step)",
                "extra_info": {"node_id": "b", "cycle_nodes": ["a", "b", "c"]},
            }
        ],
        "dependent_outputs": ["1"],
        "class_type": "Step",
    }


def test_an_output_that_needs_itself_is_refused() -> None:
    assert complaint({"1": node("Save", images=["1", 0])}, "1")["details"] == (
        "1 (Save) -> 1 (Save)"
    )


def test_a_cycle_beside_a_good_output_leaves_that_one() -> None:
    valid = accept(
        {
            "f": node("File", image="a.png"),
            "a": node("Any", of=["a", 0]),
            "1": node("Save", images=["f", 0]),
            "2": node("Save", images=["a", 0]),
        }
    )

    assert valid.graph.outputs == ("1",)
    assert list(valid.node_errors) == ["a"]


# -- limits ----------------------------------------------------------------------------------------


def chain(length: int) -> dict[str, Any]:
    """A file, so many steps less two, and an output."""
    prompt = {"0": node("File", image="a.png")}
    for k in range(1, length - 1):
        prompt[str(k)] = node("Step", image=[str(k - 1), 0])
    prompt["last"] = node("Save", images=[str(length - 2), 0])
    return prompt


def test_a_chain_may_have_500_nodes() -> None:
    assert len(accept(chain(500)).graph.order) == 500
    assert "500" in refuse(chain(501)).error["message"]
    assert refuse(chain(2000)).error["type"] == "invalid_prompt"


def test_a_chain_counts_where_outputs_meet() -> None:
    prompt = chain(400)
    prompt["below"] = node("Step", image=["last", 0])
    for k in range(150):
        prompt[f"x{k}"] = node("Step", image=["below" if k == 0 else f"x{k - 1}", 0])
    prompt["2"] = node("Save", images=["x149", 0])

    assert refuse(prompt).error["type"] == "invalid_prompt"


def test_a_graph_may_have_2000_nodes() -> None:
    prompt = {"f": node("File", image="a.png")}
    prompt |= {str(k): node("Save", images=["f", 0]) for k in range(MAX_NODES - 1)}
    started = time.perf_counter()

    assert len(accept(prompt).graph.outputs) == MAX_NODES - 1

    assert time.perf_counter() - started < 1
    prompt["more"] = node("Save", images=["f", 0])
    assert "2000" in refuse(prompt).error["message"]
    assert named_files(prompt) == ()


def test_long_texts_are_refused() -> None:
    assert accept(sampling(text="x" * MAX_TEXT))
    error = complaint(sampling(text="x" * (MAX_TEXT + 1)), "s")
    assert error["type"] == "custom_validation_failed"
    assert "20000" in error["details"]
    assert refuse(sampling(note="x" * 5_000_000)).error["type"] == "invalid_prompt"
    assert refuse({"i" * 129: node("Save")}).error["type"] == "invalid_prompt"


@pytest.mark.parametrize(
    ("size", "name", "limit"),
    [
        ((16384, 16384, 1), "width", "67108864"),
        ((4096, 4096, 5), "width", "67108864"),
        ((64, 64, 257), "batch_size", "256"),
    ],
    ids=str,
)
def test_too_many_pixels_are_refused(size: tuple[int, int, int], name: str, limit: str) -> None:
    prompt = sampling()
    prompt["e"] = node("Empty", width=size[0], height=size[1], batch_size=size[2])

    error = complaint(prompt, "e")

    assert error["type"] == "custom_validation_failed"
    assert limit in error["details"]
    assert error["extra_info"] == {"input_name": name}


def test_deep_values_are_refused() -> None:
    deep: Any = 1
    for _ in range(3000):
        deep = [deep]

    assert "64" in refuse(sampling(text=deep)).error["message"]


# -- views -----------------------------------------------------------------------------------------


def test_a_graph_is_the_same_after_its_way_through_json() -> None:
    valid = accept(sampling(text={"__value__": [1, 2, 3]}))

    again = Graph(json.loads(json.dumps(valid.graph.nodes)), valid.graph.outputs, table=TABLE)

    assert again.order == valid.graph.order
    assert again.literals("s") == valid.graph.literals("s")


@pytest.mark.parametrize("given", [{"__value__": ["euler"]}, None, "euler"], ids=repr)
def test_a_choice_cannot_come_over_a_link(given: Any) -> None:
    prompt = sampling(sampler_name=["x", 0])
    prompt["x"] = node("Any", of=given)
    assert complaint(prompt, "s")["type"] == "return_type_mismatch"


def test_a_list_that_is_a_value_is_no_link() -> None:
    prompt = {"x": node("Any", of={"__value__": ["f", 0]}), "1": node("Save", images=["x", 0])}

    graph = accept(prompt).graph

    assert graph.links("x") == {}
    assert graph.literals("x") == {"of": ["f", 0]}


def test_files_are_named_before_the_graph_is_known_to_be_valid() -> None:
    prompt = {
        "1": node("LoadImage", image="a.png"),
        "2": node("LoadImageMask", image="b/c.png [output]", channel="red"),
        "3": node("LoadImage", image=["1", 0]),
        "4": node("LoadImage"),
        "5": {"class_type": []},
        "6": 3,
        "7": node("LoadImage", image="a.png"),
    }

    assert named_files(prompt) == ("a.png", "b/c.png [output]")
    assert named_files([1]) == ()


# -- the seeds' graphs -----------------------------------------------------------------------------


def seed_graph(prompt: str = "A cute cat") -> dict[str, Any]:
    """The graph of seed 001's first workflow."""
    return {
        "1": node("QwenVLCLIPLoader", model_path="Qwen-Image-Edit-2509-FP8"),
        "2": node("TextEncodeQwenImageEdit", text=prompt, clip=["1", 0]),
        "3": node("TextEncodeQwenImageEdit", text="blurry", clip=["1", 0]),
        "4": node("QwenVLEmptyLatent", width=512, height=512, batch_size=1),
        "5": node(
            "QwenImageSamplerNode",
            seed=42, steps=20, cfg=7.0, sampler_name="euler_ancestral", scheduler="normal",
            transformer=["1", 1], positive=["2", 0], negative=["3", 0], latent_image=["4", 0],
        ),
        "6": node("VAEDecode", samples=["5", 0], vae=["1", 2]),
        "7": node("SaveImage", filename_prefix="Qwen_T2I", images=["6", 0]),
    }  # fmt: skip


def seed_edit() -> dict[str, Any]:
    """The graph of seed 001's second workflow, with one image."""
    return {
        "1": node("LoadImage", image="source.png"),
        "2": node("QwenVLCLIPLoader", model_path="Qwen-Image-Edit-2509-FP8"),
        "3": node("QwenVLImageToLatent", image=["1", 0], vae=["2", 2]),
        "4": node("TextEncodeQwenImageEdit", text="Change sky to sunset", clip=["2", 0]),
        "5": node("TextEncodeQwenImageEdit", text="blurry, distorted", clip=["2", 0]),
        "6": node(
            "QwenImageSamplerWithEdit",
            seed=42, steps=25, cfg=7.5, denoise=0.6, edit_strength=0.75, transformer=["2", 1],
            positive=["4", 0], negative=["5", 0], image=["3", 0],
        ),
        "7": node("VAEDecode", samples=["6", 0], vae=["2", 2]),
        "8": node("SaveImage", filename_prefix="Qwen_I2I", images=["7", 0]),
    }  # fmt: skip


QWEN = ModelCard(
    id="qwen-image-edit",
    family="fake",
    modes=("text-to-image", "edit"),
    defaults=SamplingParams(),
    aliases=("Qwen-Image-Edit-2509-FP8",),
    has_latents=True,
)


@pytest.mark.parametrize("prompt", [seed_graph(), seed_edit()], ids=["text", "edit"])
def test_the_seeds_graphs_are_valid(prompt: dict[str, Any]) -> None:
    valid = validate({"prompt": prompt}, Offer(cards=(QWEN,), files=("source.png",)))

    assert isinstance(valid, ValidGraph), valid
    assert valid.node_errors == {}
    assert valid.graph.first_model(Offer(cards=(QWEN,))) == "qwen-image-edit"
    assert len(valid.graph.samplers()) == 1


def test_the_seeds_troubleshooting_is_found() -> None:
    prompt = seed_graph()
    prompt["1"] = node("CheckpointLoaderSimple", ckpt_name="v1-5-pruned.ckpt")

    refusal = validate({"prompt": prompt}, Offer(cards=(QWEN,)))

    assert isinstance(refusal, Refusal)
    errors = refusal.node_errors["1"]["errors"]
    assert [(error["type"], error["message"]) for error in errors] == [
        ("value_not_in_list", "Value not in list")
    ]


# -- any JSON --------------------------------------------------------------------------------------

WORDS = [
    *TABLE, "class_type", "inputs", "prompt", "_meta", "title", "1", "2", "", "image", "images",
    "model", "seed", "text", "samples", "__value__", "a.png", "euler", "width", "of", "on", "é",
]  # fmt: skip


def anything(random_: random.Random, depth: int = 0) -> Any:
    kind = random_.randrange(9 if depth < 6 else 6)
    match kind:
        case 0:
            return random_.choice([None, True, False])
        case 1:
            return random_.choice([0, 1, -1, 2**70, 10**400, 3])
        case 2:
            return random_.choice([0.5, -0.0, 1e308, float("nan"), float("inf")])
        case 3 | 4 | 5:
            return random_.choice(WORDS)
        case 6:
            return [anything(random_, depth + 1) for _ in range(random_.randrange(4))]
        case 7:
            return [random_.choice("123456"), random_.choice([0, 0, 1, 2, "0", None])]
    return {
        random_.choice(WORDS): anything(random_, depth + 1) for _ in range(random_.randrange(5))
    }


def almost(random_: random.Random, table: Mapping[str, Node]) -> dict[str, Any]:
    """A graph of known nodes whose inputs are anything."""
    graph: dict[str, Any] = {}
    kinds = list(table.values())
    outputs = [kind for kind in kinds if kind.is_output]
    for node_id in "123456"[: random_.randrange(1, 7)]:
        kind = random_.choice(outputs if node_id == "1" else kinds)
        graph[node_id] = node(kind.class_type)
        for row in kind.inputs:
            if random_.random() < 0.95:
                link = [random_.choice("23456"), 0]
                is_link = row.is_link or random_.random() < 0.3
                value = link if is_link else row.options.get("default", "a.png")
                graph[node_id]["inputs"][row.name] = (
                    value if random_.random() < 0.8 else anything(random_, 3)
                )
    return graph


@pytest.mark.parametrize("table", [TABLE, NODES], ids=["small", "real"])
def test_any_json_is_answered(table: Mapping[str, Node]) -> None:
    random_ = random.Random(7)
    for k in range(3000):
        prompt = almost(random_, table) if k % 3 else anything(random_)
        body = {"prompt": prompt, "partial_execution_targets": None if k % 5 else anything(random_)}
        answer = validate(body if k % 50 else anything(random_), OFFER, table=table)
        if isinstance(answer, Refusal):
            assert set(answer.error) == {"type", "message", "details", "extra_info"}
            assert isinstance(answer.error["message"], str)
        else:
            assert answer.graph.outputs
            assert all(answer.graph.literals(name) is not None for name in answer.graph.order)
        named_files(prompt)
