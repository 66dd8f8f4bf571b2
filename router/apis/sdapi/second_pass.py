"""The second, larger pass that ``enable_hr`` asks for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from deployments.errors import InvalidRequest, UnsupportedField
from deployments.types import ModelCard, SecondPass
from router.apis.sdapi.bodies import Generation, TextToImage
from router.apis.sdapi.checkpoints import find_checkpoint
from router.apis.sdapi.prompts import parse_tags
from router.apis.sdapi.samplers import find_sampling
from router.belongings import Variant

#: A1111's latent upscale modes, and what they are here.
LATENT_MODES: Final[Mapping[str, str]] = {
    "Latent": "latent",
    "Latent (antialiased)": "latent-antialiased",
    "Latent (bicubic)": "latent-bicubic",
    "Latent (bicubic antialiased)": "latent-bicubic-antialiased",
    "Latent (nearest)": "latent-nearest",
    "Latent (nearest-exact)": "latent-nearest-exact",
}
#: Its upscalers of pixels that need no weights; None resizes by Lanczos, as there.
UPSCALERS: Final[Mapping[str, str]] = {
    "None": "lanczos",
    "Lanczos": "lanczos",
    "Nearest": "nearest",
}
#: The share that is re-drawn when the caller names none.
STRENGTH: Final = 0.75


def parse_second_pass(
    body: Generation, checkpoint: Variant, loras: Sequence[str]
) -> SecondPass | None:
    """The second pass, which may name these LoRAs; None without ``enable_hr``. Raises
    ``InvalidRequest``."""
    if not isinstance(body, TextToImage) or not body.enable_hr:
        return None
    card = checkpoint.card
    _check_checkpoint(body.hr_checkpoint_name, checkpoint)
    _check_steps(body.hr_second_pass_steps, card)
    check_side(card, "width", body.width, lowest=1)
    check_side(card, "height", body.height, lowest=1)
    sampling = None
    if _is_own(body.hr_sampler_name) or _is_own(body.hr_scheduler):
        name = body.hr_sampler_name if _is_own(body.hr_sampler_name) else body.sampler
        schedule = body.hr_scheduler if _is_own(body.hr_scheduler) else body.scheduler
        sampling = find_sampling(name or "", schedule, card)
    width, height = target_size(body)
    check_side(card, "hr_resize_x", width, lowest=card.min_size)
    check_side(card, "hr_resize_y", height, lowest=card.min_size)
    each, is_disabled = card.size_multiple, body.disable_extra_networks
    prompt, uses = parse_tags(body.hr_prompt, loras, is_disabled=is_disabled)
    return SecondPass(
        width=round(width / each) * each,
        height=round(height / each) * each,
        upscaler=_upscaler(body.hr_upscaler),
        strength=_strength(body.denoising_strength),
        num_inference_steps=body.hr_second_pass_steps or None,
        prompt=prompt or None,
        negative_prompt=body.hr_negative_prompt or None,
        guidance_scale=body.hr_cfg if "hr_cfg" in body.model_fields_set else None,
        scheduler=sampling.scheduler if sampling else None,
        sigmas=sampling.sigmas if sampling else None,
        loras=uses if body.hr_prompt else None,
    )


def target_size(body: TextToImage) -> tuple[int, int]:
    """Pixels of the final picture: by the side that is named, by scale, or the old way round."""
    if body.firstphase_width > 0 and body.firstphase_height > 0:
        return body.width, body.height
    x, y = max(0, body.hr_resize_x), max(0, body.hr_resize_y)
    if x and y:
        return x, y
    if x or y:
        return x or y * body.width // body.height, y or x * body.height // body.width
    return int(body.width * body.hr_scale), int(body.height * body.hr_scale)


def check_side(card: ModelCard, param: str, pixels: int, *, lowest: int) -> None:
    """Raise ``InvalidRequest`` for a side beyond the model's limits."""
    if not lowest <= pixels <= card.max_size:
        raise InvalidRequest(
            f"{param} {pixels} is out of range for {card.id}; "
            f"accepted: {lowest} to {card.max_size}",
            param=param,
        )


def second_pass_pairs(body: Generation, asked: SecondPass | None) -> list[tuple[str, Any]]:
    """What an infotext says of it."""
    if asked is None or not isinstance(body, TextToImage):
        return []
    is_sized = bool(body.hr_resize_x or body.hr_resize_y or body.firstphase_width)
    return [
        ("Hires upscale", None if is_sized else body.hr_scale),
        ("Hires resize", f"{asked.width}x{asked.height}" if is_sized else None),
        ("Hires steps", asked.num_inference_steps),
        ("Hires upscaler", body.hr_upscaler or "Latent"),
        ("Hires sampler", body.hr_sampler_name if _is_own(body.hr_sampler_name) else None),
        ("Hires schedule type", body.hr_scheduler if _is_own(body.hr_scheduler) else None),
        ("Hires prompt", asked.prompt),
        ("Hires negative prompt", asked.negative_prompt),
    ]


def _upscaler(name: str | None) -> str:
    known = {**LATENT_MODES, **UPSCALERS}
    by_name = {known_name.lower(): upscaler for known_name, upscaler in known.items()}
    found = by_name.get((name or "Latent").lower())
    if found is None:
        raise InvalidRequest(
            f"could not find upscaler named {name!r:.100}; known: {', '.join(known)}",
            param="hr_upscaler",
        )
    return found


def _strength(strength: float | None) -> float:
    strength = STRENGTH if strength is None else strength
    if not 0 <= strength <= 1:
        raise InvalidRequest(
            f"denoising_strength {strength} is out of range; accepted: 0 to 1",
            param="denoising_strength",
        )
    return strength


def _check_steps(steps: int, card: ModelCard) -> None:
    if not 0 <= steps <= card.max_num_inference_steps:
        raise InvalidRequest(
            f"hr_second_pass_steps {steps} is out of range for {card.id}; "
            f"accepted: 0 to {card.max_num_inference_steps}",
            param="hr_second_pass_steps",
        )


def _check_checkpoint(name: str | None, checkpoint: Variant) -> None:
    if not _is_own(name):
        return
    try:
        find_checkpoint([checkpoint], name or "")
    except InvalidRequest:
        raise UnsupportedField(
            f"hr_checkpoint_name {name!r:.100}: the second pass runs on the first's model, "
            f"{checkpoint.name}",
            param="hr_checkpoint_name",
        ) from None


def _is_own(name: str | None) -> bool:
    """Whether a field of the second pass says other than "as the first"."""
    return bool(name) and not str(name).lower().startswith("use same") and name != "None"
