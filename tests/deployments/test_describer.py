"""One replica's describer over a tiny BLIP checkpoint with random weights: no Ray."""

from __future__ import annotations

import asyncio
import io
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import (
    BertTokenizer,
    BlipConfig,
    BlipForConditionalGeneration,
    BlipImageProcessorPil,
    BlipProcessor,
)

from deployments.describer import STALLED_SECONDS, Call, DescriberConfig, DescriberHost
from deployments.errors import Cancelled, InvalidImage, InvalidRequest
from deployments.types import GenerationRequest, GenerationResult, Progress

WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]", "[ENC]", *"abcdefghijklmnopq")
SIZES = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint that never comes to an end by itself."""
    folder = tmp_path_factory.mktemp("blip")
    (folder / "words.txt").write_text("\n".join(WORDS))
    tokenizer = BertTokenizer(vocab=str(folder / "words.txt"), bos_token="[DEC]")
    size = {"height": 32, "width": 32}
    BlipProcessor(BlipImageProcessorPil(size=size), tokenizer).save_pretrained(folder)
    special = {"bos_token_id": 5, "eos_token_id": 3, "sep_token_id": 3, "pad_token_id": 0}
    text = {"vocab_size": len(WORDS), "max_position_embeddings": 1100, "encoder_hidden_size": 16}
    config = BlipConfig(
        text_config={**SIZES, **text, **special},
        vision_config={**SIZES, "image_size": 32, "patch_size": 8},
        projection_dim=16,
    )
    torch.manual_seed(0)
    model = BlipForConditionalGeneration(config)
    model.text_decoder.cls.predictions.decoder.bias.data[:7] = -1000.0
    model.save_pretrained(folder)
    return folder


@pytest.fixture
async def host(folder: Path) -> AsyncIterator[DescriberHost]:
    host = make_host(folder, max_new_tokens=1000)
    yield host
    host.close()


def make_host(folder: Path, **fields: object) -> DescriberHost:
    config = DescriberConfig(weights=str(folder), device="cpu", num_threads=1, **fields)  # type: ignore[arg-type]
    return DescriberHost(config, "blip", max_ongoing_requests=7)


def request(mode: str = "RGB", kind: str = "PNG") -> GenerationRequest:
    out = io.BytesIO()
    Image.new(mode, (48, 40)).save(out, kind)
    return GenerationRequest(prompt="", images=(out.getvalue(),), task="describe")


async def described(host: DescriberHost, asked: GenerationRequest) -> GenerationResult:
    *_, result = [item async for item in host.generate("r", asked)]
    assert isinstance(result, GenerationResult)
    return result


@pytest.mark.parametrize("num_beams", [1, 3])
async def test_generate_gives_the_same_words_for_the_same_picture(
    folder: Path, num_beams: int
) -> None:
    host = make_host(folder, max_new_tokens=5, num_beams=num_beams)
    first, again = await described(host, request()), await described(host, request())
    assert (first.images, first.model) == ((), "blip")
    assert first.text == again.text
    assert 1 <= len(first.text.split()) <= 5
    host.close()


@pytest.mark.parametrize(("mode", "kind"), [("RGBA", "PNG"), ("L", "JPEG"), ("P", "GIF")])
async def test_generate_reads_every_kind_of_picture(folder: Path, mode: str, kind: str) -> None:
    host = make_host(folder, max_new_tokens=2)
    assert (await described(host, request(mode, kind))).text
    host.close()


async def test_generate_tells_how_many_tokens_there_are(host: DescriberHost) -> None:
    news = host.generate("r", request())
    progress = [item async for item in news if isinstance(item, Progress)]
    assert progress
    assert all(item.num_steps == 1000 for item in progress)
    assert [item.step for item in progress] == sorted(item.step for item in progress)


async def test_cancel_stops_what_runs_and_what_waits(host: DescriberHost) -> None:
    async def run(request_id: str) -> None:
        async for _ in host.generate(request_id, request()):
            pass

    runs = [asyncio.create_task(run(name)) for name in ("job.1.0", "job.1.1", "other.1.0")]
    await asyncio.sleep(0.2)
    load = await host.load()
    assert (load.num_running, load.num_waiting) == (1, 2)
    assert 2000 < load.work < 3000
    assert await host.cancel("job.") == 2
    ended = await asyncio.gather(*runs[:2], return_exceptions=True)
    assert [type(error) for error in ended] == [Cancelled, Cancelled]
    assert await host.cancel("other.") == 1
    with pytest.raises(Cancelled):
        await runs[2]
    assert (await host.load()).work == 0


async def test_closing_the_iterator_cancels(host: DescriberHost) -> None:
    news = host.generate("r", request())
    await anext(news)
    await news.aclose()  # type: ignore[attr-defined]
    assert (await host.load()).num_running == 0
    started = asyncio.get_running_loop().time()
    assert [item async for item in host.generate("next", request())]
    assert asyncio.get_running_loop().time() - started < 60


async def test_bad_pictures_are_refused(host: DescriberHost) -> None:
    with pytest.raises(InvalidImage):
        await described(host, GenerationRequest(prompt="", images=(b"no picture",)))
    with pytest.raises(InvalidRequest, match="0 pictures"):
        await described(host, GenerationRequest(prompt=""))


async def test_the_card_says_that_it_describes(folder: Path) -> None:
    host = make_host(folder, aliases=("clip",))
    card = await host.card()
    assert (card.id, card.modes, card.aliases) == ("blip", ("describe",), ("clip",))
    assert (card.max_ongoing_requests, card.device, card.dtype) == (7, "cpu", "float32")
    assert (await host.load()).weight_bytes > 0
    assert (await host.evict()).weights == ()
    host.close()


async def test_a_call_that_has_begun_and_tells_nothing_is_stalled(host: DescriberHost) -> None:
    now = time.monotonic()
    assert not Call().is_stalled
    assert not Call(told_at=now).is_stalled
    assert Call(told_at=now - STALLED_SECONDS - 1).is_stalled
    await host.check_health()
