"""Graph: nodes by id, what they are linked to, and the order in which they may run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from router.apis.comfyui.literal import unwrap
from router.apis.comfyui.node import ANY, Input, Node, Offer
from router.apis.comfyui.nodes import NODES

#: The most nodes of a graph.
MAX_NODES: Final = 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """Where an input's value comes from: an output of a node, counted from 0."""

    node: str
    slot: int


class Graph:
    """A graph that was found valid, at least as far as its ``outputs`` reach.

    Attributes:
        nodes: as the client wrote them, with literals of their types: ``class_type``, ``inputs``.
        outputs: ids of the output nodes to run.
        order: ids of these and of all that they depend on, each after what it depends on.
    """

    def __init__(
        self,
        nodes: Mapping[str, Mapping[str, Any]],
        outputs: Sequence[str],
        *,
        table: Mapping[str, Node] = NODES,
    ) -> None:
        self.nodes = nodes
        self.outputs = tuple(outputs)
        self._table = table
        self.order = tuple(self._walk())

    def kind(self, node_id: str) -> Node:
        """What the node is."""
        return self._table[self.nodes[node_id]["class_type"]]

    def links(self, node_id: str) -> dict[str, Link]:
        """The inputs of a node whose values come over links."""
        return {
            row.name: Link(node=value[0], slot=value[1])
            for row, value in self._given(node_id)
            if isinstance(value, list)
        }

    def literals(self, node_id: str) -> dict[str, Any]:
        """The inputs of a node whose values the client wrote."""
        return {
            row.name: unwrap(value)
            for row, value in self._given(node_id)
            if not (isinstance(value, list) or (row.is_link and unwrap(value) is None))
        }

    def files(self) -> tuple[str, ...]:
        """The input files that nodes to be run name, each once, as they name them."""
        names = (
            name
            for node_id in self.order
            for name in _named_files(self.kind(node_id), self.nodes[node_id])
        )
        return tuple(dict.fromkeys(names))

    def models(self, offer: Offer) -> tuple[str, ...]:
        """Ids of the models that nodes to be run load, each once, in order."""
        found = (self._loads(node_id, offer) for node_id in self.order)
        return tuple(dict.fromkeys(model for model in found if model))

    def loaded(self) -> tuple[str, ...]:
        """Names of models, weights and LoRAs that nodes to be run name, each once, in order."""
        names = (name for node_id in self.order for name in self._named(node_id))
        return tuple(dict.fromkeys(names))

    def samplers(self) -> tuple[str, ...]:
        """Ids of the nodes that denoise latents with a model, in order."""
        return tuple(node_id for node_id in self.order if _is_sampler(self.kind(node_id)))

    def first_model(self, offer: Offer) -> str:
        """Id of the model of the first sampler; empty when nothing is sampled."""
        found = (self.model_of(node_id, offer) for node_id in self.samplers())
        return next(filter(None, found), "")

    def model_of(self, sampler: str, offer: Offer) -> str:
        """Id of the model that a sampler draws with; empty when none is loaded for it."""
        at: str | None = sampler
        while at is not None:
            if model := self._loads(at, offer):
                return model
            at = self._model_source(at)
        return ""

    def _given(self, node_id: str) -> Iterator[tuple[Input, Any]]:
        inputs = self.nodes[node_id].get("inputs", {})
        for row in self.kind(node_id).inputs:
            if row.name in inputs:
                yield row, inputs[row.name]

    def _loads(self, node_id: str, offer: Offer) -> str:
        found = (offer.own.find(offer.cards, name) for name in self._named(node_id))
        return next((variant.card.id for variant in found if variant), "")

    def _named(self, node_id: str) -> Iterator[str]:
        for row, value in self._given(node_id):
            is_file = "image_upload" in row.options
            if callable(row.choices) and not is_file and isinstance(value, str):
                yield value

    def _model_source(self, node_id: str) -> str | None:
        links = self.links(node_id)
        names = [row.name for row in self.kind(node_id).inputs if row.type in {"MODEL", ANY}]
        return next((links[name].node for name in names if name in links), None)

    def _walk(self) -> Iterator[str]:
        seen: set[str] = set()
        for output in self.outputs:
            if output in seen:
                continue
            seen.add(output)
            path = [(output, iter(self.links(output).values()))]
            while path:
                node_id, links = path[-1]
                following = next((link.node for link in links if link.node not in seen), None)
                if following is None:
                    yield node_id
                    path.pop()
                else:
                    seen.add(following)
                    path.append((following, iter(self.links(following).values())))


def named_files(prompt: Any) -> tuple[str, ...]:
    """The input files that any node of a graph names, before anything about it is known.

    None of a graph that is too large.
    """
    names: dict[str, None] = {}
    if not isinstance(prompt, dict) or len(prompt) > MAX_NODES:
        return ()
    for node in prompt.values():
        if not isinstance(node, dict) or not isinstance(node.get("class_type"), str):
            continue
        if kind := NODES.get(node["class_type"]):
            names.update(dict.fromkeys(_named_files(kind, node)))
    return tuple(names)


def _named_files(kind: Node, node: Mapping[str, Any]) -> Iterator[str]:
    inputs = node.get("inputs")
    if isinstance(inputs, dict):
        for row in kind.inputs:
            value = unwrap(inputs.get(row.name))
            if "image_upload" in row.options and isinstance(value, str):
                yield value


def _is_sampler(kind: Node) -> bool:
    return "LATENT" in kind.outputs and any(row.type == "MODEL" for row in kind.inputs)
