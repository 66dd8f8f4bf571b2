"""A small CLIP tokenizer: byte-level byte-pair encoding learnt from the captions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from itertools import pairwise
from typing import Any, Final

from transformers import CLIPTokenizer

#: Ends the last symbol of each word, as in CLIP's vocabulary.
_END: Final = "</w>"
_SPECIAL: Final = ("<|startoftext|>", "<|endoftext|>")
#: Tokens of a prompt, the two special ones included.
MAX_LENGTH: Final = 77


def learn_tokenizer(captions: Iterable[str], max_merges: int = 2000) -> Any:
    """A ``CLIPTokenizer`` whose merges make the captions short; the same captions, the same one.

    Any text can be written: all 256 bytes are in the vocabulary, inside and at the end of a word.
    """
    split = CLIPTokenizer().backend_tokenizer
    words = Counter(
        word
        for caption in captions
        for word, _ in split.pre_tokenizer.pre_tokenize_str(split.normalizer.normalize_str(caption))
    )
    merges = learn_merges(words, max_merges)
    symbols = [*byte_symbols(), *(byte + _END for byte in byte_symbols())]
    symbols += [left + right for left, right in merges]
    vocabulary = {symbol: i for i, symbol in enumerate(dict.fromkeys([*symbols, *_SPECIAL]))}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=MAX_LENGTH)


def learn_merges(words: Counter[str], max_merges: int, end: str = _END) -> list[tuple[str, str]]:
    """Byte-pair encoding (Sennrich 2016): join the commonest pair until none occurs twice.

    Ties go to the pair that sorts first, so that the result depends on the words alone. ``end``
    is what the last symbol of each word carries.
    """
    spelled = {(*word[:-1], word[-1] + end): count for word, count in words.items()}
    merges: list[tuple[str, str]] = []
    while len(merges) < max_merges:
        pairs: Counter[tuple[str, str]] = Counter()
        for symbols, count in spelled.items():
            for pair in pairwise(symbols):
                pairs[pair] += count
        best = min(pairs, key=lambda pair: (-pairs[pair], pair), default=None)
        if best is None or pairs[best] < 2:
            break
        merges.append(best)
        spelled = {_join(symbols, best): count for symbols, count in spelled.items()}
    return merges


def _join(symbols: tuple[str, ...], pair: tuple[str, str]) -> tuple[str, ...]:
    joined: list[str] = []
    for symbol in symbols:
        # NOTE: a word holds few repeated pairs, so looking back is enough to join them in order.
        if joined and (joined[-1], symbol) == pair:
            joined[-1] += symbol
        else:
            joined.append(symbol)
    return tuple(joined)


def byte_symbols() -> list[str]:
    """The printable stand-ins of the 256 bytes, in GPT-2's order (Radford 2019, encoder.py)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(b) for b in printable] + [chr(256 + i) for i in range(len(others))]
