"""The fields of OpenAI's bodies: their types, bounds and meaning here, checked and documented."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from deployments.errors import InvalidRequest, UnsupportedField
from deployments.types import SEED_RANGE
from router.apis.loras import LoraBodies

B = TypeVar("B", bound=BaseModel)

#: The most pictures that one request may ask for, and feed.
MAX_IMAGES: Final = 10
MAX_INPUT_IMAGES: Final = 16
#: Fields of the newest API that need another model or format than there is here.
UNSUPPORTED: Final = frozenset(
    {"complexity", "frame_count", "frame_duration_ms", "svg", "markup", "file_id"}
)


class Options(BaseModel):
    """What every route takes. ``None`` is the default; ours are the knobs after ``user``."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)

    model: str | None = Field(
        None,
        description="Id, alias or personal model; OpenAI's own names mean this route's default.",
    )
    n: int | None = Field(None, ge=1, le=MAX_IMAGES, description="Pictures to make.")
    size: str | None = Field(
        None, description="WIDTHxHEIGHT within the model's limits, rounded to its multiple; auto."
    )
    quality: Literal["low", "medium", "high", "xhigh", "max", "auto", "standard", "hd"] | None = (
        Field(
            None,
            description="Scales the model's default steps: low 1/2, high and hd 3/2, xhigh 2, "
            "max 3; the others 1. num_inference_steps wins.",
        )
    )
    background: Literal["opaque", "auto"] | None = Field(
        None, description="Pictures are opaque; transparent is refused."
    )
    output_format: Literal["png", "jpeg", "webp"] | None = None
    output_compression: int | None = Field(
        None, ge=0, le=100, description="Quality of jpeg and webp, 100 by default; png takes 100."
    )
    response_format: Literal["b64_json", "url"] | None = Field(
        None, description="b64_json is the default; a url needs the same credentials."
    )
    user: str | None = Field(None, description="Kept with the job.")
    num_inference_steps: int | None = Field(None, ge=1)
    guidance_scale: float | None = Field(None, ge=0, le=100)
    true_cfg_scale: float | None = Field(
        None,
        ge=0,
        le=100,
        description="On a model without this knob it stands in for an absent guidance_scale.",
    )
    negative_prompt: str | None = None
    seed: int | None = Field(
        None, ge=-1, lt=SEED_RANGE, description="Picture k uses seed + k; -1 draws one."
    )
    strength: float | None = Field(
        None, ge=0, le=1, description="How much of an input picture is re-drawn."
    )
    scheduler: str | None = Field(None, description="A name from the model's card.")
    loras: LoraBodies = Field(None, description="The model's LoRAs to use; in a form, as JSON.")
    weights: str | None = Field(
        None, description="Personal weights of the model: the caller's own, or configured ones."
    )


class Streamed(Options):
    """What the two routes take that can stream."""

    prompt: str
    moderation: Literal["low", "auto"] | None = Field(
        None, description="Accepted; hosted models are not moderated."
    )
    safety_identifier: str | None = Field(None, description="Kept with the job.")
    stream: bool | None = Field(None, description="Server-sent events.")
    partial_images: int | None = Field(
        None, ge=0, le=3, description="With stream: at most so many previews."
    )


class GenerationBody(Streamed):
    """``POST /v1/images/generations``."""

    style: Literal["vivid", "natural"] | None = Field(
        None, description="Accepted; hosted models have one style."
    )


class EditBody(Streamed):
    """``POST /v1/images/edits``, the text fields."""

    input_fidelity: Literal["high", "low"] | None = Field(
        None, description="high re-draws a quarter less than the model's strength, unless given."
    )


class ImageReference(BaseModel):
    """One input picture of a JSON body."""

    model_config = ConfigDict(strict=True, extra="forbid")

    image_url: str | None = Field(None, description="A data: URL, or an http(s) one.")
    file_id: str | None = Field(None, description="Not supported: there is no Files API here.")


class EditJsonBody(EditBody):
    """``POST /v1/images/edits`` as JSON."""

    images: list[ImageReference] = Field(min_length=1, max_length=MAX_INPUT_IMAGES)
    mask: ImageReference | None = None


class VariationBody(Options):
    """``POST /v1/images/variations``, the text fields."""


def validate(kind: type[B], fields: Mapping[str, Any], *, is_text: bool = False) -> B:
    """The fields as a body. ``is_text`` reads numbers and truth values from form text.

    Raises ``InvalidRequest`` or ``UnsupportedField`` for the first bad one, naming it.
    """
    known = {}
    for name, value in fields.items():
        if name.partition("[")[0] not in UNSUPPORTED:
            known[name] = value
        elif value is not None:
            raise UnsupportedField(f"{name} is not supported by this server", param=name)
    try:
        if is_text:
            return kind.model_validate_strings({k: v for k, v in known.items() if v != ""})
        return kind.model_validate(known)
    except ValidationError as error:
        raise _complaint(error) from None


def _complaint(error: ValidationError) -> InvalidRequest:
    """The first complaint: the field, what was wrong, and the value."""
    first = error.errors(include_url=False)[0]
    name, param = ".".join(str(part) for part in first["loc"]), str(first["loc"][0])
    if first["type"] == "missing":
        return InvalidRequest(f"missing field: {name}", param=param)
    if first["type"] == "extra_forbidden":
        return UnsupportedField(f"unknown parameter: {name:.200}", param=param[:200])
    # pydantic names the class of a part that should be an object.
    said = "Input should be an object" if first["type"] == "model_type" else first["msg"]
    return InvalidRequest(f"{name}: {said}, got {first['input']!r:.200}", param=param)
