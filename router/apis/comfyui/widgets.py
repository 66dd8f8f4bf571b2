"""Widgets: the inputs that many nodes have, in one line each."""

from __future__ import annotations

from typing import Any, Final

from router.apis.comfyui.node import Input

#: The largest width or height that ComfyUI's nodes take.
MAX_SIDE: Final = 16384
#: The most pictures that ComfyUI's nodes take.
MAX_COUNT: Final = 4096


def whole(name: str, default: int, minimum: int, maximum: int, **options: Any) -> Input:
    """A whole number."""
    limits = {"default": default, "min": minimum, "max": maximum}
    return Input(name=name, type="INT", options={**limits, **options})


def pixels(name: str, default: int = 512, minimum: int = 1, step: int = 1) -> Input:
    """A number of pixels."""
    return whole(name, default, minimum, MAX_SIDE, step=step)


def count(name: str) -> Input:
    """A number of pictures."""
    return whole(name, 1, 1, MAX_COUNT)


def number(name: str, default: float, minimum: float, maximum: float, **options: Any) -> Input:
    """Any number."""
    limits = {"default": default, "min": minimum, "max": maximum, "step": 0.01}
    return Input(name=name, type="FLOAT", options={**limits, **options})


def flag(name: str, default: bool, **options: Any) -> Input:
    """True or false."""
    return Input(name=name, type="BOOLEAN", options={"default": default, **options})


def choice(name: str, *choices: str, **options: Any) -> Input:
    """One of some words."""
    return Input(name=name, choices=choices, options=options)


def image(name: str = "image") -> Input:
    """A link to pictures."""
    return Input(name=name, type="IMAGE")


def mask(name: str = "mask", *, is_optional: bool = False) -> Input:
    """A link to masks."""
    return Input(name=name, type="MASK", is_optional=is_optional)
