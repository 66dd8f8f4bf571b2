"""The refiner: a second model that draws the last steps of a picture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from deployments.errors import InvalidRequest, UnsupportedField
from deployments.types import ModelCard
from router.apis.sdapi.bodies import Generation, TextToImage
from router.apis.sdapi.checkpoints import find_checkpoint, short_title_of


def find_refiner(
    body: Generation, card: ModelCard, cards: Sequence[ModelCard]
) -> tuple[ModelCard, float] | None:
    """The model that goes on where ``card`` stops, and the share of the steps, 0 to 1, after which
    it does; None where none is asked for. Without a share it draws them all, as in A1111.

    Raises ``InvalidRequest`` for a model that is unknown or of other latents, and
    ``UnsupportedField`` where pictures are drawn over others.
    """
    name = body.refiner_checkpoint
    if name in (None, "", "None", "none"):
        return None
    if not isinstance(body, TextToImage) or body.enable_hr:
        raise UnsupportedField(
            "refiner_checkpoint is supported by txt2img without enable_hr alone",
            param="refiner_checkpoint",
        )
    refiner, share = find_checkpoint(cards, str(name)), body.refiner_switch_at or 0.0
    if not 0 <= share <= 1:
        raise InvalidRequest(
            f"refiner_switch_at {share} is out of range; accepted: 0 to 1",
            param="refiner_switch_at",
        )
    is_kin = refiner.family == card.family and refiner.has_latents and card.has_latents
    if refiner.id != card.id and not is_kin:
        raise UnsupportedField(
            f"refiner_checkpoint {refiner.id!r} cannot go on where {card.id!r} stops: "
            "their latents differ",
            param="refiner_checkpoint",
        )
    return refiner, share


def render_refiner(
    body: Generation, card: ModelCard, cards: Sequence[ModelCard]
) -> dict[str, Any] | None:
    """What the job's script needs of it; None where none is asked for."""
    found = find_refiner(body, card, cards)
    return None if found is None else {"model": found[0].id, "switch_at": found[1]}


def refiner_pairs(
    body: Generation, card: ModelCard, cards: Sequence[ModelCard]
) -> list[tuple[str, Any]]:
    """What an infotext says of it."""
    found = find_refiner(body, card, cards)
    if found is None:
        return []
    refiner, share = found
    return [("Refiner", short_title_of(refiner.id)), ("Refiner switch at", share)]
