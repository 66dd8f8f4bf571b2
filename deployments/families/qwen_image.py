"""QwenImage: Qwen-Image and Qwen-Image-Edit checkpoints, that draw and edit by words."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from math import isqrt
from typing import TYPE_CHECKING, Any, Final, Self

import torch
from diffusers.utils.torch_utils import randn_tensor

from deployments.config import FAMILY_OPTIONS
from deployments.engine.second_pass import check_second_pass, second_request
from deployments.engine.state import Pass, RequestState, picture_seed
from deployments.errors import InvalidRequest, UnsupportedField
from deployments.families import flow_schedulers, schedulers
from deployments.families.autoencoder import shrink, to_arrays
from deployments.families.base import Family
from deployments.families.checkpoint import Weights, num_bytes
from deployments.families.fitter import Fitter
from deployments.families.flow_schedulers import FLOW_SCHEDULERS, clean, noised
from deployments.families.given import Given, GivenFlow, undrawn_latents
from deployments.families.guidance import settle
from deployments.families.lora import Loras
from deployments.families.lora_file import convert_qwen_image
from deployments.families.lora_source import open_loras
from deployments.families.personal import PersonalModules
from deployments.families.qwen_image_autoencoder import QwenAutoencoder
from deployments.families.qwen_image_checkpoint import QwenCheckpoint, read_checkpoint
from deployments.families.qwen_image_denoiser import (
    PATCH,
    DenoiserRow,
    batch_key,
    denoise,
    guided,
    num_tokens,
    unpack,
)
from deployments.families.qwen_image_layout import QWEN_IMAGE
from deployments.families.qwen_image_references import Reference, ReferenceReader
from deployments.families.qwen_image_text import (
    Conditioning,
    QwenText,
    embedded,
    prompt_tokens,
)
from deployments.families.schedulers import SIGMAS
from deployments.families.source import SourceReader
from deployments.families.start import Start
from deployments.families.upscale import enlarged
from deployments.families.walk import Walk, asked_step
from deployments.sources import Sources

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image
    from torch import Tensor

    from deployments.config import ModelConfig
    from deployments.engine.state import Row
    from deployments.types import CheckedWeights, Evicted, GenerationRequest, Mode, WeightsSource

#: Longer side of a preview's latents; with a factor of 8, previews are at most 256 pixels.
_PREVIEW_LATENTS: Final = 32

#: Pictures that one edit looks at, as Qwen-Image-Edit-2509 was trained.
_MAX_REFERENCES: Final = 3

_WITHOUT_EDITS: Final[tuple[Mode, ...]] = ("text-to-image", "image-to-image", "inpainting")


class QwenImage(Family):
    """A transformer that denoises latents beside text and references, tokens all of them.

    A checkpoint that edits looks at every input picture of a request, at a size of its own; with
    a ``strength`` below 1 or a mask it also begins with, and keeps of, the first. Others do only
    the latter. The order of draws is that of diffusers' pipelines, latents and scheduler
    arithmetic are float32.
    """

    modes: tuple[Mode, ...] = (*_WITHOUT_EDITS, "edit")
    has_latents = True
    options = FAMILY_OPTIONS
    size_multiple = 16
    schedulers = tuple(FLOW_SCHEDULERS)
    loras: Loras
    sigmas = tuple(SIGMAS)

    def __init__(self, config: ModelConfig, checkpoint: QwenCheckpoint) -> None:
        pipeline, devices = checkpoint.pipeline, checkpoint.placement.devices
        self.config = config
        self.base = pipeline
        self.device = devices["transformer"]
        self.is_editor = checkpoint.images is not None
        if not self.is_editor:
            self.modes = _WITHOUT_EDITS
        self.is_distilled = bool(pipeline.transformer.config.guidance_embeds)
        self.autoencoder = QwenAutoencoder(pipeline.vae, devices["vae"], self.device)
        self.text = QwenText(
            pipeline.tokenizer, pipeline.text_encoder, checkpoint.images, devices["text_encoder"]
        )
        self.loras = open_loras(
            config,
            {"transformer": pipeline.transformer},
            convert_qwen_image,
            None if config.offload == "none" else self.device,
        )
        self._fitter = Fitter()
        self._placement = checkpoint.placement
        self._own: PersonalModules | None = None
        self._bound_by = checkpoint.bound_by
        if not checkpoint.bound_by:
            self.sources = Sources(config.personal)
            own = {"transformer": pipeline.transformer}
            self._own = PersonalModules(own, config.max_pinned_bytes, QWEN_IMAGE)
        token, num_pixels = self.autoencoder.factor * PATCH, checkpoint.reference_pixels
        self._reader = SourceReader(token, config.limits.max_pixels)
        self._references = ReferenceReader(token, num_pixels)
        self.reference_side = isqrt(num_pixels) if self.is_editor else 0

    @classmethod
    def load(cls, config: ModelConfig, device: str, dtype: str) -> Self:
        """Read the checkpoint of one of diffusers' two pipelines."""
        return cls(config, read_checkpoint(config, device, dtype))

    def load_weights(self, name: str | None) -> Weights:
        """The base's own set, or a user's transformer between the base's other modules."""
        if name is None:
            size = self._placement.num_bytes
            return Weights(name="", num_bytes=size, pipeline=self.base, is_pinned=True)
        if self._own is None or self.sources is None:
            raise InvalidRequest(f"unknown weights {name!r}; known: none", param="weights")
        own: Any = self._own.read(self.sources.get(name))["transformer"]
        # NOTE: diffusers remembers for ever whom it made rotary tables for: let it be one.
        own.pos_embed = self.base.transformer.pos_embed
        pipeline = type(self.base)(**{**self.base.components, "transformer": own})
        return Weights(name=name, num_bytes=num_bytes([own]), pipeline=pipeline)

    def check_weights(self, source: WeightsSource, max_bytes: int) -> CheckedWeights:
        """See ``Family.check_weights``."""
        if (checked := self.loras.check(source, max_bytes)) is not None:
            return checked
        if self._own is None:
            message = f"this model takes no weights but its own: {self._bound_by} leaves no place"
            raise UnsupportedField(message, param="base")
        return self._own.check(source, max_bytes)

    @property
    def host_bytes(self) -> int:
        """Of modules that wait on the CPU for their turn, and of weights' copies for a GPU."""
        return self._placement.waiting_bytes + (self._own.copies.num_bytes if self._own else 0)

    def expected_bytes(self, name: str | None) -> int:
        """Of the base's modules as far as they are on the device at once, or of a transformer."""
        if name is None:
            return self._placement.num_bytes
        return self._own.num_bytes if self._own else 0

    def prepare(self, request: GenerationRequest) -> None:
        """Read the request's LoRAs; where memory is short, ``encode`` does, which can make room."""
        with suppress(torch.OutOfMemoryError):
            self.loras.prepare(request.all_loras)

    def evict(self) -> Evicted:
        """Let go of the LoRAs that no request uses, and of weights' copies for a GPU."""
        evicted = self.loras.evict()
        copied = self._own.copies.clear() if self._own else 0
        return replace(evicted, num_bytes=evicted.num_bytes + copied)

    def encode(self, request: GenerationRequest, weights: Weights) -> tuple[RequestState, ...]:
        """One state per picture; see ``Family.encode``."""
        self._check(request)
        if request.task != "generate":
            return self._undrawn(request, weights)
        output = (request.params.width or 0, request.params.height or 0)
        images = request.images if self.is_editor else ()
        references = [self._references.read(data, output) for data in images]
        seen = [reference.seen for reference in references]
        branches = self._steering(request, seen)
        start = self._start(request)
        looked_at = tuple(self._latents(reference) for reference in references)
        following, tokens = self._following(request, weights), prompt_tokens(request, self.text)
        states = []
        for index in range(request.params.num_images):
            walk = self._walk(request, start.strength)
            generator = torch.Generator().manual_seed(picture_seed(request, index))
            latents, extra = start.draw(walk, generator, index)
            state = self._made(request, index, weights, branches, walk, latents, looked_at)
            state.extra |= extra
            state.generator, state.following, state.prompt_tokens = generator, following, tokens
            states.append(state)
        return tuple(states)

    def denoise(self, rows: Sequence[Row]) -> Sequence[Tensor]:
        """Each row's flow as tokens, (1, tokens, 64) in float32."""
        transformer = rows[0].state.weights.pipeline.transformer
        adapters = [row.state.branches[row.branch].adapters for row in rows]
        with self._fitter.fitted(transformer, "transformer", adapters):
            return denoise(transformer, [self._row(row) for row in rows])

    def advance(self, state: RequestState, predictions: Sequence[Tensor]) -> None:
        """Guide, step, and while inpainting bring the kept part to the next noise level."""
        params = state.request.params
        branches = state.branches[: len(predictions)]
        tokens = guided(branches, predictions, self._guidance(state.request))
        flow = unpack(tokens, *state.latents.shape[2:])
        timestep, before = state.timesteps[state.step], state.latents
        output = schedulers.step(
            state.scheduler, flow, timestep, before, params=params, generator=state.generator
        )
        settle(state, output.prev_sample, partial(clean, before, flow, timestep))

    def follow(self, state: RequestState) -> bool:
        """Enlarge the first pass's end and noise it for the second, as image-to-image does."""
        if state.following is None:
            return False
        request = state.following.request
        kept = enlarged(self.autoencoder, state, state.following)
        walk = self._walk(request, request.params.strength)
        noise = randn_tensor(kept.shape, generator=state.generator, device=kept.device)
        state.enter(walk.scheduler, walk.timesteps, noised(kept, noise, walk.timesteps[0]))
        state.extra["walk"] = walk
        return True

    def latents(self, state: RequestState) -> NDArray[np.float32]:
        """Scaled latents, noised ones as ``(1 - sigma) * clean + sigma * noise``."""
        array: NDArray[np.float32] = state.latents[0].float().cpu().numpy()
        return array

    def decode(self, states: Sequence[RequestState]) -> list[NDArray[np.float32]]:
        """Pixels of denoised pictures; see ``Family.decode``."""
        latents = torch.cat([state.latents for state in states])
        pictures = to_arrays(self.autoencoder.decode(latents))
        return [
            source.composite(drawn) if (source := state.extra["source"]) else drawn
            for state, drawn in zip(states, pictures, strict=True)
        ]

    def preview(self, state: RequestState) -> NDArray[np.float32]:
        """What the last step aimed at, at most 256 pixels wide and high."""
        latents = shrink(state.extra.get("preview", state.latents), _PREVIEW_LATENTS)
        return to_arrays(self.autoencoder.decode(latents))[0]

    def _check(self, request: GenerationRequest) -> None:
        check_second_pass(request)
        if request.params.tiling:
            message = "this model cannot make opposite edges meet"
            raise UnsupportedField(message, param="tiling")
        if request.task != "generate":
            return
        most = 1 if request.latents is None else 0
        most = _MAX_REFERENCES if self.is_editor else most
        if len(request.images) > most:
            message = f"{len(request.images)} input pictures; this model takes at most {most} here"
            raise InvalidRequest(message, param="images")

    def _steering(
        self, request: GenerationRequest, seen: Sequence[Image.Image]
    ) -> tuple[Conditioning, ...]:
        """What steers each row, with the LoRAs of the denoiser."""
        adapters = self.loras.adapters(request.loras)
        branches = embedded(request, self.text, seen, self._guidance(request))
        return tuple(replace(branch, adapters=adapters) for branch in branches)

    def _start(self, request: GenerationRequest) -> Start | Given:
        """An edit of all of its picture begins as noise, which its references steer."""
        if request.latents is not None:
            return GivenFlow(self.autoencoder, None, request)
        strength = 1.0 if request.params.strength is None else request.params.strength
        is_whole_edit = self.is_editor and request.mask is None and strength == 1
        if not request.images or is_whole_edit:
            return Start(self.autoencoder, None, request, None, None)
        source = self._reader.read(request)
        return Start(self.autoencoder, None, request, source, strength)

    def _undrawn(self, request: GenerationRequest, weights: Weights) -> tuple[RequestState, ...]:
        """Pictures with nothing to denoise: encoded ones, or latents to be decoded."""
        latents = undrawn_latents(request, self.autoencoder, self._reader)
        walk = Walk(scheduler=None, timesteps=torch.empty(0))
        return tuple(
            self._made(request, index, weights, (), walk, one[None].to(self.device), ())
            for index, one in enumerate(latents)
        )

    def _latents(self, reference: Reference) -> Tensor:
        return self.autoencoder.mode(self.autoencoder.encode(reference.pixels))

    def _guidance(self, request: GenerationRequest) -> float:
        """Scale of classifier-free guidance; ``guidance_scale`` is that of undistilled models."""
        params = request.params
        if params.true_cfg_scale is not None:
            return params.true_cfg_scale
        return 1.0 if self.is_distilled else params.guidance_scale or 1.0

    def _row(self, row: Row) -> DenoiserRow:
        state, params = row.state, row.state.request.params
        branch: Conditioning = state.branches[row.branch]
        return DenoiserRow(
            latents=state.latents,
            references=state.extra["references"],
            branch=branch.at(params.first_step + asked_step(state.scheduler, state.step)),
            timestep=state.timesteps[state.step],
            guidance=params.guidance_scale if self.is_distilled else None,
        )

    def _following(self, request: GenerationRequest, weights: Weights) -> Pass | None:
        """The second pass, its text encoded and its schedule tried before the first begins."""
        second = second_request(request)
        if second is None or request.second_pass is None:
            return None
        walk = self._walk(second, second.params.strength)
        branches = self._steering(second, ())
        factor = self.autoencoder.factor
        height, width = (second.params.height or 0) // factor, (second.params.width or 0) // factor
        shape = self.autoencoder.channels, height, width
        return Pass(
            request=second,
            upscaler=request.second_pass.upscaler,
            branches=branches,
            batch_key=batch_key(weights.name, branches, shape, ()),
            tokens=self._num_tokens(second),
            num_timesteps=len(walk.timesteps),
        )

    def _walk(self, request: GenerationRequest, strength: float | None) -> Walk:
        """A scheduler of the picture's own, and the timesteps that it walks."""
        params = request.params
        assert params.num_inference_steps is not None
        scheduler = flow_schedulers.build(
            params.scheduler or "",
            params.sigmas or "",
            self.base.scheduler.config,
            params.num_inference_steps,
            self._num_tokens(request),
            shift=self.config.shift if params.shift is None else params.shift,
        )
        if request.latents is not None:
            return flow_schedulers.walk_part(scheduler, params)
        timesteps = flow_schedulers.walk(scheduler, params.num_inference_steps, strength)
        return Walk(scheduler=scheduler, timesteps=timesteps)

    def _made(
        self,
        request: GenerationRequest,
        index: int,
        weights: Weights,
        branches: tuple[Conditioning, ...],
        walk: Walk,
        latents: Tensor,
        references: tuple[Tensor, ...],
    ) -> RequestState:
        return RequestState(
            request=request,
            index=index,
            weights=weights,
            branches=branches,
            batch_key=batch_key(weights.name, branches, tuple(latents.shape[1:]), references),
            tokens=sum(num_tokens(picture) for picture in (latents, *references)),
            latents=latents,
            generator=torch.Generator(),
            scheduler=walk.scheduler,
            timesteps=walk.timesteps,
            extra={"source": None, "walk": walk, "references": references},
        )

    def _num_tokens(self, request: GenerationRequest) -> int:
        """Tokens of the picture alone."""
        side: int = self.autoencoder.factor * PATCH
        return (request.params.width or 0) // side * ((request.params.height or 0) // side)
