"""Bounds: what samplers ask that their models would refuse, known before anything runs."""

from __future__ import annotations

from typing import Final

from deployments.types import ModelCard
from router.apis.comfyui.graph import Graph
from router.apis.comfyui.node import Offer

#: What an empty latent is told of its size.
SIDES: Final = ("width", "height")


def find_excesses(graph: Graph, offer: Offer) -> dict[str, tuple[str, str]]:
    """Sampler -> (input's name, reason) for those that are beyond their model's card."""
    by_id = {card.id: card for card in offer.cards}
    found = {}
    for sampler in graph.samplers():
        card = by_id.get(graph.model_of(sampler, offer))
        excess = _find_excess(graph, sampler, card) if card else None
        if excess is not None:
            found[sampler] = excess
    return found


def _find_excess(graph: Graph, sampler: str, card: ModelCard) -> tuple[str, str] | None:
    given = graph.literals(sampler)
    is_whole = "start_at_step" not in graph.nodes[sampler]["inputs"]
    steps, most = given.get("steps"), card.max_num_inference_steps
    if is_whole and isinstance(steps, int) and steps > most:
        return "steps", _out_of_range(f"{steps}", card, 1, most)
    for name, link in graph.links(sampler).items():
        source = graph.kind(link.node)
        if source.outputs != ("LATENT",) or graph.links(link.node):
            continue
        for side in SIDES:
            pixels = graph.literals(link.node).get(side)
            if isinstance(pixels, int) and not card.min_size <= pixels <= card.max_size:
                found = f"{side} {pixels}"
                return name, _out_of_range(found, card, card.min_size, card.max_size)
    return None


def _out_of_range(found: str, card: ModelCard, low: int, high: int) -> str:
    return f"{found} is out of range for {card.id}; accepted: {low} to {high}"
