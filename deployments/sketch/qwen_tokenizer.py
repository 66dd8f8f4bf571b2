"""A small Qwen2 tokenizer: byte-level byte-pair encoding without ends of words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any, Final

from transformers import Qwen2Tokenizer

from deployments.sketch.tokenizer import byte_symbols, learn_merges

#: As in Qwen2.5-VL's ``tokenizer_config.json``, in its order.
SPECIAL: Final = (
    *("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>"),
    *("<|box_start|>", "<|box_end|>", "<|quad_start|>", "<|quad_end|>", "<|vision_start|>"),
    *("<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>"),
)


def learn_qwen_tokenizer(
    captions: Iterable[str], whole: Iterable[str] = (), max_merges: int = 2500
) -> Any:
    """A ``Qwen2Tokenizer`` whose merges make the captions short; the same captions, the same one.

    Every word of the texts in ``whole`` becomes one token, as it is in the real vocabulary.
    """
    split = Qwen2Tokenizer().backend_tokenizer
    words: Counter[str] = Counter()
    for texts, count in ((captions, 1), (whole, 100_000)):
        for text in texts:
            for word, _ in split.pre_tokenizer.pre_tokenize_str(text):
                words[word] += count
    merges = learn_merges(words, max_merges, end="")
    symbols = [*byte_symbols(), *(left + right for left, right in merges), *SPECIAL]
    return Qwen2Tokenizer(
        vocab={symbol: i for i, symbol in enumerate(dict.fromkeys(symbols))},
        merges=merges,
        extra_special_tokens=list(SPECIAL[1:]),
        model_max_length=131072,
    )
