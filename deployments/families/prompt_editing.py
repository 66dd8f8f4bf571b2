"""Prompt editing: words that change from step to step, and prompts of several parts. No tensor.

The notation is the one that users know from the AUTOMATIC1111 web UI, without looking at weights:

    [from:to:when]   ``from`` in the first steps, ``to`` in those after
    [to:when]        nothing first; [from::when] nothing after
    [a|b|c]          a in the first step, b in the second, c in the third, a in the fourth ...
    a AND b :0.5     two prompts that steer together, the second by half

``when`` is a number of steps, or a share of all steps when it is below 1. Brackets nest; what is in
none of these forms is text and stays as it is, brackets and backslashes included.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, TypeAlias

#: Brackets nested deeper are text, so that reading takes time in proportion to the length.
MAX_DEPTH: Final = 32

_MARK: Final = re.compile(r"\\.|[()\[\]:|]|[^\\()\[\]:|]+|\\", re.DOTALL)
_WHEN: Final = re.compile(r"\s*[+-]?(?:\d+\.?\d*|\.\d+)\s*")
_AND: Final = re.compile(r"\bAND\b")
_WEIGHT: Final = re.compile(r":\s*(?P<weight>[+-]?(?:\d+\.?\d*|\.\d+))\s*$")
_CLOSED_BY: Final = {")": "(", "]": "["}


@dataclass(frozen=True, slots=True)
class Edited:
    """``before`` in the first ``when`` steps (a share of them below 1), ``after`` in the others."""

    before: Words
    after: Words
    when: float

    def at(self, step: int, num_steps: int) -> Words:
        """What stands here in a step, counted from 0."""
        when = self.when * num_steps if self.when < 1 else self.when
        return self.before if step < int(min(when, num_steps)) else self.after


@dataclass(frozen=True, slots=True)
class Alternating:
    """One option after the other, step by step."""

    options: tuple[Words, ...]

    def at(self, step: int, num_steps: int) -> Words:  # noqa: ARG002
        """What stands here in a step, counted from 0."""
        return self.options[step % len(self.options)]


#: Text, and places where it changes.
Words: TypeAlias = "tuple[str | Edited | Alternating, ...]"


@dataclass(slots=True)
class _Bracket:
    """An open bracket: what it holds so far, and where its own colons and bars are."""

    opening: str
    words: list[str | Edited | Alternating] = field(default_factory=list)
    marks: list[tuple[int, str]] = field(default_factory=list)
    is_text: bool = False

    def close(self, closing: str) -> Words:
        """What the bracket is, now that it is closed."""
        kinds = {mark for _, mark in self.marks}
        if self.opening == "[" and not self.is_text:
            if kinds == {"|"}:
                return (Alternating(tuple(self._segments())),)
            if kinds == {":"} and len(self.marks) <= 2:
                *texts, when = self._segments()
                if all(isinstance(word, str) for word in when):
                    told = "".join(map(str, when))
                    if _WHEN.fullmatch(told):
                        before: Words = texts[0] if len(texts) == 2 else ()
                        return (Edited(before, texts[-1], float(told)),)
        return (self.opening, *self.words, closing)

    def _segments(self) -> list[Words]:
        starts = [0, *(place + 1 for place, _ in self.marks)]
        ends = [*(place for place, _ in self.marks), len(self.words)]
        return [tuple(self.words[s:e]) for s, e in zip(starts, ends, strict=True)]


def read(prompt: str) -> Words:
    """A prompt as text and places where it changes."""
    stack = [_Bracket("")]
    for mark in _MARK.findall(prompt):
        if mark in "([" and len(stack) <= MAX_DEPTH:
            stack.append(_Bracket(mark))
        elif mark in _CLOSED_BY and any(b.opening == _CLOSED_BY[mark] for b in stack):
            while stack[-1].opening != _CLOSED_BY[mark]:
                _unwind(stack)
            closed = stack.pop()
            stack[-1].words += closed.close(mark)
        else:
            if mark in ":|":
                stack[-1].marks.append((len(stack[-1].words), mark))
            stack[-1].words.append(mark)
    while len(stack) > 1:
        _unwind(stack)
    return tuple(stack[0].words)


def texts_by_step(prompt: str, num_steps: int) -> tuple[str, ...]:
    """The prompt in each step; a single text when it never changes."""
    words = read(prompt)
    if all(isinstance(word, str) for word in words):
        return (prompt,)
    return tuple(_text(words, step, num_steps) for step in range(max(num_steps, 1)))


def split_parts(prompt: str) -> list[tuple[str, float]]:
    """The prompts that ``AND`` parts, with their weights; a prompt without it weighs 1."""
    texts = _AND.split(prompt)
    return [(prompt, 1.0)] if len(texts) == 1 else [_weighed(text) for text in texts]


def _weighed(text: str) -> tuple[str, float]:
    found = _WEIGHT.search(text)
    return (text, 1.0) if found is None else (text[: found.start()], float(found["weight"]))


def _unwind(stack: list[_Bracket]) -> None:
    """A bracket that is never closed is text, and so is one that it stands in."""
    unclosed = stack.pop()
    stack[-1].words += (unclosed.opening, *unclosed.words)
    stack[-1].is_text = True


def _text(words: Sequence[str | Edited | Alternating], step: int, num_steps: int) -> str:
    return "".join(
        word if isinstance(word, str) else _text(word.at(step, num_steps), step, num_steps)
        for word in words
    )
