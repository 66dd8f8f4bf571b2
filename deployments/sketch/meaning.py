"""What a caption says, as answers to fixed questions: what text encoders learn to tell first."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from deployments.sketch.palette import COLOURS
from deployments.sketch.scenes import (
    KINDS,
    LANDS,
    LAYOUTS,
    LOOKS,
    OUTFITS,
    PLACES,
    STUDIO_COLOURS,
    THINGS,
    TIMES,
    Landscape,
    Portrait,
    Scene,
    Shapes,
)

#: Kinds of edits, as ``edits`` asks for them.
EDITS: Final = (
    "time",
    "add",
    "remove",
    "paint",
    "recolour",
    "ground",
    "reshape",
    "combine",
    "sky",
)

_NO = ("no", "yes")
_COLOURS: Final = tuple(COLOURS)

#: Question -> its answers; before them all stands "this scene has none".
QUESTIONS: Final[dict[str, tuple[str, ...]]] = {
    "family": ("shapes", "landscape", "portrait"),
    "layout": LAYOUTS,
    "ground": _COLOURS,
    **{f"kind {i}": KINDS for i in range(3)},
    **{f"colour {i}": _COLOURS for i in range(3)},
    "time": TIMES,
    "land": LANDS,
    **dict.fromkeys(THINGS, _NO),
    "house colour": _COLOURS,
    "look": LOOKS,
    "outfit": OUTFITS,
    "place": PLACES,
    "wall": STUDIO_COLOURS,
}


#: The same of an instruction that asks for an edit.
EDIT_QUESTIONS: Final[dict[str, tuple[str, ...]]] = {
    "edit": EDITS,
    "time": TIMES,
    "thing": THINGS,
    "colour": _COLOURS,
    "kind": KINDS,
    "old kind": KINDS,
    "old colour": _COLOURS,
}


def answers(scene: Scene) -> list[int]:
    """For each question 0, or one more than the answer's index."""
    return _answered(QUESTIONS, _said(scene))


def edit_answers(asks: Mapping[str, str]) -> list[int]:
    """The same for what an edit asks."""
    return _answered(EDIT_QUESTIONS, asks)


def _answered(questions: Mapping[str, tuple[str, ...]], said: Mapping[str, str]) -> list[int]:
    return [
        1 + choices.index(said[question]) if question in said else 0
        for question, choices in questions.items()
    ]


def _said(scene: Scene) -> dict[str, str]:
    if isinstance(scene, Shapes):
        said = {"family": "shapes", "layout": scene.layout, "ground": scene.ground}
        for index, shape in enumerate(scene.shapes):
            said |= {f"kind {index}": shape.kind, f"colour {index}": shape.colour}
        return said
    if isinstance(scene, Landscape):
        said = {"family": "landscape", "time": scene.time, "land": scene.land}
        said |= {thing: _NO[thing in scene.things] for thing in THINGS}
        return said | ({"house colour": scene.house} if "house" in scene.things else {})
    return _portrait(scene)


def _portrait(scene: Portrait) -> dict[str, str]:
    said = {"family": "portrait", "look": scene.look, "outfit": scene.outfit, "place": scene.place}
    return said | ({"wall": scene.colour} if scene.place == "studio" else {})
