"""Hosted models that tell what is on a picture, as the interrogators that A1111 names."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from deployments.errors import NotFound
from deployments.types import ModelCard

#: A1111's captioner, for which any model that describes may stand. Its other one,
#: "deepdanbooru", tells tags: only a model that has that for an alias stands for it.
ANY: Final = "clip"


def find_describer(name: str, cards: Iterable[ModelCard]) -> str | None:
    """Id of the model that describes under this name; None leaves the choice among all that do.

    Raises ``NotFound`` as A1111 words it.
    """
    describers = [card for card in cards if "describe" in card.modes]
    named = next((card.id for card in describers if card.has_name(name)), None)
    if named is None and not (describers and name == ANY):
        raise NotFound("Model not found", param="model")
    return named
