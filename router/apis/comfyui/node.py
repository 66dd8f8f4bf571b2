"""Node: one row of the table of nodes: what it takes, gives and does."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

from deployments.types import ModelCard
from router.belongings import Belongings


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """What an owner can name at this moment: the choices of combo inputs come from it.

    Attributes:
        cards: the hosted models that serve.
        files: names of the owner's files: uploads, as ``name`` or ``subfolder/name``; where a graph
            is judged, those of its own that exist, in its own notation.
        own: the weights and LoRAs that the owner has registered.
    """

    cards: Sequence[ModelCard] = ()
    files: Sequence[str] = ()
    own: Belongings = field(default_factory=Belongings)


Choices: TypeAlias = Callable[[Offer], Sequence[str]]

#: Types of values that a client may write into a graph; all others come over links.
WIDGET_TYPES: Final = frozenset({"INT", "FLOAT", "STRING", "BOOLEAN"})
_PICTURES: Final = frozenset({"IMAGE", "MASK"})
#: The type that every other one fits.
ANY: Final = "*"


@dataclass(frozen=True, slots=True, kw_only=True)
class Input:
    """An input of a node.

    Attributes:
        type: ``INT``, ``FLOAT``, ``STRING``, ``BOOLEAN``, the type of a link (``IMAGE``, ...), or
            ``*``; empty when there are ``choices``.
        choices: the strings that it may be.
        options: as ``/object_info`` tells them: ``default``, ``min``, ``max``, ``step``, ...
        is_open: whether other values than the ``choices`` are left to the node's ``check``.
    """

    name: str
    type: str = ""
    choices: Choices | tuple[str, ...] | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    is_optional: bool = False
    is_open: bool = False

    @property
    def is_link(self) -> bool:
        """Whether its values come over links alone."""
        return self.choices is None and self.type not in WIDGET_TYPES and self.type != ANY

    def list_choices(self, offer: Offer) -> list[str] | None:
        """What it may be for this owner now; None when it has no choices."""
        if self.choices is None:
            return None
        return list(self.choices(offer) if callable(self.choices) else self.choices)


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A kind of node.

    Attributes:
        run: what it does. Its keyword arguments are the node's inputs, by name; one that was not
            given is not passed. A plain function is pure and may take its time, for it runs in a
            thread; a coroutine function takes a ``Drawing`` before them. It returns the outputs,
            in order, as a tuple, or a ``Shown``.
        outputs: types of what it gives; ``output_names`` are the same unless told.
        is_output: whether it is worth running for its own sake.
        is_cached: whether the same inputs always give the same outputs.
        check: what is wrong with the literal inputs beyond their types and ranges, as
            (input's name, reason); None when nothing is. It is asked once every literal has its
            type and range, and is given these; values that come over links are not among them.
        takes_lists: whether it is given, for each input, the tuple of all of its values, and runs
            once; any other node runs once for each value of a ``Several``.
        gives_lists: for each output, whether it is a ``Several``; empty means none is.
        hidden: what ComfyUI's node is handed by the server, as ``/object_info`` tells it.
        module: of ComfyUI, where the node is defined.
    """

    class_type: str
    run: Callable[..., Any]
    inputs: tuple[Input, ...] = ()
    outputs: tuple[str, ...] = ()
    output_names: tuple[str, ...] = ()
    category: str = ""
    display_name: str = ""
    description: str = ""
    is_output: bool = False
    is_cached: bool = True
    check: Callable[[Offer, Mapping[str, Any]], tuple[str, str] | None] | None = None
    takes_lists: bool = False
    gives_lists: tuple[bool, ...] = ()
    hidden: Mapping[str, str] = field(default_factory=dict)
    output_tooltips: tuple[str, ...] = ()
    module: str = "nodes"
    is_deprecated: bool = False
    is_experimental: bool = False

    @property
    def is_pictorial(self) -> bool:
        """Whether pictures or masks go in or come out, so that running it may take much memory."""
        return not _PICTURES.isdisjoint((*self.outputs, *(row.type for row in self.inputs)))

    def find_input(self, name: str) -> Input | None:
        """Its input of this name."""
        return next((row for row in self.inputs if row.name == name), None)
