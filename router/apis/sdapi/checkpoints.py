"""Hosted models, and personal weights for them, as checkpoints: titles, file names and hashes.

A hosted model has no one file to hash: its hash here is that of its id, the same on every replica;
that of an owner's weights changes when he registers others under their name.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from typing import Any, Final

from deployments.errors import InvalidRequest
from deployments.types import Mode
from router.belongings import Variant

#: What a checkpoint can do at least one of.
DRAWING: Final[frozenset[Mode]] = frozenset(
    {"text-to-image", "image-to-image", "inpainting", "edit"}
)
#: The hash behind a title.
_HASH: Final = re.compile(r"\s*\[[^\[\]]*\]$")


def checkpoints(variants: Iterable[Variant]) -> tuple[Variant, ...]:
    """The models that draw; upscalers and those that describe pictures are no checkpoints."""
    return tuple(one for one in variants if not DRAWING.isdisjoint(one.card.modes))


def sha256_of(checkpoint: Variant) -> str:
    """The checkpoint's hash, 64 hexadecimal digits."""
    return hashlib.sha256(checkpoint.identity.encode()).hexdigest()


def hash_of(checkpoint: Variant) -> str:
    """Its short form, 10 digits, as titles and infotexts have it."""
    return sha256_of(checkpoint)[:10]


def title_of(checkpoint: Variant) -> str:
    """``name.safetensors [0123456789]``."""
    return f"{checkpoint.name}.safetensors [{hash_of(checkpoint)}]"


def short_title_of(checkpoint: Variant) -> str:
    """``name [0123456789]``."""
    return f"{checkpoint.name} [{hash_of(checkpoint)}]"


def find_checkpoint(checkpoints: Iterable[Variant], name: str) -> Variant:
    """The checkpoint by title, file name, bare name, alias or hash; by a title with another hash,
    too, as in A1111, such as that of weights which their owner replaced.

    Raises ``InvalidRequest`` listing the known ones.
    """
    known = tuple(checkpoints)
    named = [(checkpoint, _names(checkpoint)) for checkpoint in known]
    wanted = name.strip()
    for text in (wanted, _HASH.sub("", wanted)):
        for spelled in (str, str.lower):  # owners may have names that differ by case alone
            for checkpoint, names in named:
                if spelled(text) in map(spelled, names):
                    return checkpoint
    titles = ", ".join(map(title_of, known))
    raise InvalidRequest(f"model {name!r:.200} not found; known: {titles}", param="model")


def render_checkpoint(checkpoint: Variant) -> dict[str, Any]:
    """An item of ``GET sd-models``."""
    return {
        "title": title_of(checkpoint),
        "model_name": checkpoint.name,
        "hash": hash_of(checkpoint),
        "sha256": sha256_of(checkpoint),
        "filename": f"{checkpoint.name}.safetensors",
        "config": None,
    }


def _names(checkpoint: Variant) -> frozenset[str]:
    aliases = checkpoint.card.aliases if checkpoint.weights is None else ()
    bare = (checkpoint.name, checkpoint.long_name, *aliases)
    files = tuple(f"{name}.safetensors" for name in bare)
    hashes = (hash_of(checkpoint), sha256_of(checkpoint), sha256_of(checkpoint)[:8])
    titles = (title_of(checkpoint), short_title_of(checkpoint))
    return frozenset((*bare, *files, *hashes, *titles))
