"""What ``/docs`` shows of the routes' bodies, which the handlers read themselves."""

from __future__ import annotations

from typing import Any, Final

from pydantic import BaseModel

from router.apis.openai.batch_edits import BatchEditBody
from router.apis.openai.bodies import EditBody, EditJsonBody, GenerationBody, VariationBody

_FILE: Final = {"type": "string", "format": "binary"}
_FILES: Final = {"type": "array", "items": _FILE}


def _schema(kind: type[BaseModel], **files: dict[str, Any]) -> dict[str, Any]:
    """A body's schema, without references, and its file fields in front."""
    schema = kind.model_json_schema()
    definitions = schema.pop("$defs", {})
    properties = _resolve(schema["properties"], definitions)
    return {**schema, "properties": {**files, **properties}}


def _resolve(value: Any, definitions: dict[str, Any]) -> Any:
    if isinstance(value, list):
        return [_resolve(item, definitions) for item in value]
    if not isinstance(value, dict):
        return value
    if "$ref" in value:
        return definitions[value["$ref"].rpartition("/")[2]]
    return {key: _resolve(item, definitions) for key, item in value.items()}


def _body(**content: dict[str, Any]) -> dict[str, Any]:
    types = {"json": "application/json", "form": "multipart/form-data"}
    return {
        "requestBody": {
            "required": True,
            "content": {types[kind]: {"schema": schema} for kind, schema in content.items()},
        }
    }


GENERATIONS: Final = _body(json=_schema(GenerationBody))
VARIATIONS: Final = _body(form=_schema(VariationBody, image=_FILE))
EDITS: Final = _body(
    form={
        "anyOf": [
            {**_schema(EditBody, image=_FILES, mask=_FILE), "title": "OpenAI: image or image[]"},
            {**_schema(BatchEditBody, images=_FILES), "title": "Batch: images"},
        ]
    },
    json=_schema(EditJsonBody),
)
