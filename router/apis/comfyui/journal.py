"""Journal: what a running graph tells its watchers, and what its history will hold."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

from deployments.errors import InvalidRequest
from router.apis.comfyui.frames import milliseconds

if TYPE_CHECKING:
    from router.scripts import Canvas

#: Graphs with more nodes to run keep only the newest of their ``progress_state``, for each holds
#: all of the nodes, and have no more of them than one in so many seconds.
MAX_KEPT_STATES: Final = 64
STATE_SECONDS: Final = 0.1
#: The most characters, as JSON, of all that the nodes of one graph show.
MAX_SHOWN: Final = 4 * 1024 * 1024

State: TypeAlias = Literal["running", "finished"]


@dataclass(slots=True)
class _Progress:
    """How far a node is; one without steps of its own counts as one."""

    state: State
    value: float = 0
    max: float = 1


@dataclass(slots=True)
class Journal:
    """Notes the frames of a graph in ComfyUI's order, and collects its history's entry.

    Attributes:
        num_nodes: how many are to run.
        executed: ids of the nodes that ran, in the order in which they ended.
        messages: of the history: ``[type, data]``, the times in whole milliseconds.
        outputs, meta: of the nodes that showed something.
    """

    canvas: Canvas
    prompt_id: str
    num_nodes: int = 0
    executed: list[str] = field(default_factory=list)
    messages: list[list[Any]] = field(default_factory=list)
    outputs: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    meta: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    _nodes: dict[str, _Progress] = field(default_factory=dict)
    _announced: str = ""
    _num_shown: int = 0
    _told_state_at: float = float("-inf")

    @property
    def running(self) -> tuple[str, ...]:
        """Ids of the nodes that run, the first to begin first."""
        return tuple(node for node, at in self._nodes.items() if at.state == "running")

    # -- frames ---------------------------------------------------------------------------------

    def start(self) -> None:
        """The graph begins."""
        self._message("execution_start", {})

    def reuse(self, nodes: Sequence[str]) -> None:
        """These nodes need not run."""
        self._message("execution_cached", {"nodes": list(nodes)})

    def reshow(self, node: str, output: Mapping[str, Any]) -> None:
        """A node that need not run showed this before."""
        self.show(node, output)
        self.finish(node)

    def begin(self, node: str) -> None:
        """A node begins."""
        self._nodes[node] = _Progress("running")
        self._note_state(node)
        self.announce(node)

    def announce(self, node: str) -> None:
        """Say that frames of this node follow, unless that was the last that was said."""
        if self._announced != node:
            self._announced = node
            self._note("executing", {"node": node, "display_node": node})

    def step(self, node: str, value: float, most: float, *, preview: int | None = None) -> None:
        """A node came this far; ``preview`` is the number of the job's preview that shows it."""
        at = self._nodes[node]
        at.value, at.max = value, most
        self._note_state(node)
        if preview is not None:
            self.canvas.note({"preview": preview, "node": node}, topic="preview")
        data = {"value": value, "max": most, "prompt_id": self.prompt_id, "node": node}
        self.canvas.note({"type": "progress", "data": data}, topic=f"progress:{node}")

    def show(self, node: str, output: Mapping[str, Any]) -> None:
        """A node left something behind; nothing is said of nothing.

        Raises ``InvalidRequest`` when the graph shows too much: all of it is in its history.
        """
        if output:
            self._num_shown += len(json.dumps(output))
            if self._num_shown > MAX_SHOWN:
                raise InvalidRequest(
                    f"the graph shows more than {MAX_SHOWN} characters of texts and names"
                )
            self.outputs[node] = output
            self.meta[node] = {
                "node_id": node,
                "display_node": node,
                "parent_node": None,
                "real_node_id": node,
            }
            self._note("executed", {"node": node, "display_node": node, "output": output})

    def finish(self, node: str) -> None:
        """A node is done."""
        if (at := self._nodes.get(node)) is not None:
            self.executed.append(node)
            self._nodes[node] = _Progress("finished", at.max, at.max)
        else:
            self._nodes[node] = _Progress("finished", 1, 1)
        self._note_state(node)

    # -- history --------------------------------------------------------------------------------

    def end(self, kind: str, data: Mapping[str, Any]) -> None:
        """The graph ended so: make it the job's result. No frame: the socket's side sends that one
        once the history can be read."""
        self.messages.append([kind, self._dated(data)])
        self.canvas.tell({"outputs": self.outputs, "meta": self.meta, "messages": self.messages})

    # -- inside ---------------------------------------------------------------------------------

    def _message(self, kind: str, data: Mapping[str, Any]) -> None:
        full = self._dated(data)
        self.messages.append([kind, full])
        self.canvas.note({"type": kind, "data": full})

    def _dated(self, data: Mapping[str, Any]) -> dict[str, Any]:
        return {**data, "prompt_id": self.prompt_id, "timestamp": milliseconds()}

    def _note(self, kind: str, data: Mapping[str, Any]) -> None:
        self.canvas.note({"type": kind, "data": {**data, "prompt_id": self.prompt_id}})

    def _note_state(self, node: str) -> None:
        is_large = self.num_nodes > MAX_KEPT_STATES
        now = time.monotonic()
        if is_large and now - self._told_state_at < STATE_SECONDS:
            return
        self._told_state_at = now
        nodes = {
            name: {
                "value": at.value,
                "max": at.max,
                "state": at.state,
                "node_id": name,
                "prompt_id": self.prompt_id,
                "display_node_id": name,
                "parent_node_id": None,
                "real_node_id": name,
            }
            for name, at in self._nodes.items()
        }
        data = {"prompt_id": self.prompt_id, "nodes": nodes}
        topic = "state" if is_large else f"state:{node}"
        self.canvas.note({"type": "progress_state", "data": data}, topic=topic)
