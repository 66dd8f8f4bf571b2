"""The notation that weighs words, and where long prompts are cut."""

from __future__ import annotations

import time

import pytest

from deployments.families.prompt import (
    Chunk,
    comfyui_chunks,
    parse,
    parse_comfyui,
    plain_chunk,
    weighted_chunks,
)


def spans(prompt: str) -> list[tuple[str, float]]:
    [section] = parse(prompt)
    return [(span.text, pytest.approx(span.weight)) for span in section]


def letters(text: str) -> list[int]:
    """A token per character; spaces have none."""
    return [ord(letter) for letter in text if letter != " "]


def read(chunk: Chunk) -> str:
    return "".join(map(chr, chunk.tokens))


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("a red cat", [("a red cat", 1.0)]),
        ("a (red) cat", [("a ", 1.0), ("red", 1.1), (" cat", 1.0)]),
        ("a ((red)) cat", [("a ", 1.0), ("red", 1.21), (" cat", 1.0)]),
        ("a [red] cat", [("a ", 1.0), ("red", 1 / 1.1), (" cat", 1.0)]),
        ("(red:1.3)", [("red", 1.3)]),
        ("(red: 1.3 )", [("red", 1.3)]),
        ("(red:.5)(blue:-1)", [("red", 0.5), ("blue", -1.0)]),
        ("(a (b:2) c:1.5)", [("a ", 1.5), ("b", 3.0), (" c", 1.5)]),
        ("([x])", [("x", 1.0)]),
        (r"a \(red\) cat \[x\] \\ \n", [("a (red) cat [x] \\ n", 1.0)]),
        ("(open (twice", [("open ", 1.1), ("twice", 1.21)]),
        ("[open", [("open", 1 / 1.1)]),
        ("shut) it] :1.3)", [("shut) it] :1.3)", 1.0)]),
        ("10:30, a:b", [("10:30, a:b", 1.0)]),
        ("(a:1.2.3)", [("a:1.2.3", 1.1)]),
        ("", []),
    ],
)
def test_parse_weighs_what_brackets_hold(prompt: str, expected: list[tuple[str, float]]) -> None:
    assert spans(prompt) == expected


def test_parse_parts_at_break_also_in_brackets() -> None:
    sections = parse("a  BREAK (b BREAK c) BREAKER")
    words = [["".join(span.text for span in section).split()] for section in sections]
    assert words == [[["a"]], [["b"]], [["c", "BREAKER"]]]
    assert sections[1][-1].weight == sections[2][0].weight == pytest.approx(1.1)


@pytest.mark.parametrize("part", ["(", "(a", "(a:", "[", ":1", "BREAK ", " "])
def test_parse_is_quick_whatever_it_is_given(part: str) -> None:
    started = time.monotonic()
    parse(part * (20_000 // len(part)))
    parse("(" * 5_000 + "a" * 10_000 + ")" * 5_000)
    parse_comfyui(part * (20_000 // len(part)))
    parse_comfyui("(" * 5_000 + "a" * 10_000 + ")" * 5_000)
    assert time.monotonic() - started < 2


def test_chunks_are_full_but_the_last() -> None:
    chunks = weighted_chunks("abc(defg:2)hij", letters, 4)
    assert [read(chunk) for chunk in chunks] == ["abcd", "efgh", "ij"]
    assert [chunk.weights for chunk in chunks] == [(1, 1, 1, 2), (2, 2, 2, 1), (1, 1)]


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        pytest.param("a" * 60 + "," + "b" * 20, [61, 20], id="after the comma"),
        pytest.param("a" * 40 + "," + "b" * 60, [75, 26], id="too far back"),
        pytest.param("a" * 54 + "," + "b" * 30, [75, 10], id="21 from the end"),
        pytest.param("a" * 55 + "," + "b" * 30, [56, 30], id="20 from the end"),
        pytest.param("a" * 74 + "," + "b", [75, 1], id="last of the chunk"),
        pytest.param("a" * 60 + "," + "b" * 14 + ",c", [75, 2], id="comma comes next"),
        pytest.param("a" * 60 + "," + "b" * 14, [75], id="nothing follows"),
        pytest.param("a" * 75, [75], id="exactly one"),
        pytest.param("", [0], id="empty"),
        pytest.param("a BREAK b", [1, 1], id="break"),
        pytest.param("BREAK b", [0, 1], id="break first"),
        pytest.param("a BREAK", [1], id="break last"),
        pytest.param("a BREAK BREAK b", [1, 0, 1], id="breaks"),
    ],
)
def test_chunks_end_at_commas_and_breaks(prompt: str, expected: list[int]) -> None:
    assert [len(chunk.tokens) for chunk in weighted_chunks(prompt, letters, 75)] == expected


def test_plain_chunk_takes_every_character_and_no_more_than_fit() -> None:
    assert read(plain_chunk("(a:2) BREAK", letters, 4)) == "(a:2"
    assert plain_chunk("abc", letters, 2).weights == (1.0, 1.0)


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("a (red) cat", [("a ", 1.0), ("red", 1.1), (" cat", 1.0)]),
        ("((red))", [("red", 1.21)]),
        ("(red: 1.3 )", [("red", 1.3)]),
        ("((a:1.2) b:1.5)", [("a", 1.2), (" b", 1.5)]),
        ("(a (b) c:2)", [("a ", 2.0), ("b", 2.2), (" c", 2.0)]),
        ("(a:b:.5)", [("a:b", 0.5)]),
        ("(:1.2)", [(":1.2", 1.1)]),
        (r"\(red\) [x] BREAK \n", [(r"(red) [x] BREAK \n", 1.0)]),
        ("(open (b)", [("(open ", 1.0), ("b", 1.1)]),
        ("shut) 10:30) (it:-1)", [("shut) 10:30) ", 1.0), ("it", -1.0)]),
        ("", []),
    ],
)
def test_comfyui_weighs_what_round_brackets_hold(
    prompt: str, expected: list[tuple[str, float]]
) -> None:
    found = [(span.text, pytest.approx(span.weight)) for span in parse_comfyui(prompt)]
    assert found == expected


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        pytest.param("aaa bbb ccc", ["aaabbb", "ccc"], id="words stay whole"),
        pytest.param("aaa cccccccccc", ["aaaccccc", "ccccc"], id="long ones do not"),
        pytest.param("aaaa bbbb", ["aaaabbbb"], id="exactly one"),
        pytest.param("", [""], id="empty"),
    ],
)
def test_comfyui_chunks_end_between_words(prompt: str, expected: list[str]) -> None:
    assert [read(chunk) for chunk in comfyui_chunks(prompt, letters, 8)] == expected
