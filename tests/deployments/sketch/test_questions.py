"""Questions: what is heard behind which layers, and what wrong answers cost."""

from __future__ import annotations

from dataclasses import fields, replace
from types import SimpleNamespace

import pytest

torch = pytest.importorskip("torch")

from deployments.sketch.questions import (  # noqa: E402
    Asked,
    Questions,
    asked_of,
    asked_of_drawings,
)
from deployments.sketch.qwen_beginning import NUM_CONSTANTS, NUM_HELD  # noqa: E402
from deployments.sketch.scenes import KINDS  # noqa: E402
from deployments.sketch.shape_places import NO_KIND, owners_at  # noqa: E402
from tests.deployments.sketch.shape_edits import RING, SQUARE, into, into_night  # noqa: E402

_WIDTH = NUM_HELD + NUM_CONSTANTS + 16


class _Layer(torch.nn.Module):
    def forward(self, text: torch.Tensor, picture: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return text, picture + 1


def _run(model: SimpleNamespace, picture: torch.Tensor) -> None:
    for block in model.transformer_blocks:
        _, picture = block(picture, picture)


def test_it_hears_behind_the_layers_it_asks_and_only_meanwhile() -> None:
    model = SimpleNamespace(transformer_blocks=[_Layer() for _ in range(6)])
    picture = torch.zeros(1, 4, _WIDTH)
    with Questions(_WIDTH).listening(model) as heard:
        _run(model, picture)
    _run(model, picture + 10)
    assert sorted(heard) == [2, 3, 4, 5]
    assert all(torch.equal(tokens, picture + layer) for layer, tokens in heard.items())


def test_every_question_counts_and_reaches_the_layers_it_asks() -> None:
    questions = Questions(_WIDTH)
    for parameter in questions.parameters():
        torch.nn.init.normal_(parameter)
    heard = {layer: torch.randn(1, 16, _WIDTH, requires_grad=True) for layer in (2, 3, 4, 5)}
    nowhere = torch.zeros(1, 1, 8, 8, dtype=torch.bool)
    corner = nowhere.clone()
    corner[..., 2:4, 2:4] = True
    kinds, unmeant = torch.full((1, 16), NO_KIND), torch.zeros(1, 16, dtype=torch.bool)
    nothing = Asked(changed=nowhere, kinds=kinds, meant=unmeant, covered=nowhere, near=nowhere)

    def answering(asked: Asked) -> set[int]:
        """Layers whose tokens answer."""
        loss = questions.loss(heard, asked)
        gradients = torch.autograd.grad(loss, heard.values(), allow_unused=True)
        return {k for k, g in zip(heard, gradients, strict=True) if g is not None and g.any()}

    assert answering(nothing) == {2, 3}
    for own_place in questions.own_places:
        torch.nn.init.zeros_(own_place.reading.tell.weight)
    assert answering(nothing) == set()
    assert answering(replace(nothing, changed=corner)) == {4}
    assert answering(replace(nothing, near=corner)) == {5}
    shown, meant = kinds.clone(), unmeant.clone()
    shown[0, 3:5], meant[0, 3] = 2, True
    assert answering(replace(nothing, kinds=shown)) == {3, 4}
    chosen = replace(nothing, kinds=shown, meant=meant)
    assert answering(chosen) == {3, 4, 5}
    assert questions.loss(heard, chosen) > questions.loss(heard, replace(nothing, kinds=shown))
    for recognition in questions.recognitions:
        torch.nn.init.zeros_(recognition.reading.tell.weight)
    assert answering(chosen) == {4, 5}


def test_those_who_are_not_told_what_to_do_are_asked_only_what_is_there() -> None:
    edit = into(SQUARE, replace(RING, kind="circle"))
    changed = torch.ones(2, 1, 8, 8, dtype=torch.bool)
    told, untold = (
        {field.name: getattr(asked, field.name)[row] for field in fields(Asked)}
        for asked in [asked_of([edit, edit], changed, torch.tensor([True, False]))]
        for row in (0, 1)
    )
    assert {name for name, of in told.items() if of.any()} == set(told)
    assert {name for name, of in untold.items() if name != "kinds" and of.any()} == {"covered"}
    assert torch.equal(told["kinds"], untold["kinds"])


def test_drawings_are_asked_what_comes_where_if_words_say_it() -> None:
    scene, land = into(SQUARE, RING).after, into_night().after
    things = torch.zeros(3, 1, 8, 16, dtype=torch.bool)
    things[..., 3:5, 2:5] = True
    asked = asked_of_drawings([scene, scene, land], things, torch.tensor([True, False, True]))
    shown = {KINDS[kind] for kind in asked.kinds[0].unique() if kind != NO_KIND}
    assert shown == {"square", "ring"}
    assert (asked.kinds[1:] == NO_KIND).all()
    assert torch.equal(asked.covered[0, 0], torch.from_numpy(owners_at(scene, 8, 16) >= 0))
    assert torch.equal(asked.covered[2], things[2])
    assert asked.near[0, 0, 1:7, 0:7].all()
    assert asked.near.flatten(1).sum(dim=1).tolist() == [6 * 7, 0, 6 * 7]


def test_what_drawings_are_not_asked_has_no_gradient() -> None:
    questions = Questions(_WIDTH)
    things = torch.ones(1, 1, 8, 8, dtype=torch.bool)
    heard = {layer: torch.randn(1, 16, _WIDTH) for layer in (2, 3, 4, 5)}
    asked = asked_of_drawings([into(SQUARE, RING).after], things, torch.tensor([True]))
    questions.loss(heard, asked).backward()
    silent = {name.split(".")[0] for name, of in questions.named_parameters() if of.grad is None}
    assert silent == {"whereabouts", "choices"}
