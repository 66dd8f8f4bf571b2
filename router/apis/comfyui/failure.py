"""NodeFailure: why a graph stopped at one of its nodes, and how ComfyUI tells it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from deployments.errors import (
    AtelierError,
    InvalidRequest,
    MemoryExceeded,
    ModelNotReady,
    NotFound,
    OutOfMemory,
    Overloaded,
    StorageFailure,
    UnknownModel,
)

#: What says that the model cannot be had just now: no fault of the node's, so the graph is tried
#: again later.
PASSING: Final = (ModelNotReady, Overloaded, UnknownModel)

#: The Python exceptions of which clients know the names; the first that fits.
_TYPES: Final = (
    (OutOfMemory, "torch.OutOfMemoryError"),
    (MemoryExceeded, "torch.OutOfMemoryError"),
    (StorageFailure, "OSError"),
    (NotFound, "FileNotFoundError"),
    (InvalidRequest, "ValueError"),
    (AtelierError, "RuntimeError"),
)
_WIRE_NAMES: Final = {"num_inference_steps": "steps", "guidance_scale": "cfg"}
_OUT_OF_MEMORY_HINT: Final = "\nTry a smaller picture, or fewer at once."


class NodeFailure(Exception):
    """A node of the graph failed for good.

    Attributes:
        node, class_type: which.
        error: what the failure was.
        inputs: the values that it ran with, by name.
    """

    def __init__(
        self, node: str, class_type: str, error: AtelierError, inputs: Mapping[str, Any]
    ) -> None:
        super().__init__(error.message)
        self.node = node
        self.class_type = class_type
        self.error = error
        self.inputs = inputs

    def told(self) -> dict[str, Any]:
        """Its part of an ``execution_error``."""
        message = self.error.message
        for ours, theirs in _WIRE_NAMES.items():
            message = message.replace(ours, theirs)
        if isinstance(self.error, OutOfMemory):
            message += _OUT_OF_MEMORY_HINT
        return {
            "node_id": self.node,
            "node_type": self.class_type,
            "exception_message": message,
            "exception_type": next(name for kind, name in _TYPES if isinstance(self.error, kind)),
            "traceback": [],
            "current_inputs": {name: [_told(value)] for name, value in self.inputs.items()},
        }


def _told(value: Any) -> Any:
    """A literal as it is; of what came by a link, its type."""
    if value is None or isinstance(value, (str, int, float, bool)):
        return value
    return type(value).__name__.upper().removesuffix("S")
