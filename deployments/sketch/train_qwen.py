"""Trains the embedded Qwen-Image-Edit to draw, and to edit one or two pictures.

    python -m deployments.sketch.train_qwen FOLDER [--minutes 60] [--seed 0] [--begin 0]
                                            [--drawing 0.25] [--rate 0.01] [--threads 1]
                                            [--workers 1]

FOLDER is a Qwen-Image-Edit of ours whose language model ``train_qwen_text`` has trained; it learns
on along with the denoiser.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from random import Random
from typing import Any, Final

import torch
from diffusers import QwenImageTransformer2DModel
from torch import Tensor

from deployments.families.qwen_image_denoiser import grid, pack
from deployments.families.qwen_image_references import SEEN_PIXELS, size_of
from deployments.sketch import workers
from deployments.sketch.command import command_line, run
from deployments.sketch.comprehension import Comprehension, random_ends
from deployments.sketch.edit_sheets import draw_edits
from deployments.sketch.flow_noising import flow_noise, random_sigmas
from deployments.sketch.lesson import Lesson, forward_pass, pick_device, rooted, save_half
from deployments.sketch.questions import Asked, Questions, asked_of, asked_of_drawings
from deployments.sketch.qwen_beginning import NUM_SAYING, hold
from deployments.sketch.qwen_reader import Grid, QwenReader
from deployments.sketch.qwen_thumbnails import qwen_latents
from deployments.sketch.scenes import Shapes, emptied, settled
from deployments.sketch.sheets import Format, painted_latents
from deployments.sketch.wording import captioned

#: From which share of the lesson on -> sizes of drawings, and of edits with their references. What
#: words mean is learnt on tiny pictures, of which many make a batch.
_PLAN: Final[tuple[tuple[float, tuple[Format, ...], tuple[Format, ...]], ...]] = (
    (
        0.0,
        (Format(128, 128, 48), Format(192, 192, 28), Format(192, 128, 36), Format(256, 256, 16)),
        (Format(128, 128, 32), Format(192, 160, 18), Format(192, 192, 14), Format(256, 256, 8)),
    ),
    (
        0.45,
        (Format(192, 192, 28), Format(256, 256, 16), Format(384, 256, 10), Format(256, 384, 10)),
        (Format(192, 192, 14), Format(256, 256, 8), Format(256, 256, 8), Format(320, 224, 7)),
    ),
    (
        0.75,
        (Format(256, 256, 16), Format(384, 256, 10), Format(384, 384, 8), Format(512, 512, 4)),
        (Format(256, 256, 8), Format(320, 224, 7), Format(384, 384, 4), Format(512, 512, 2)),
    ),
)
#: Share of the edits that look at two pictures.
_COMBINING: Final = 0.12
#: Share of the texts that are left out, and what stands for them, as in Qwen's own examples.
_UNNAMED: Final = 0.1
_BLANK: Final = " "
#: Noise level below which a flow's error counts less and less.
_LITTLE_NOISE: Final = 0.3
#: Mean squared error below which a picture counts less and less.
_SMALL_ERROR: Final = 0.003
#: How much more what an edit changes, or what stands in a drawing, counts than the rest. All shapes
#: of an edit's picture count as much: else to change each of them would cost less than to find out
#: which is meant.
_COUNTING: Final = 4.0
#: Share of the batches of drawings in which what noise may show instead is the same without what
#: stands in it; in the others it is another drawing.
_BARE: Final = 0.5
#: How much it counts whether the language model understands.
_UNDERSTOOD: Final = 0.3
#: Pixels of a side of what the language model sees as one token.
_SEEN_TOKEN: Final = 28
#: The language model sees pictures of all sizes in as many tokens. It does so in this share of the
#: batches, and in all of so few edits; in the others small pictures are fewer tokens, in proportion
#: to their pixels, and those of ``_USUAL_PIXELS`` are all.
_SEEN_WHOLE: Final = 0.1
_FEW_EDITS: Final = 4
_USUAL_PIXELS: Final = 512 * 512


@dataclass(frozen=True, slots=True)
class _Student:
    """A denoiser, what reads its texts, and what asks each: from within, and after the texts."""

    model: Any
    reader: QwenReader
    questions: Questions
    comprehension: Comprehension


def teach(
    folder: Path, minutes: float, *, begin: float, drawing: float, rate: float, seed: int
) -> None:
    """Train for some minutes; ``begin`` skips that share of the sizes' plan; ``drawing`` is the
    share of the batches that are drawn from words alone."""
    choices, rng = workers.dice(seed)
    device = pick_device()
    reader = QwenReader.learning(folder, device)
    model = QwenImageTransformer2DModel.from_pretrained(
        folder / "transformer", torch_dtype=torch.float32
    ).to(device)
    hold(model)
    questions = Questions(model.inner_dim).to(device)
    comprehension = Comprehension(model.config.joint_attention_dim).to(device)
    student = _Student(model, reader, questions, comprehension)
    learning = [model, reader.model, questions, comprehension]
    lesson = Lesson(learning, minutes=minutes, rate=rate, memory=0.995)

    def loss(progress: float) -> Tensor:
        share = begin + (1 - begin) * progress
        _, drawings, edits = max(stage for stage in _PLAN if stage[0] <= share)
        if choices.random() >= drawing:
            num_pictures = 2 if choices.random() < _COMBINING else 1
            form, is_whole = choices.choice(edits), choices.random() < _SEEN_WHOLE
            return _editing_loss(student, form, num_pictures, rng, is_whole=is_whole)
        return _drawing_loss(student, choices.choice(drawings), rng)

    lesson.run(loss, partial(_save, folder))


def _save(folder: Path, modules: Sequence[Any]) -> None:
    for name, module in zip(("transformer", "text_encoder"), modules[:2], strict=True):
        save_half(module, folder / name)


def _drawing_loss(student: _Student, form: Format, rng: Random) -> Tensor:
    drawn = [captioned(rng) for _ in range(form.count)]
    scenes = [settled(scene) for scene, _ in drawn]
    texts, is_told = _told([text for _, text in drawn], rng)
    clean = painted_latents(scenes, form)
    bare = painted_latents([emptied(scene) for scene in scenes], form)
    things = _changed(clean, bare)
    read = student.reader.read(texts, [()] * len(texts))
    misread = student.comprehension.scene_errors(random_ends(*read, rng), scenes)
    return _misunderstood(misread, is_told) + _flow_loss(
        student,
        clean,
        read,
        is_told,
        other=bare if rng.random() < _BARE else clean.roll(1, 0),
        counting=things,
        asked=asked_of_drawings(scenes, things, is_told),
    )


def _editing_loss(
    student: _Student, form: Format, num_pictures: int, rng: Random, *, is_whole: bool
) -> Tensor:
    count = form.count if num_pictures == 1 else max(form.count * 2 // 3, 1)
    edits, (*references, clean) = draw_edits(replace(form, count=count), num_pictures, rng)
    texts, is_told = _told([edit.instruction for edit in edits], rng)
    are_shapes = torch.tensor([isinstance(edit.after, Shapes) for edit in edits])
    standing = _apart(references[0]) & are_shapes[:, None, None, None]
    changed = _changed(clean, references[0])
    is_whole |= form.count <= _FEW_EDITS
    share = 1.0 if is_whole else min(form.width * form.height / _USUAL_PIXELS, 1)
    read = student.reader.read(texts, [_grids(references, share)] * len(texts))
    misread = student.comprehension.edit_errors(random_ends(*read, rng), edits)
    return _misunderstood(misread, is_told) + _flow_loss(
        student,
        clean,
        read,
        is_told,
        references=references,
        other=references[0],
        counting=changed | standing,
        asked=asked_of(edits, changed, is_told),
    )


def _told(texts: Sequence[str], rng: Random) -> tuple[list[str], Tensor]:
    """The texts, of which some are left out, and which are not, (n,)."""
    told = [_BLANK if rng.random() < _UNNAMED else text for text in texts]
    return told, torch.tensor([text != _BLANK for text in told])


def _misunderstood(errors: Tensor, is_told: Tensor) -> Tensor:
    """How wrong the language model is (n,) about the texts that are told (n,), as that counts."""
    if not is_told.any():
        # What is not asked has no gradient. Of one that is zero, Muon would make a full step.
        return torch.zeros((), device=errors.device)
    return _UNDERSTOOD * errors[is_told.to(errors.device)].sum() / len(errors)


def _changed(after: Tensor, before: Tensor) -> Tensor:
    """(n, 1, h, w): where pictures differ."""
    return (after - before).abs().amax(dim=1, keepdim=True) > 0.1


def _apart(picture: Tensor) -> Tensor:
    """(n, 1, h, w): where a picture is not of its ground's colour, the median of each channel."""
    usual = picture.flatten(2).median(dim=2).values[..., None, None]
    return (picture - usual).abs().amax(dim=1, keepdim=True) > 0.4


def _flow_loss(
    student: _Student,
    clean: Tensor,
    read: tuple[Tensor, Tensor],
    is_told: Tensor,
    *,
    other: Tensor,
    counting: Tensor,
    asked: Asked,
    references: Sequence[Tensor] = (),
) -> Tensor:
    """Error of the flow, noise minus picture, at random noise levels, and of what is asked within.

    Args:
        clean: ``thumbnails`` (n, 4, h, w); references are the same, of any size.
        read: hidden states of the texts, and which of them are text.
        is_told: which texts are told at all, (n,).
        other: pictures as ``clean`` that noise may show instead.
        counting: which places count ``_COUNTING`` times, (n, 1, h, w).
        asked: what is asked from within, and the answers.
    """
    model, (text, mask) = student.model, read
    sigmas = random_sigmas(len(clean), math.prod(grid(clean)))
    noise = qwen_latents(flow_noise(clean, other, sigmas, is_told).to(model.device))
    pictures = [qwen_latents(picture.to(model.device)) for picture in (clean, *references)]
    sigmas = sigmas.to(model.device)
    noisy = pictures[0].lerp(noise, sigmas[:, None, None, None])
    wanted = pack(noise - pictures[0])[..., :NUM_SAYING]
    weights = pack((1 + (_COUNTING - 1) * counting).expand_as(clean).to(model.device))
    with (
        forward_pass(model.device),
        student.questions.listening(model) as heard,
    ):
        flow = model(
            hidden_states=torch.cat([pack(noisy), *map(pack, pictures[1:])], dim=1),
            timestep=sigmas,
            encoder_hidden_states=text,
            encoder_hidden_states_mask=None if bool(mask.all()) else mask,
            img_shapes=[[grid(picture) for picture in pictures]] * len(text),
            return_dict=False,
        )[0]
    said = flow[:, : wanted.shape[1], :NUM_SAYING].float()
    errors = ((said - wanted).square() * weights).mean(dim=(1, 2))
    # Where little noise is left, what counts is the picture, which is that much less in error.
    errors = errors * (sigmas / _LITTLE_NOISE).clamp(max=1).square()
    return rooted(errors, _SMALL_ERROR) + student.questions.loss(heard, asked.to(model.device))


def _grids(references: Sequence[Tensor], share: float) -> list[Grid]:
    """Rows and columns of tokens that the language model sees of such references, or a share."""
    sides = [size_of(SEEN_PIXELS, picture.shape[-1] / picture.shape[-2]) for picture in references]
    token = _SEEN_TOKEN / math.sqrt(share)
    return [(round(high / token), round(wide / token)) for wide, high in sides]


def main() -> None:
    """Read the command line and teach."""
    parser = command_line(__doc__, minutes=60)
    parser.add_argument("--begin", type=float, default=0, help="share of the sizes' plan to skip")
    parser.add_argument(
        "--drawing", type=float, default=0.25, help="share of the batches without input pictures"
    )
    parser.add_argument("--rate", type=float, default=1e-2)
    run(parser, _teach)


def _teach(given: argparse.Namespace) -> None:
    teach(
        given.folder,
        given.minutes,
        begin=given.begin,
        drawing=given.drawing,
        rate=given.rate,
        seed=given.seed,
    )


if __name__ == "__main__":
    main()
