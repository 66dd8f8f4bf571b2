"""Denoising: from the inputs of a sampler to the requests of its pictures. Pure functions."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np

from deployments.errors import InvalidRequest, UnsupportedField
from deployments.types import GenerationRequest, ModelCard, PromptPart, SamplingParams
from router.apis.comfyui import png
from router.apis.comfyui.samplers import find_sampling
from router.apis.comfyui.values import Conditioning, Latent, Masks, Model

#: No schedule is finer than the levels of noise that models were trained on.
MAX_SCHEDULE_STEPS: Final = 1000
#: ComfyUI takes all of the schedule from here on.
_WHOLE: Final = 0.9999


@dataclass(frozen=True, slots=True, kw_only=True)
class Denoising:
    """What a sampler is asked to do.

    Attributes:
        seed: of the batch's first picture.
        cfg: guidance. At 1 there are no negative rows; below, the prediction lies between those for
            ``negative`` (0) and for ``positive``.
        sampler, scheduler: ComfyUI's names; empty is the model's own.
        params: which steps of which schedule, and what becomes of the noise.
    """

    model: Model
    positive: Conditioning
    negative: Conditioning
    latent: Latent
    seed: int
    cfg: float
    params: SamplingParams
    sampler: str = ""
    scheduler: str = ""


def plan_steps(steps: int, denoise: float) -> tuple[int, int]:
    """The steps of a schedule and the first of them to walk, so that ``steps`` are walked from the
    share of noise that ``denoise`` is; fewer where the schedule would be too fine."""
    if denoise > _WHOLE:
        return steps, 0
    total = int(steps / denoise)
    if total > MAX_SCHEDULE_STEPS:
        total = MAX_SCHEDULE_STEPS
        steps = min(steps, max(1, round(total * denoise)))
    return total, total - steps


def make_requests(card: ModelCard, asked: Denoising) -> list[GenerationRequest]:
    """A request for each picture of the batch.

    Raises ``InvalidRequest`` for another model's texts, and for what the model cannot do.
    """
    _check_conditionings(card, asked)
    latent = asked.latent
    guidance = _guidance(card, max(asked.cfg, 1.0))
    params = replace(asked.params, shift=asked.model.shift, **guidance)
    if asked.sampler:
        scheduler, sigmas = find_sampling(asked.sampler, asked.scheduler, card)
        params = replace(params, scheduler=scheduler, sigmas=sigmas)
    parts, negative_parts = _guided_parts(asked.positive, asked.negative, asked.cfg)
    request = GenerationRequest(
        prompt=", ".join(part.text for part in parts if part.text),
        model=asked.model.id,
        images=asked.positive.references,
        parts=parts,
        negative_parts=negative_parts,
        is_weighted=True,
        weighting="comfyui",
        gives_latents=True,
        loras=asked.model.loras,
    )
    masks = _mask_files(latent.mask)
    return [
        replace(
            request,
            images=latent.source[k : k + 1] + request.images if _can_edit(card) else (),
            mask=masks[k % len(masks)] if masks else None,
            latents=latent.pictures[k],
            params=replace(params, seed=(asked.seed + index) % 2**64),
        )
        for k, index in enumerate(latent.indices)
    ]


def _check_conditionings(card: ModelCard, asked: Denoising) -> None:
    for name, conditioning in (("positive", asked.positive), ("negative", asked.negative)):
        if conditioning.model != asked.model.id:
            raise InvalidRequest(
                f"{name} is a text for model {conditioning.model!r}, but what denoises is "
                f"{asked.model.id!r}; accepted: the text encoder of the same model"
            )
    if asked.positive.references and not _can_edit(card):
        raise UnsupportedField(
            f"model {card.id!r} cannot look at pictures beside its text; "
            f"it can do: {', '.join(card.modes)}"
        )


def _can_edit(card: ModelCard) -> bool:
    return "edit" in card.modes


def _guidance(card: ModelCard, cfg: float) -> dict[str, Any]:
    """The knob that a model calls so: some have a distilled one beside it, left at its default."""
    if card.defaults.true_cfg_scale is not None:
        return {"true_cfg_scale": cfg}
    return {"guidance_scale": cfg}


def _guided_parts(
    positive: Conditioning, negative: Conditioning, cfg: float
) -> tuple[tuple[PromptPart, ...], tuple[PromptPart, ...]]:
    """Texts whose weights sum to 1, so that several are averaged. A guidance s below 1 is
    n + s (c - n) = s c + (1 - s) n, which needs no negative row."""
    if cfg > 1:
        return _weighed(positive.parts, 1.0), _weighed(negative.parts, 1.0)
    mixed = (*_weighed(positive.parts, cfg), *_weighed(negative.parts, 1 - cfg))
    return tuple(part for part in mixed if part.weight), ()


def _weighed(parts: Iterable[PromptPart], share: float) -> tuple[PromptPart, ...]:
    parts = tuple(parts)
    total = sum(part.weight for part in parts)
    return tuple(replace(part, weight=part.weight * share / total) for part in parts)


def _mask_files(masks: Masks | None) -> list[bytes]:
    if masks is None:
        return []
    grey = np.rint(np.clip(masks.values, 0, 1) * 255).astype(np.uint8)
    return [png.encode(one) for one in grey]
