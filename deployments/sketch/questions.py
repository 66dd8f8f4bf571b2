"""Questions: what a lesson asks a denoiser from within, besides the picture that it shall draw."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, fields
from typing import Any, Final

import torch
from torch import Tensor

from deployments.sketch.edits import Edit
from deployments.sketch.forms import Forms
from deployments.sketch.own_place import OwnPlace
from deployments.sketch.recognition import Choice, Recognition
from deployments.sketch.scenes import Scene, Shapes
from deployments.sketch.shape_places import (
    NO_KIND,
    forms_at,
    kinds_at,
    near_to,
    owners_at,
    shapes_at,
)
from deployments.sketch.whereabouts import Whereabouts

#: Layers behind which it is asked, from 1 on: first where a token is, then what is where, which of
#: it is meant and where that is, then what form is to come; what is left is for drawing it.
_PLACING: Final = (2, 3)
_RECOGNISING: Final = (3, 4)
_CHOOSING: Final = (4, 5)
_LOCATING: Final = 4
_FORMING: Final = 5
#: How much the answers count.
_PLACED: Final = 0.3
_RECOGNISED: Final = 0.1
_CHOSEN: Final = 0.3
_LOCATED: Final = 0.2
_FORMED: Final = 0.4


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """The right answers, of a picture of height by width latents, two by two of them a place.

    Attributes:
        kinds: of ``shapes_at`` what an edit finds, of ``kinds_at`` what is to come, (n, places).
        covered, near: the latents of what is to come, and those about it, (n, 1, height, width).
        changed: whether an edit changes a latent where that is asked, (n, 1, height, width); None
            where nothing is edited.
        meant: of ``shapes_at``, (n, places); None, too.
    """

    kinds: Tensor
    covered: Tensor
    near: Tensor
    changed: Tensor | None = None
    meant: Tensor | None = None

    def to(self, device: torch.device) -> Asked:
        """The same there."""
        there: dict[str, Any] = {}
        for field in fields(self):
            answer = getattr(self, field.name)
            there[field.name] = None if answer is None else answer.to(device)
        return Asked(**there)


def asked_of(edits: Sequence[Edit], changed: Tensor, is_told: Tensor) -> Asked:
    """The answers to edits that change these latents (n, 1, height, width); those that are not
    told (n,) what to do are asked only what is there."""
    height, width = changed.shape[2:]
    kinds, meant = shapes_at(edits, height // 2, width // 2)
    covered, near = forms_at(edits, height, width)
    told = is_told[:, None, None, None]
    return Asked(
        changed=changed & told,
        kinds=kinds,
        meant=meant & is_told[:, None],
        covered=covered,
        near=near & told,
    )


def asked_of_drawings(scenes: Sequence[Scene], things: Tensor, is_told: Tensor) -> Asked:
    """The answers to pictures of scenes that are drawn from words: what shape comes where, and
    which latents what stands in a scene covers; those that are not told (n,) are asked neither.

    Args:
        things: whether something stands at a latent, (n, 1, height, width).
    """
    height, width = things.shape[2:]
    kinds = kinds_at(scenes, height // 2, width // 2)
    return Asked(
        kinds=torch.where(is_told[:, None], kinds, NO_KIND),
        covered=torch.stack([_covered(*pair) for pair in zip(scenes, things, strict=True)]),
        near=near_to(things) & is_told[:, None, None, None],
    )


def _covered(scene: Scene, things: Tensor) -> Tensor:
    """(1, height, width): of shapes the latents that they cover at least half of."""
    if not isinstance(scene, Shapes):
        return things
    return torch.from_numpy(owners_at(scene, *things.shape[1:]) >= 0)[None]


class Questions(torch.nn.Module):
    """What asks; it is not part of the model."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.own_places: Any = torch.nn.ModuleList(OwnPlace(width) for _ in _PLACING)
        self.whereabouts = Whereabouts(width)
        self.forms = Forms(width)
        self.recognitions: Any = torch.nn.ModuleList(Recognition(width) for _ in _RECOGNISING)
        self.choices: Any = torch.nn.ModuleList(Choice(width) for _ in _CHOOSING)

    @contextmanager
    def listening(self, model: Any) -> Iterator[dict[int, Tensor]]:
        """Layer that is asked -> what tokens hold behind it at the last pass, (n, tokens, width);
        those of the picture come first."""
        heard: dict[int, Tensor] = {}

        def hear(layer: int) -> Any:
            def heard_behind(_: Any, __: Any, given: tuple[Tensor, Tensor]) -> None:
                _text, heard[layer] = given

            return heard_behind

        with ExitStack() as hooks:
            for layer in {*_PLACING, *_RECOGNISING, *_CHOOSING, _LOCATING, _FORMING}:
                block = model.transformer_blocks[layer - 1]
                hooks.callback(block.register_forward_hook(hear(layer)).remove)
            yield heard

    def loss(self, heard: dict[int, Tensor], asked: Asked) -> Tensor:
        """How wrong the answers are that were heard, as they count."""
        rows, columns = (side // 2 for side in asked.covered.shape[2:])
        loss = torch.zeros((), device=asked.covered.device)
        for own_place, layer in zip(self.own_places, _PLACING, strict=True):
            loss = loss + _PLACED * own_place.errors(heard[layer], rows, columns).mean()
        for recognition, layer in zip(self.recognitions, _RECOGNISING, strict=True):
            loss = loss + _RECOGNISED * recognition.errors(heard[layer], asked.kinds).mean()
        # What is not asked has no gradient. Of one that is zero, Muon would make a full step.
        if asked.changed is not None:
            errors = self.whereabouts.errors(heard[_LOCATING], asked.changed)
            loss = loss + _LOCATED * errors.mean()
        if asked.meant is not None:
            for choice, layer in zip(self.choices, _CHOOSING, strict=True):
                errors = choice.errors(heard[layer], asked.kinds, asked.meant)
                loss = loss + _CHOSEN * errors.mean()
        errors = self.forms.errors(heard[_FORMING], asked.covered, asked.near)
        return loss + _FORMED * errors.mean()
