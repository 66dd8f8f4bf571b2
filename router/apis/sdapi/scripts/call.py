"""Call: a body with what its requests are made from; scripts make variants of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, TypeVar

from pydantic import ValidationError

from deployments.types import SEED_RANGE, GenerationRequest
from router.apis.sdapi.bodies import Generation, ImageToImage
from router.apis.sdapi.errors import UnknownScript, complaints_of
from router.apis.sdapi.inputs import Inputs, prepare_inputs
from router.apis.sdapi.options import checkpoint_of, override
from router.apis.sdapi.parse import Setting, parse_requests, round_size, settle
from router.apis.sdapi.refiner import render_refiner

T = TypeVar("T")

#: What img2img alone has and its prepared pictures do not depend on.
_APART: Final = frozenset(
    {
        "init_images",
        "mask",
        "initial_noise_multiplier",
        "image_cfg_scale",
        "include_init_images",
    }
)
#: The fields by which prepared pictures are kept.
_DRAWN_BY: Final = tuple(
    sorted(ImageToImage.model_fields.keys() - Generation.model_fields.keys() - _APART)
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One call: its settled body, its setting, its input pictures as they came.

    Attributes:
        asked: the body before its seeds were drawn: variants of it draw their own.
    """

    body: Generation
    asked: Generation
    setting: Setting
    images: tuple[bytes, ...] = ()
    mask: bytes | None = None
    _prepared: dict[tuple[Any, ...], Inputs] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def requests(self, body: Generation) -> tuple[GenerationRequest, ...]:
        """The requests of the body, or of a variant of it, which may name another model. Draws:
        call it in a thread."""
        setting = self._setting_of(body)
        settled = settle(body)
        return tuple(parse_requests(settled, setting, self._inputs(settled, setting)))

    def refiner(self, body: Generation) -> dict[str, Any] | None:
        """What ends the pictures of the body, or of a variant of it; see ``router.scripts``."""
        setting = self._setting_of(body)
        return render_refiner(body, setting.checkpoint, setting.checkpoints)

    def _setting_of(self, body: Generation) -> Setting:
        known = self.setting.checkpoints
        options = override(self.setting.options, body.override_settings, known)
        checkpoint = checkpoint_of(options, known) or self.setting.checkpoint
        return replace(self.setting, checkpoint=checkpoint, options=options)

    def _inputs(self, body: Generation, setting: Setting) -> Inputs:
        if not isinstance(body, ImageToImage):
            return Inputs()
        size = round_size(setting.card, body.width, body.height)
        background = str(setting.options["img2img_background_color"])
        key = (size, background, *(getattr(body, name) for name in _DRAWN_BY))
        if key not in self._prepared:
            inputs = prepare_inputs(body, self.images, self.mask, size, background)
            self._prepared[key] = inputs
        return self._prepared[key]


def variant(body: Generation, **fields: Any) -> Generation:
    """The body with other values. Raises ``InvalidBody``, as for a body that came with them."""
    named = {name: getattr(body, name) for name in body.model_fields_set}
    try:
        return type(body).model_validate(named | fields)
    except ValidationError as error:
        raise complaints_of(error) from None


def shifted(seed: int, by: int) -> int:
    """A seed further on, from the last to the first; one that is none, or -1, stays."""
    return (seed + by) % SEED_RANGE if 0 <= seed < SEED_RANGE else seed


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
