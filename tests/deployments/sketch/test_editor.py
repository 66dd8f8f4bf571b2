"""The committed editor: it does what it is told and leaves the rest, within what it has learnt."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from benchmarks.edits import Editor, Trial, edits
from deployments.sketch.assemble import EDITOR, WEIGHTS

#: Kinds of edits that it does nearly always.
CHANGES = ("time", "sky", "ground", "add", "remove", "paint", "combine")


@pytest.fixture(scope="module")
def trials() -> Iterator[dict[str, list[Trial]]]:
    """Two edits each of some kinds, by the kind."""
    torch.set_num_threads(1)
    editor = Editor(WEIGHTS / EDITOR, steps=8, guidance=1.0, size=(512, 512))
    done: dict[str, list[Trial]] = {kind: [] for kind in CHANGES}
    for edit in edits(2, CHANGES):
        done[edit.asks["edit"]].append(editor.try_out(edit))
    yield done
    editor.close()


@pytest.mark.parametrize("kind", CHANGES)
def test_an_edit_changes_what_it_names(trials: dict[str, list[Trial]], kind: str) -> None:
    assert len(trials[kind]) == 2
    assert all(trial.is_done for trial in trials[kind])


def test_an_edit_keeps_what_it_does_not_name(trials: dict[str, list[Trial]]) -> None:
    assert len(trials["paint"]) == 2
    for trial in trials["paint"]:
        assert np.corrcoef(trial.seen.ravel(), trial.before[0].ravel())[0, 1] > 0.9
        assert trial.stray < 6
