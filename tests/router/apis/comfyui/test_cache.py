"""What nodes gave before: whose it is, how much of it, and when it is used."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from deployments.types import Latents
from router.apis.comfyui.cache import Given, NodeCache
from router.apis.comfyui.values import Images, Latent, Several
from router.fake_models import FakeModels
from tests.router.apis.comfyui.easel import (
    QWEN,
    SDXL,
    Easel,
    execution,
    node,
    text_to_image,
    types_of,
)


def given(side: int = 8) -> Given:
    """64 bytes per pixel of a side of 8."""
    return Given(values=(Images(pixels=[np.zeros((side, side, 3), np.uint8)]),))


def remote() -> Latent:
    return Latent(
        pictures=(Latents(num_images=1, width=8, height=8, value=object(), num_bytes=16),)
    )


async def ran(easel: Easel, graph: dict[str, Any], cache: NodeCache, **more: Any) -> list[str]:
    """Ids of the nodes that ran."""
    await execution(easel, graph, cache=cache, **more).run()
    return [name for _, name in types_of(easel.frames, "executing")]


# -- the cache ----------------------------------------------------------------------------------


def test_owners_find_only_their_own() -> None:
    cache = NodeCache()
    cache.add("ann", "key", given())
    assert cache.get("ann", "key") is not None
    assert cache.get("bob", "key") is None


def test_oldest_used_go_first_when_there_are_too_many() -> None:
    cache = NodeCache(max_entries=2)
    cache.add("ann", "a", given())
    cache.add("ann", "b", given())
    cache.get("ann", "a")
    cache.add("ann", "c", given())
    assert [cache.get("ann", key) is not None for key in "abc"] == [True, False, True]


def test_oldest_used_go_first_when_they_are_too_large() -> None:
    cache = NodeCache(max_bytes=2 * 8 * 8 * 8)
    for key in "abc":
        cache.add("ann", key, given())
    assert [cache.get("ann", key) is not None for key in "abc"] == [False, True, True]


def test_what_alone_is_too_large_is_not_kept() -> None:
    cache = NodeCache(max_bytes=8 * 8 * 8)
    cache.add("ann", "small", given())
    cache.add("ann", "large", given(side=16))
    assert cache.get("ann", "small") is not None
    assert cache.get("ann", "large") is None


def test_same_key_again_takes_no_more_room() -> None:
    cache = NodeCache(max_bytes=2 * 8 * 8 * 8)
    for _ in range(5):
        cache.add("ann", "a", given())
    cache.add("ann", "b", given())
    assert cache.get("ann", "a") is not None


def test_clearing_forgets_one_owners() -> None:
    cache = NodeCache()
    cache.add("ann", "key", given())
    cache.add("bob", "key", given())
    cache.clear("ann")
    assert cache.get("ann", "key") is None
    assert cache.get("bob", "key") is not None


def test_dropping_what_is_remote_leaves_the_rest() -> None:
    cache = NodeCache()
    cache.add("ann", "latent", Given(values=(remote(),)))
    cache.add("ann", "several", Given(values=(Several(values=(remote(), remote())),)))
    cache.add("ann", "image", given())
    cache.drop_remote("ann")
    assert [cache.get("ann", key) is not None for key in ("latent", "several", "image")] == [
        False,
        False,
        True,
    ]


# -- graphs over it -----------------------------------------------------------------------------


async def test_same_graph_runs_nothing_again_and_shows_the_same() -> None:
    easel, cache = Easel(), NodeCache()
    await ran(easel, text_to_image(), cache)
    shown = easel.result["outputs"]
    assert await ran(easel, text_to_image(), cache) == []
    assert set(easel.notes[1]["data"]["nodes"]) == {"3", "4", "5", "6", "7", "8", "9"}
    assert types_of(easel.frames, "executed") == [("executed", "9")]
    assert easel.result["outputs"] == shown
    assert list(easel.result["meta"]) == ["9"]
    assert len(await easel.files.list(owner="ann", kind="output")) == 1


async def test_changed_node_runs_again_with_all_behind_it() -> None:
    easel, cache = Easel(), NodeCache()
    await ran(easel, text_to_image(), cache)
    assert await ran(easel, text_to_image(seed=6), cache) == ["3", "8", "9"]
    assert set(easel.notes[1]["data"]["nodes"]) == {"4", "5", "6", "7"}


async def test_nodes_are_known_by_what_they_do_and_not_by_their_names() -> None:
    easel, cache = Easel(), NodeCache()
    await ran(easel, text_to_image(), cache)
    renamed: dict[str, Any] = {}
    for name, row in text_to_image().items():
        links = {
            key: [f"n{value[0]}", value[1]] if isinstance(value, list) else value
            for key, value in row["inputs"].items()
        }
        renamed[f"n{name}"] = {**row, "inputs": links}
    assert await ran(easel, renamed, cache) == []


async def test_other_output_of_the_same_node_is_another_input() -> None:
    easel, cache = Easel(), NodeCache()
    png = given().values[0].encoded[0]
    graph = {
        "1": node("LoadImage", image="a.png"),
        "2": node("MaskToImage", mask=["1", 1]),
        "3": node("PreviewImage", images=["2", 0]),
    }
    await ran(easel, graph, cache, inputs={"a.png": png})
    graph["3"] = node("PreviewImage", images=["1", 0])
    assert await ran(easel, graph, cache, inputs={"a.png": png}) == ["3"]


async def test_removed_file_is_saved_again() -> None:
    easel, cache = Easel(), NodeCache()
    await ran(easel, text_to_image(), cache)
    (file,) = await easel.files.list(owner="ann", kind="output")
    await easel.files.remove(file)
    assert await ran(easel, text_to_image(), cache, id="img_2") == ["9"]
    assert len(await easel.files.list(owner="ann", kind="output")) == 1


async def test_file_of_another_content_is_another_file() -> None:
    easel, cache = Easel(), NodeCache()
    graph = {
        "1": node("LoadImage", image="a.png"),
        "2": node("PreviewImage", images=["1", 0]),
    }
    first, second = (given(side).values[0].encoded[0] for side in (8, 9))
    await ran(easel, graph, cache, inputs={"a.png": first})
    assert await ran(easel, graph, cache, inputs={"a.png": first}) == []
    assert await ran(easel, graph, cache, inputs={"a.png": second}) == ["1", "2"]


async def test_weights_from_elsewhere_are_other_weights() -> None:
    cache = NodeCache()

    async def ran_with(digest: str) -> list[str]:
        card = replace(SDXL, weights=("ann",), weights_digests=(("ann", digest),))
        graph = text_to_image()
        graph["4"]["inputs"]["ckpt_name"] = "sdxl-turbo/ann"
        return await ran(Easel(FakeModels(card, QWEN)), graph, cache)

    assert len(await ran_with("0a")) == 7
    assert await ran_with("0a") == ["9"]  # whose file another canvas has
    assert set(await ran_with("0b")) == {"4", "6", "7", "3", "8", "9"}


async def test_other_owner_runs_everything() -> None:
    easel, cache = Easel(), NodeCache()
    await ran(easel, text_to_image(), cache)
    assert len(await ran(easel, text_to_image(), cache, owner="bob")) == 7


async def test_websocket_pictures_are_sent_every_time() -> None:
    easel, cache = Easel(), NodeCache()
    graph = text_to_image()
    graph["9"] = node("SaveImageWebsocket", images=["8", 0])
    await ran(easel, graph, cache)
    assert await ran(easel, graph, cache) == ["9"]
    assert [note for note in easel.notes if "show" in note]


async def test_seed_of_any_value_is_drawn_every_time() -> None:
    easel, cache = Easel(), NodeCache()
    graph = text_to_image()
    sampler = graph["3"]["inputs"]
    graph["3"] = node(
        "QwenImageSamplerNode", **{**sampler, "seed": -1, "transformer": sampler.pop("model")}
    )
    await ran(easel, graph, cache)
    await ran(easel, graph, cache, id="img_2")
    seeds = [call.params.seed for call in easel.models.calls if call.task == "generate"]  # type: ignore[attr-defined]
    assert len(set(seeds)) == 2


async def test_another_attempt_trusts_no_latents() -> None:
    easel, cache = Easel(), NodeCache()
    graph = text_to_image()
    await ran(easel, graph, cache)
    graph["10"] = node("PreviewImage", images=["11", 0])
    graph["11"] = node("VAEDecodeTiled", samples=["3", 0], vae=["4", 2], tile_size=64, overlap=0)
    assert set(await ran(easel, graph, cache, attempts=2)) == {"3", "11", "10"}
