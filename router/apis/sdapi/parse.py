"""From a body to the requests of a job."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from deployments.errors import InvalidRequest, UnsupportedField
from deployments.types import (
    SEED_RANGE,
    GenerationRequest,
    ModelCard,
    SamplingParams,
)
from router.apis.sdapi.bodies import Generation, ImageToImage, TextToImage
from router.apis.sdapi.checkpoints import hash_of
from router.apis.sdapi.infotext import KEYWORD, VERSION, write_infotext
from router.apis.sdapi.inputs import Inputs
from router.apis.sdapi.limits import MAX_PICTURES, check_length
from router.apis.sdapi.options import Options, check_range, output_format
from router.apis.sdapi.prompts import Styles, lora_hashes, parse_tags, with_styles
from router.apis.sdapi.refiner import refiner_pairs
from router.apis.sdapi.samplers import Sampling, find_sampling
from router.apis.sdapi.second_pass import check_side, parse_second_pass, second_pass_pairs
from router.belongings import Belongings, Variant

#: The most previews of one request.
MAX_PREVIEWS: Final = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What a call's fields are read against.

    Attributes:
        checkpoint: what draws.
        options: those in force.
        styles: the known ones, by name.
        checkpoints: everything that the call may name.
        own: what the caller has registered.
    """

    checkpoint: Variant
    options: Options
    styles: Styles
    checkpoints: tuple[Variant, ...] = ()
    own: Belongings = field(default_factory=Belongings)

    @property
    def card(self) -> ModelCard:
        """The model."""
        return self.checkpoint.card

    @property
    def loras(self) -> tuple[str, ...]:
        """Names of the LoRAs that the call may use."""
        return self.own.loras(self.card)


def settle(body: Generation) -> Generation:
    """The body with its seeds drawn. Raises ``InvalidRequest`` for what no model could honour."""
    if body.batch_size < 1 or body.n_iter < 1 or body.batch_size * body.n_iter > MAX_PICTURES:
        raise InvalidRequest(
            f"batch_size {body.batch_size} times n_iter {body.n_iter} is out of range; "
            f"accepted: 1 to {MAX_PICTURES} pictures",
            param="batch_size",
        )
    for name in ("prompt", "negative_prompt", "hr_prompt", "hr_negative_prompt"):
        check_length(name, len(getattr(body, name, "")))
    if body.firstpass_image:
        raise UnsupportedField(
            "firstpass_image is not supported by this server; img2img takes pictures",
            param="firstpass_image",
        )
    seeds = {"seed": _seed("seed", body.seed), "subseed": _seed("subseed", body.subseed)}
    return body.model_copy(update=seeds)


def parse_requests(
    body: Generation, setting: Setting, inputs: Inputs | None = None
) -> list[GenerationRequest]:
    """The requests of a settled body: one for each iteration, or for each picture where the
    pictures of an iteration differ in more than the seed."""
    inputs = inputs or Inputs()
    body = _with_styles(body, setting)
    base = _base(body, setting, inputs)
    is_varied = body.subseed_strength > 0
    is_single = is_varied or len(inputs.images) > 1
    size = 1 if is_single else body.batch_size
    requests = []
    for first in range(0, body.batch_size * body.n_iter, size):
        params = replace(
            base.params,
            num_images=size,
            seed=(body.seed + (0 if is_varied else first)) % SEED_RANGE,
            variation_seed=(body.subseed + first) % SEED_RANGE,
        )
        images = inputs.images
        if is_single and images:
            images = (images[first % len(images)],)
        request = replace(base, params=params, images=images)
        texts = tuple(_texts(body, setting, request, offset) for offset in range(size))
        requests.append(replace(request, texts=texts))
    return requests


def round_size(card: ModelCard, width: int, height: int) -> tuple[int, int]:
    """The size that the model draws for this one; its limits are checked with the request."""
    each = card.size_multiple
    return tuple(max(each, (side + each // 2) // each * each) for side in (width, height))  # type: ignore[return-value]


def sampling_of(body: Generation, setting: Setting) -> Sampling:
    """The sampler and schedule type that the body asks for, and its eta where that is 0."""
    named, card = body.names_sampler, setting.card
    sampling = find_sampling(body.sampler, body.scheduler, card, is_named=named)
    eta = setting.options["eta_ancestral"] if body.eta is None else body.eta
    return sampling.plain(card) if eta == 0 else sampling


def _base(body: Generation, setting: Setting, inputs: Inputs) -> GenerationRequest:
    """What all requests of a body share."""
    options = setting.options
    steps = body.steps
    shown = int(options["show_progress_every_n_steps"])
    has_previews = options["live_previews_enable"] and shown > 0
    is_disabled = body.disable_extra_networks
    prompt, loras = parse_tags(body.prompt, setting.loras, is_disabled=is_disabled)
    return GenerationRequest(
        prompt=prompt,
        negative_prompt=body.negative_prompt,
        model=setting.card.id,
        weights=setting.checkpoint.weights,
        images=inputs.images,
        mask=inputs.mask,
        params=_params(body, setting),
        output_format=output_format(options),
        output_quality=max(1, min(100, int(options["jpeg_quality"]))),
        num_previews=min(MAX_PREVIEWS, -(-steps // shown)) if has_previews else 0,
        is_weighted=True,
        masked_content=inputs.masked_content,
        mask_padding=inputs.mask_padding,
        is_latent_resize=inputs.is_latent_resize,
        second_pass=parse_second_pass(body, setting.checkpoint, setting.loras),
        loras=loras,
    )


def _params(body: Generation, setting: Setting) -> SamplingParams:
    card, options = setting.card, setting.options
    sampling = sampling_of(body, setting)
    width, height = round_size(card, *first_size(body))
    has_true_cfg = card.defaults.true_cfg_scale is not None
    given = {
        name: getattr(body, name) if getattr(body, name) is not None else options[name]
        for name in ("s_churn", "s_tmin", "s_tmax", "s_noise", "s_min_uncond")
    }
    is_over = isinstance(body, ImageToImage)
    multiplier = body.initial_noise_multiplier if isinstance(body, ImageToImage) else None
    multiplier = multiplier if multiplier is not None else options["initial_noise_multiplier"]
    eta = body.eta if body.eta is not None else options["eta_ddim"]
    numbers = {"cfg_scale": body.cfg_scale, "eta": eta, "initial_noise_multiplier": multiplier}
    for name, number in (given | numbers).items():
        check_range(name, number)
    has_resized_seed = body.seed_resize_from_w > 0 and body.seed_resize_from_h > 0
    for name in ("seed_resize_from_w", "seed_resize_from_h"):
        check_side(card, name, getattr(body, name), lowest=-1)
    return SamplingParams(
        width=width,
        height=height,
        num_inference_steps=body.steps,
        guidance_scale=None if has_true_cfg else body.cfg_scale,
        true_cfg_scale=body.cfg_scale if has_true_cfg else None,
        strength=body.denoising_strength if is_over else None,
        scheduler=sampling.scheduler,
        sigmas=sampling.sigmas,
        eta=eta,
        variation_strength=body.subseed_strength,
        seed_width=body.seed_resize_from_w if has_resized_seed else None,
        seed_height=body.seed_resize_from_h if has_resized_seed else None,
        clip_skip=max(1, options["CLIP_stop_at_last_layers"]),
        tiling=bool(options["tiling"] if body.tiling is None else body.tiling),
        s_churn=given["s_churn"],
        s_tmin=given["s_tmin"],
        s_tmax=given["s_tmax"] or None,  # 0 is A1111's infinity
        s_noise=given["s_noise"],
        min_uncond_sigma=given["s_min_uncond"],
        noise_multiplier=multiplier if is_over else 1.0,
    )


def first_size(body: Generation) -> tuple[int, int]:
    """Pixels of the picture, or of its first pass."""
    first = (body.width, body.height)
    if isinstance(body, TextToImage) and body.enable_hr:
        old = (body.firstphase_width, body.firstphase_height)
        return old if min(old) > 0 else first
    return first


def _with_styles(body: Generation, setting: Setting) -> Generation:
    """The body with the styles in its prompts, those of a second pass where it has its own; styles
    that are unknown say nothing, as in A1111."""
    styles = [setting.styles[name] for name in body.styles or () if name in setting.styles]
    names = ["prompt", "negative_prompt"]
    if isinstance(body, TextToImage):
        names += [name for name in ("hr_prompt", "hr_negative_prompt") if getattr(body, name)]
    styled = {}
    for name in names:
        words = [getattr(style, name.removeprefix("hr_")) for style in styles]
        styled[name] = _styled(name, getattr(body, name), words)
    return body.model_copy(update=styled)


def _styled(param: str, text: str, styles: Sequence[str]) -> str:
    for style in styles:
        text = with_styles(text, [style])
        check_length(param, len(text))
    return text


def _texts(
    body: Generation, setting: Setting, request: GenerationRequest, offset: int
) -> tuple[tuple[str, str], ...]:
    """What the file of a request's picture says of it."""
    pairs = _pairs(body, setting, request, offset)
    return ((KEYWORD, write_infotext(body.prompt, body.negative_prompt, pairs)),)


def _pairs(
    body: Generation, setting: Setting, request: GenerationRequest, offset: int
) -> list[tuple[str, Any]]:
    params, sampling = request.params, sampling_of(body, setting)
    is_varied = params.variation_strength > 0
    has_resized_seed = params.seed_width is not None
    is_over = bool(request.images)
    strength = body.denoising_strength if is_over else None
    if request.second_pass is not None:
        strength = request.second_pass.strength
    return [
        ("Steps", body.steps),
        ("Sampler", sampling.name),
        ("Schedule type", sampling.label),
        ("CFG scale", body.cfg_scale),
        ("Seed", (params.seed or 0) + offset),
        ("Size", f"{params.width}x{params.height}"),
        ("Model hash", hash_of(setting.checkpoint)),
        ("Model", setting.checkpoint.name),
        ("Variation seed", params.variation_seed if is_varied else None),
        ("Variation seed strength", params.variation_strength if is_varied else None),
        (
            "Seed resize from",
            f"{params.seed_width}x{params.seed_height}" if has_resized_seed else None,
        ),
        ("Denoising strength", strength),
        ("Clip skip", params.clip_skip if params.clip_skip > 1 else None),
        ("Eta", 0.0 if sampling.is_plain else params.eta or None),
        ("Sigma churn", params.s_churn or None),
        ("Sigma tmin", params.s_tmin or None),
        ("Sigma tmax", params.s_tmax),
        ("Sigma noise", params.s_noise if params.s_noise != 1 else None),
        ("NGMS", params.min_uncond_sigma or None),
        ("RNG", "CPU"),
        ("Tiling", True if params.tiling else None),
        *second_pass_pairs(body, request.second_pass),
        *_mask_pairs(body, request),
        *refiner_pairs(body, setting.checkpoint, setting.checkpoints),
        ("Lora hashes", lora_hashes(request.all_loras, setting.own.digests(setting.card))),
        ("Version", VERSION),
    ]


def _mask_pairs(body: Generation, request: GenerationRequest) -> list[tuple[str, Any]]:
    if request.mask is None or not isinstance(body, ImageToImage):
        return []
    content = ("fill", None, "latent noise", "latent nothing")[body.inpainting_fill]
    is_cut = request.mask_padding is not None
    return [
        ("Mask blur", max(body.blur) or None),
        ("Inpaint area", "Only masked" if is_cut else None),
        ("Masked area padding", request.mask_padding if is_cut else None),
        ("Mask mode", "Inpaint not masked" if body.inpainting_mask_invert else None),
        ("Masked content", content),
    ]


def _seed(param: str, seed: int) -> int:
    if seed == -1:
        return secrets.randbelow(SEED_RANGE - 1)
    if not 0 <= seed < SEED_RANGE:
        raise InvalidRequest(
            f"{param} {seed} is out of range; accepted: -1 to {SEED_RANGE - 1}", param=param
        )
    return seed
