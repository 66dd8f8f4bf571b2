"""The refiner: a second model that draws the last steps of a picture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from deployments.errors import InvalidRequest, UnsupportedField
from router.apis.sdapi.bodies import Generation, TextToImage
from router.apis.sdapi.checkpoints import find_checkpoint, short_title_of
from router.belongings import Variant


def find_refiner(
    body: Generation, first: Variant, checkpoints: Sequence[Variant]
) -> tuple[Variant, float] | None:
    """The checkpoint that goes on where ``first`` stops, and the share of the steps, 0 to 1, after
    which it does; None where none is asked for. Without a share it draws them all, as in A1111.

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
    found, share = find_checkpoint(checkpoints, str(name)), body.refiner_switch_at or 0.0
    if not 0 <= share <= 1:
        raise InvalidRequest(
            f"refiner_switch_at {share} is out of range; accepted: 0 to 1",
            param="refiner_switch_at",
        )
    refiner, card = found.card, first.card
    is_kin = refiner.family == card.family and refiner.has_latents and card.has_latents
    if found.name != first.name and not is_kin:
        raise UnsupportedField(
            f"refiner_checkpoint {found.name!r} cannot go on where {first.name!r} stops: "
            "their latents differ",
            param="refiner_checkpoint",
        )
    return found, share


def render_refiner(
    body: Generation, first: Variant, checkpoints: Sequence[Variant]
) -> dict[str, Any] | None:
    """What the job's script needs of it; None where none is asked for."""
    found = find_refiner(body, first, checkpoints)
    if found is None:
        return None
    refiner, share = found
    named = {} if refiner.weights is None else {"weights": refiner.weights}
    return {"model": refiner.card.id, "switch_at": share, **named}


def refiner_pairs(
    body: Generation, first: Variant, checkpoints: Sequence[Variant]
) -> list[tuple[str, Any]]:
    """What an infotext says of it."""
    found = find_refiner(body, first, checkpoints)
    if found is None:
        return []
    refiner, share = found
    return [("Refiner", short_title_of(refiner)), ("Refiner switch at", share)]
