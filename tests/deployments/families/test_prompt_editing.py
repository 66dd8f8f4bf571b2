"""Words that change from step to step, and prompts of several parts."""

from __future__ import annotations

import time

import pytest

from deployments.families.prompt_editing import split_parts, texts_by_step


def changes(prompt: str, num_steps: int) -> list[tuple[int, str]]:
    """Each text with the step in which it begins."""
    texts = texts_by_step(prompt, num_steps)
    return [(k, text) for k, text in enumerate(texts) if k == 0 or text != texts[k - 1]]


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("a cat", [(0, "a cat")]),
        ("a [b:3]", [(0, "a "), (3, "a b")]),
        ("a [b: 3 ]", [(0, "a "), (3, "a b")]),
        ("[a::3]!", [(0, "a!"), (3, "!")]),
        ("a [b : c : 1] d", [(0, "a b  d"), (1, "a  c  d")]),
        ("a [b:.5] c", [(0, "a  c"), (5, "a b c")]),
        ("a [b:c:20] d", [(0, "a b d")]),
        ("a [b:c:0] d", [(0, "a c d")]),
        ("a [[[b]]:2]", [(0, "a "), (2, "a [[b]]")]),
        ("[(a:2):3]", [(0, ""), (3, "(a:2)")]),
        ("a[b:[c:d:2]:1]e", [(0, "abe"), (1, "ace"), (2, "ade")]),
        ("(a [b:c:5]:1.3)", [(0, "(a b:1.3)"), (5, "(a c:1.3)")]),
        ("[a|(b:1.1)]", [(k, ("a", "(b:1.1)")[k % 2]) for k in range(10)]),
        ("[a|]", [(k, ("a", "")[k % 2]) for k in range(10)]),
        ("a [b] (c:1.2)", [(0, "a [b] (c:1.2)")]),
        ("a [unbalanced", [(0, "a [unbalanced")]),
        ("((a][:b:c [d:3]", [(0, "((a][:b:c "), (3, "((a][:b:c d")]),
        ("[a (b:2]", [(0, "[a (b:2]")]),
        ("[a:b:c:3]", [(0, "[a:b:c:3]")]),
        ("[a|b:2]", [(0, "[a|b:2]")]),
        (r"\[a:b:3\]", [(0, r"\[a:b:3\]")]),
    ],
)
def test_words_change_at_their_steps(prompt: str, expected: list[tuple[int, str]]) -> None:
    assert changes(prompt, 10) == expected


@pytest.mark.parametrize("part", ["(", "[", "[a:", "[a|", ":", "]", "(]", "\\", "[a:b:1]", "[a|b]"])
def test_reading_is_quick_whatever_it_is_given(part: str) -> None:
    started = time.monotonic()
    texts_by_step(part * (20_000 // len(part)), 150)
    assert time.monotonic() - started < 2


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("a cat", [("a cat", 1)]),
        ("at 10:30", [("at 10:30", 1)]),
        ("a AND b :1.2", [("a ", 1), (" b ", 1.2)]),
        ("a:-.5 AND (b:1.2) AND", [("a", -0.5), (" (b:1.2) ", 1), ("", 1)]),
        ("SANDAL and ANDROID", [("SANDAL and ANDROID", 1)]),
    ],
)
def test_and_parts_a_prompt(prompt: str, expected: list[tuple[str, float]]) -> None:
    assert split_parts(prompt) == expected
