"""Hosted models as checkpoints: titles, file names and hashes.

A hosted model has no one file to hash: its hash here is that of its id, the same on every replica.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any, Final

from deployments.errors import InvalidRequest
from deployments.types import Mode, ModelCard

#: What a checkpoint can do at least one of.
DRAWING: Final[frozenset[Mode]] = frozenset(
    {"text-to-image", "image-to-image", "inpainting", "edit"}
)


def checkpoints(cards: Iterable[ModelCard]) -> tuple[ModelCard, ...]:
    """The models that draw; upscalers and those that describe pictures are no checkpoints."""
    return tuple(card for card in cards if not DRAWING.isdisjoint(card.modes))


def sha256_of(model: str) -> str:
    """The checkpoint's hash, 64 hexadecimal digits."""
    return hashlib.sha256(model.encode()).hexdigest()


def hash_of(model: str) -> str:
    """Its short form, 10 digits, as titles and infotexts have it."""
    return sha256_of(model)[:10]


def title_of(model: str) -> str:
    """``name.safetensors [0123456789]``."""
    return f"{model}.safetensors [{hash_of(model)}]"


def short_title_of(model: str) -> str:
    """``name [0123456789]``."""
    return f"{model} [{hash_of(model)}]"


def find_checkpoint(cards: Iterable[ModelCard], name: str) -> ModelCard:
    """The model by title, file name, bare name, alias or hash.

    Raises ``InvalidRequest`` listing the known ones.
    """
    cards = tuple(cards)
    for card in cards:
        if name.strip().lower() in _names(card):
            return card
    known = ", ".join(title_of(card.id) for card in cards)
    raise InvalidRequest(f"model {name!r:.200} not found; known: {known}", param="model")


def render_checkpoint(card: ModelCard) -> dict[str, Any]:
    """An item of ``GET sd-models``."""
    return {
        "title": title_of(card.id),
        "model_name": card.id,
        "hash": hash_of(card.id),
        "sha256": sha256_of(card.id),
        "filename": f"{card.id}.safetensors",
        "config": None,
    }


def _names(card: ModelCard) -> frozenset[str]:
    bare = (card.id, *card.aliases)
    files = tuple(f"{name}.safetensors" for name in bare)
    hashes = (hash_of(card.id), sha256_of(card.id), sha256_of(card.id)[:8])
    titles = (title_of(card.id), short_title_of(card.id))
    return frozenset(name.lower() for name in (*bare, *files, *hashes, *titles))
