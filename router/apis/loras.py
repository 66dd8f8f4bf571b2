"""The field ``loras`` of every JSON body and form: which LoRAs a request uses, and how strongly."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, TypeAlias

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from deployments.errors import InvalidRequest
from deployments.types import LoraUse
from router.apis.body import parse_json


class LoraBody(BaseModel):
    """One LoRA of the model."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)

    name: str = Field(min_length=1, max_length=200, description="A name from the model's card.")
    weight: float = Field(1.0, ge=-10, le=10, description="How strongly it acts; 0 is not at all.")
    text_weight: float | None = Field(
        None, ge=-10, le=10, description="On the text encoders, where that differs."
    )


def _read_text(value: Any) -> Any:
    """The JSON that a form's text holds; what is no text as it is."""
    if not isinstance(value, str):
        return value
    try:
        return parse_json(value)
    except InvalidRequest:
        raise ValueError("its text is not valid JSON") from None


LoraBodies: TypeAlias = Annotated[list[LoraBody] | None, BeforeValidator(_read_text)]


def parse_loras(bodies: Sequence[LoraBody] | None) -> tuple[LoraUse, ...]:
    """The request's LoRAs; its model's card is asked for their names later."""
    return tuple(
        LoraUse(name=body.name, weight=body.weight, text_weight=body.text_weight)
        for body in bodies or ()
    )
