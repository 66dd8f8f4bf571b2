"""Plan: which nodes of a graph are to run, in which order, and which the cache answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from router.apis.comfyui.cache import Given, key_of
from router.apis.comfyui.graph import Graph
from router.apis.comfyui.values import ANY_SEED


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is to be done.

    Attributes:
        order: ids of the nodes to run, each after those that it needs.
        reused: ids of the nodes that need not run, in the graph's order.
        given: what nodes gave before, for as many as are remembered.
    """

    order: tuple[str, ...]
    reused: tuple[str, ...]
    given: Mapping[str, Given]


def keys_of(graph: Graph, contents: Mapping[str, str]) -> dict[str, str]:
    """The cache's keys of the nodes that have one: those that are cached and need only such.

    ``contents``: see ``cache.key_of``.
    """
    keys: dict[str, str] = {}
    for node in graph.order:
        kind, links, literals = graph.kind(node), graph.links(node), graph.literals(node)
        is_cached = kind.is_cached and literals.get("seed") != ANY_SEED
        if is_cached and all(link.node in keys for link in links.values()):
            upstream = {name: (keys[link.node], link.slot) for name, link in links.items()}
            keys[node] = key_of(kind.class_type, literals, upstream, contents)
    return keys


def make_plan(graph: Graph, found: Mapping[str, Given]) -> Plan:
    """The plan, given what the cache holds of the graph's nodes."""
    needed: set[str] = set()
    waiting = list(graph.outputs)
    while waiting:
        node = waiting.pop()
        if node not in needed and node not in found:
            needed.add(node)
            waiting += [link.node for link in graph.links(node).values()]
    reused = set(graph.order) - needed
    return Plan(
        order=tuple(node for node in graph.order if node in needed),
        reused=tuple(node for node in graph.nodes if node in reused),
        given=found,
    )
