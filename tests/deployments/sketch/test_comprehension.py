"""What a lesson asks a language model after a text."""

from __future__ import annotations

from random import Random

import pytest
import torch

from deployments.sketch.comprehension import Comprehension, random_ends
from deployments.sketch.edits import Edit, random_edit
from deployments.sketch.meaning import EDIT_QUESTIONS, QUESTIONS, answers, edit_answers
from deployments.sketch.scenes import Scene, random_scene

SCENES: list[Scene] = [random_scene(Random(seed)) for seed in range(6)]
EDITS: list[Edit] = [random_edit(Random(seed)) for seed in range(6)]


def test_random_ends_are_of_the_last_tokens_of_each_text() -> None:
    hidden = torch.arange(40.0).view(2, 20, 1)
    lengths = torch.tensor([20, 9])
    mask = torch.arange(20) < lengths[:, None]
    rng = Random(0)
    found = {tuple(random_ends(hidden, mask, rng)[:, 0].tolist()) for _ in range(200)}
    assert {first for first, _ in found} == {15, 16, 17, 18, 19}
    assert {second for _, second in found} == {24, 25, 26, 27, 28}


def test_who_knows_the_answers_is_not_wrong() -> None:
    """Each text's end is a number of its own, from which the layer reads what it has to say."""
    asking = Comprehension(6)
    ends = 30 * torch.eye(6)
    for layer, questions, wanted in (
        (asking.captions, QUESTIONS, [answers(scene) for scene in SCENES]),
        (asking.instructions, EDIT_QUESTIONS, [edit_answers(edit.asks) for edit in EDITS]),
    ):
        begins = torch.tensor([0] + [1 + len(of) for of in questions.values()]).cumsum(0)
        with torch.no_grad():
            layer.weight.zero_()
            layer.bias.zero_()
            for row, told in enumerate(wanted):
                layer.weight[begins[:-1] + torch.tensor(told), row] = 1
    for asked, about in ((asking.scene_errors, SCENES), (asking.edit_errors, EDITS)):
        assert asked(ends, about).tolist() == pytest.approx([0] * 6, abs=1e-3)
        mixed = asked(ends, [about[1], about[0], *about[2:]])
        assert (mixed[:2] > 0.5).all()
        assert (mixed[2:] < 1e-3).all()
