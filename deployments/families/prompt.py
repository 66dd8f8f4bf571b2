"""Prompts: the notations that weigh words, and how many tokens make how many chunks. No tensor.

One notation is that which users know from the AUTOMATIC1111 web UI:

    (word)        weighs 1.1 times as much, ((word)) 1.21 times
    [word]        weighs 1.1 times less
    (word:1.3)    weighs 1.3 times as much; weights of nested brackets multiply
    \\( \\) \\[ \\] \\\\  are the characters themselves; any other backslash is dropped
    BREAK         ends the chunk

A bracket that is never closed reaches to the end; one that was never opened is text.

The other is ComfyUI's (its ``comfy/sd1_clip.py`` says so):

    (word)        weighs 1.1 times as much as what is around it
    (word:1.3)    weighs 1.3, whatever is around it
    \\( \\)         are the characters themselves; everything else is text

A bracket without its partner is text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

#: How much a pair of round brackets adds.
EMPHASIS: Final = 1.1

#: Brackets nested deeper are text, so that parsing takes time in proportion to the length.
MAX_DEPTH: Final = 32

#: ComfyUI parts words of so many tokens and more where a chunk ends; shorter ones stay whole.
LONG_WORD: Final = 8

#: How many tokens before a chunk's end a comma may lie for the chunk to end there.
MAX_BACKTRACK: Final = 20

_MARK: Final = re.compile(
    r"\\(?P<escaped>[\\()\[\]])"
    r"|(?P<open>[(\[])"
    r"|:\s*(?P<weight>[+-]?(?:\d+(?:\.\d*)?|\.\d+))\s*\)"
    r"|(?P<close>[)\]])"
    r"|(?P<break>\bBREAK\b)"
    r"|(?P<lone>\\)"
    r"|(?P<text>.)",
    re.DOTALL,
)


_COMFYUI_MARK: Final = re.compile(
    r"\\(?P<escaped>[()])"
    r"|(?P<open>\()"
    r"|(?P<weight>:\s*(?P<number>[+-]?(?:\d+(?:\.\d*)?|\.\d+))\s*\))"
    r"|(?P<close>\))"
    r"|(?P<text>.)",
    re.DOTALL,
)


@dataclass(slots=True)
class Span:
    """Text of one weight; a fixed one heeds no bracket further out."""

    text: str
    weight: float = 1.0
    is_fixed: bool = False


@dataclass(frozen=True, slots=True)
class Chunk:
    """Tokens that the text encoder sees at once, without the special ones, and their weights."""

    tokens: tuple[int, ...] = ()
    weights: tuple[float, ...] = ()


Tokenize: TypeAlias = Callable[[str], Sequence[int]]


def parse(prompt: str) -> list[list[Span]]:
    """The spans of each section, the sections being what ``BREAK`` parts."""
    letters: list[Span | None] = []  # one span per character; None where BREAK is
    opened: dict[str, list[int]] = {"(": [], "[": []}
    for mark in _MARK.finditer(prompt):
        kind, text = mark.lastgroup, mark[0]
        if kind == "open" and len(opened[text]) < MAX_DEPTH:
            opened[text].append(len(letters))
        elif kind == "weight" and opened["("]:
            _weigh(letters, opened["("].pop(), float(mark["weight"]))
        elif kind == "close" and opened[opening := "(" if text == ")" else "["]:
            _weigh(letters, opened[opening].pop(), EMPHASIS if text == ")" else 1 / EMPHASIS)
        elif kind == "break":
            letters.append(None)
        elif kind != "lone":
            letters.append(Span(mark["escaped"] or text))
    for opening, factor in (("(", EMPHASIS), ("[", 1 / EMPHASIS)):
        for start in opened[opening]:
            _weigh(letters, start, factor)
    return _sections(letters)


def parse_comfyui(prompt: str) -> list[Span]:
    """The spans of a prompt in ComfyUI's notation."""
    letters: list[Span] = []
    opened: list[int] = []  # where each open bracket's own span is
    for mark in _COMFYUI_MARK.finditer(prompt):
        kind = mark.lastgroup
        is_closing = kind in ("weight", "close") and bool(opened)
        if kind == "open" and len(opened) < MAX_DEPTH:
            opened.append(len(letters))
        if not is_closing:
            letters += map(Span, mark["escaped"] or mark[0])
            continue
        start = opened.pop()
        letters[start].text = ""
        if kind == "weight" and len(letters) > start + 1:
            _weigh_inner(letters, start, float(mark["number"]), is_fixed=True)
        else:
            letters += map(Span, mark[0][:-1])
            _weigh_inner(letters, start, EMPHASIS, is_fixed=False)
    return _joined(letters)


def plain_chunk(prompt: str, tokenize: Tokenize, size: int) -> Chunk:
    """The first ``size`` tokens of a prompt that is no more than its words."""
    tokens = tuple(tokenize(prompt)[:size])
    return Chunk(tokens, (1.0,) * len(tokens))


def weighted_chunks(prompt: str, tokenize: Tokenize, size: int) -> list[Chunk]:
    """A prompt of any length in the notation above as chunks of at most ``size`` tokens.

    A chunk that would end inside a phrase ends after the phrase's comma instead, if that is among
    its last ``MAX_BACKTRACK`` tokens. An empty section but the last makes an empty chunk.
    """
    comma = tokenize(",")[-1]
    sections = parse(prompt)
    chunks: list[Chunk] = []
    for section in sections:
        weighted = [(token, span.weight) for span in section for token in tokenize(span.text)]
        if not weighted and section is sections[-1] and chunks:
            continue
        while len(weighted) > size:
            cut = _cut([token for token, _ in weighted], comma, size)
            chunks.append(_chunk(weighted[:cut]))
            weighted = weighted[cut:]
        chunks.append(_chunk(weighted))
    return chunks


def comfyui_chunks(prompt: str, tokenize: Tokenize, size: int) -> list[Chunk]:
    """A prompt of any length in ComfyUI's notation as chunks of at most ``size`` tokens.

    A word that does not fit goes to the next chunk whole, unless it is a ``LONG_WORD``.
    """
    chunks: list[list[tuple[int, float]]] = [[]]
    for span in parse_comfyui(prompt):
        for word in span.text.split():
            weighted = [(token, span.weight) for token in tokenize(word)]
            is_long = len(weighted) >= min(LONG_WORD, size)
            while len(chunks[-1]) + len(weighted) > size:
                room = size - len(chunks[-1]) if is_long else 0
                chunks[-1] += weighted[:room]
                weighted = weighted[room:]
                chunks.append([])
            chunks[-1] += weighted
    return [_chunk(chunk) for chunk in chunks]


def _weigh_inner(letters: Sequence[Span], start: int, factor: float, *, is_fixed: bool) -> None:
    for span in letters[start:]:
        if not span.is_fixed:
            span.weight, span.is_fixed = span.weight * factor, is_fixed


def _joined(letters: Sequence[Span]) -> list[Span]:
    """Neighbours of equal weight as one; what has no text is left out."""
    spans: list[Span] = []
    for letter in letters:
        if not letter.text:
            continue
        if spans and spans[-1].weight == letter.weight:
            spans[-1].text += letter.text
        else:
            spans.append(Span(letter.text, letter.weight))
    return spans


def _weigh(letters: Sequence[Span | None], start: int, factor: float) -> None:
    for span in letters[start:]:
        if span is not None:
            span.weight *= factor


def _sections(letters: Sequence[Span | None]) -> list[list[Span]]:
    """Part at each None; join neighbours of equal weight."""
    sections: list[list[Span]] = [[]]
    for span in letters:
        if span is None:
            sections.append([])
        elif sections[-1] and sections[-1][-1].weight == span.weight:
            sections[-1][-1].text += span.text
        else:
            sections[-1].append(span)
    return sections


def _cut(tokens: Sequence[int], comma: int, size: int) -> int:
    """After how many of its tokens a chunk ends that more follow."""
    if tokens[size] != comma:
        for index in range(size - 1, max(size - 1 - MAX_BACKTRACK, -1), -1):
            if tokens[index] == comma:
                return index + 1
    return size


def _chunk(weighted: Sequence[tuple[int, float]]) -> Chunk:
    return Chunk(tuple(token for token, _ in weighted), tuple(weight for _, weight in weighted))
