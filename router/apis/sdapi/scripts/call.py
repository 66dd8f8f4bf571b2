"""Call: a body with what its requests are made from; scripts make variants of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from deployments.types import GenerationRequest
from router.apis.sdapi.bodies import Generation, ImageToImage
from router.apis.sdapi.errors import UnknownScript
from router.apis.sdapi.inputs import Inputs, prepare_inputs
from router.apis.sdapi.options import override
from router.apis.sdapi.parse import Setting, parse_requests, round_size, settle

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One call: its settled body, its setting, its input pictures as they came."""

    body: Generation
    setting: Setting
    images: tuple[bytes, ...] = ()
    mask: bytes | None = None

    def requests(self, body: Generation) -> tuple[GenerationRequest, ...]:
        """The requests of the body, or of a variant of it. Draws: call it in a thread."""
        setting = Setting(
            card=self.setting.card,
            options=override(self.setting.options, body.override_settings, [self.setting.card]),
            styles=self.setting.styles,
        )
        settled = settle(body)
        return tuple(parse_requests(settled, setting, self._inputs(settled, setting)))

    def _inputs(self, body: Generation, setting: Setting) -> Inputs:
        if not isinstance(body, ImageToImage):
            return Inputs()
        size = round_size(setting.card, body.width, body.height)
        background = str(setting.options["img2img_background_color"])
        return prepare_inputs(body, self.images, self.mask, size, background)


def variant(body: Generation, **fields: Any) -> Generation:
    """The body with other values."""
    return body.model_copy(update=fields)


def argument(args: Sequence[Any], index: int, kind: type[T], default: T) -> T:
    """A script's argument, by its place; the default when it is left out or null.

    Raises ``UnknownScript`` for a value of another kind.
    """
    value = args[index] if index < len(args) else None
    if value is None:
        return default
    try:
        if kind is str and not isinstance(value, str):
            raise TypeError
        if kind is int and isinstance(value, float) and not value.is_integer():
            raise TypeError
        return kind(value)  # type: ignore[call-arg]
    except (TypeError, ValueError, OverflowError):
        raise UnknownScript(
            f"script_args[{index}] must be {kind.__name__}, got {value!r:.100}",
            param="script_args",
        ) from None


def check_range(args_index: int, value: float, low: float, high: float) -> None:
    """Raise ``UnknownScript`` for an argument out of its range."""
    if not low <= value <= high:
        raise UnknownScript(
            f"script_args[{args_index}] {value} is out of range; accepted: {low} to {high}",
            param="script_args",
        )
