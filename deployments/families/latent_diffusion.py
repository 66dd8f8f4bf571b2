"""LatentDiffusion: what Stable Diffusion and Stable Diffusion XL share, all but the text."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Final, Self

import torch
from diffusers.utils.torch_utils import randn_tensor

from deployments.config import locate
from deployments.engine.second_pass import check_second_pass, second_request
from deployments.engine.state import BatchKey, Pass, RequestState, picture_seed
from deployments.errors import InvalidRequest, UnsupportedField
from deployments.families import schedulers
from deployments.families.autoencoder import Autoencoder, shrink, to_arrays
from deployments.families.base import Family
from deployments.families.checkpoint import Weights, num_bytes, read_pipeline
from deployments.families.fitter import Fitter
from deployments.families.given import Given, undrawn_latents
from deployments.families.guidance import conditioning_of, guided, settle
from deployments.families.lora import Loras
from deployments.families.lora_file import convert_stable_diffusion
from deployments.families.lora_source import open_loras
from deployments.families.personal import PersonalModules
from deployments.families.schedulers import SCHEDULERS, SIGMAS
from deployments.families.source import SourceReader
from deployments.families.start import Start
from deployments.families.text_encoder import Conditioning, TextEncoder, prompt_tokens
from deployments.families.tiling import edges_joined
from deployments.families.upscale import enlarged
from deployments.families.walk import Walk, signal, walk_part
from deployments.sources import Sources

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from deployments.config import ModelConfig
    from deployments.engine.state import Row
    from deployments.types import (
        CheckedWeights,
        Evicted,
        GenerationRequest,
        LoraUse,
        WeightsSource,
    )

#: Longer side of a preview's latents; with a factor of 8, previews are at most 256 pixels.
_PREVIEW_LATENTS: Final = 32


class LatentDiffusion(Family):
    """A UNet that denoises latents under text, between a VAE and CLIP encoders.

    Latents, noise and scheduler arithmetic are float32 whatever the modules' dtype, so that a
    seed means the same noise everywhere. The order of draws is that of diffusers' pipelines.

    Class attributes:
        pipeline: name of the diffusers pipeline that a weights folder is read with.
        omitted: components of that pipeline that are not wanted, and their stand-ins.
        personal: the components that personal weights replace.
    """

    modes = ("text-to-image", "image-to-image", "inpainting")
    schedulers = tuple(SCHEDULERS)
    sigmas = tuple(SIGMAS)
    has_latents = True
    options = frozenset({"fixed_loras", "lora_folder", "loras", "max_lora_bytes"})
    sources: Sources
    loras: Loras
    pipeline: ClassVar[str]
    omitted: ClassVar[dict[str, Any]]
    personal: ClassVar[tuple[str, ...]]

    def __init__(self, config: ModelConfig, pipeline: Any) -> None:
        self.config = config
        self.base = pipeline
        self.autoencoder = Autoencoder(pipeline.vae)
        self.device = pipeline.device
        modules = {part: getattr(pipeline, part) for part in self.personal}
        self.loras = open_loras(config, modules, convert_stable_diffusion(pipeline.unet.config))
        self._fitter = Fitter()
        self.sources = Sources(config.personal)
        self._own = PersonalModules(modules, config.max_pinned_bytes)
        self._base_bytes = num_bytes([pipeline.vae, *modules.values()])
        self._reader = SourceReader(self.autoencoder.factor, config.limits.max_pixels)

    @classmethod
    def load(cls, config: ModelConfig, device: str, dtype: str) -> Self:
        """Read the base pipeline; in float16 a VAE that overflows there stays in float32."""
        if config.weights is None:
            raise ValueError(f"family {config.family!r} needs weights")
        options = {"dtype": getattr(torch, dtype), **cls.omitted}
        pipeline = read_pipeline(cls.pipeline, locate(config.weights), options)
        if pipeline.unet.config.time_cond_proj_dim is not None:
            raise ValueError("UNets that take their guidance as an input are not supported yet")
        if dtype == "float16" and pipeline.vae.config.force_upcast:
            pipeline.vae.to(torch.float32)
        for part in ("vae", *cls.personal):
            getattr(pipeline, part).to(device)
        pipeline.vae.to(memory_format=torch.channels_last)
        pipeline.unet.to(memory_format=torch.channels_last)
        return cls(config, pipeline)

    def load_weights(self, name: str | None) -> Weights:
        """The base's own set, or a user's UNet and text encoders around the base's VAE."""
        if name is None:
            size = self._base_bytes
            return Weights(name="", num_bytes=size, pipeline=self.base, is_pinned=True)
        own = self._own.read(self.sources.get(name))
        pipeline = type(self.base)(**{**self.base.components, **own})
        pipeline.register_to_config(**self.base.config)  # such as force_zeros_for_empty_prompt
        return Weights(name=name, num_bytes=num_bytes(own.values()), pipeline=pipeline)

    def check_weights(self, source: WeightsSource, max_bytes: int) -> CheckedWeights:
        """See ``Family.check_weights``."""
        return self.loras.check(source, max_bytes) or self._own.check(source, max_bytes)

    @property
    def host_bytes(self) -> int:
        """Of weights' copies for a GPU."""
        return self._own.copies.num_bytes

    def expected_bytes(self, name: str | None) -> int:
        """Of the base's modules, or of as many as weights may replace."""
        return self._base_bytes if name is None else self._own.num_bytes

    def prepare(self, request: GenerationRequest) -> None:
        """Read the request's LoRAs; where memory is short, ``encode`` does, which can make room."""
        with suppress(torch.OutOfMemoryError):
            self.loras.prepare(request.all_loras)

    def evict(self) -> Evicted:
        """Let go of the LoRAs that no request uses, and of weights' copies for a GPU."""
        evicted = self.loras.evict()
        num_bytes = evicted.num_bytes + self._own.copies.clear()
        return replace(evicted, num_bytes=num_bytes)

    def encode(self, request: GenerationRequest, weights: Weights) -> tuple[RequestState, ...]:
        """One state per picture; see ``Family.encode``."""
        self._check(request, weights)
        if request.task != "generate":
            return self._undrawn(request, weights)
        branches = self._steering(request, weights)
        start = self._start(request, weights.pipeline.unet)
        following = self._following(request, weights)
        encoder = TextEncoder(self.base.tokenizer, self.base.text_encoder)
        tokens = prompt_tokens(request, encoder)
        states = []
        for index in range(request.params.num_images):
            state = self._state(index, weights, branches, start)
            state.following, state.prompt_tokens = following, tokens
            states.append(state)
        return tuple(states)

    @abstractmethod
    def embed(self, request: GenerationRequest, pipeline: Any) -> tuple[Conditioning, ...]:
        """What steers each row: the prompt's parts, then, when guided, the negative ones'."""

    def text_adapted(self, pipeline: Any, uses: Sequence[LoraUse]) -> AbstractContextManager[None]:
        """Let the pipeline's text encoders read as these LoRAs have it meanwhile."""
        encoders = {part: getattr(pipeline, part) for part in self.personal if part != "unet"}
        return self._fitter.all_fitted(encoders, self.loras.adapters(uses, is_text=True))

    def denoise(self, rows: Sequence[Row]) -> Sequence[Tensor]:
        """Each row's prediction, (1, channels, height, width) in float32."""
        unet = rows[0].state.weights.pipeline.unet
        branches = [conditioning_of(row) for row in rows]
        # NOTE: ``unet.dtype`` would look through all parameters, for milliseconds at each step.
        dtype = unet.conv_in.weight.dtype
        inputs = torch.cat([_unet_input(row.state) for row in rows]).to(dtype)
        timesteps = torch.stack([row.state.timesteps[row.state.step].float() for row in rows])
        adapters = [row.state.branches[row.branch].adapters for row in rows]
        is_tiling = rows[0].state.batch_key.is_tiling
        fitted = self._fitter.fitted(unet, "unet", adapters)
        with edges_joined(unet, is_tiling=is_tiling), fitted:
            predictions: Tensor = unet(
                inputs,
                timesteps.to(inputs.device),
                encoder_hidden_states=torch.cat([branch.text for branch in branches]),
                added_cond_kwargs={
                    name: torch.cat([branch.added[name] for branch in branches])
                    for name in branches[0].added
                },
                return_dict=False,
            )[0]
        return torch.split(predictions.float(), 1)

    def advance(self, state: RequestState, predictions: Sequence[Tensor]) -> None:
        """Guide, step, and while inpainting bring the kept part to the next noise level."""
        params = state.request.params
        prediction = guided(state, predictions)
        timestep, before = state.timesteps[state.step], state.latents
        output = schedulers.step(
            state.scheduler, prediction, timestep, before, params=params, generator=state.generator
        )
        aim = partial(
            schedulers.clean_latents, state.scheduler, output, prediction, timestep, before
        )
        settle(state, output.prev_sample, aim)

    def follow(self, state: RequestState) -> bool:
        """Enlarge the first pass's end and noise it for the second, as image-to-image does."""
        if state.following is None:
            return False
        request = state.following.request
        kept = enlarged(self.autoencoder, state, state.following)
        walk = self._walk(request, state.index, request.params.strength)
        noise = randn_tensor(kept.shape, generator=state.generator, device=kept.device)
        latents = walk.scheduler.add_noise(kept, noise, walk.timesteps[:1])
        state.enter(walk.scheduler, walk.timesteps, latents)
        state.extra["walk"] = walk
        return True

    def latents(self, state: RequestState) -> NDArray[np.float32]:
        """Scaled latents, noised ones as ``clean + sigma * noise``; see ``Family.latents``."""
        latents, walk = state.latents[0].float(), state.extra["walk"]
        if walk.end is not None:
            latents = latents / signal(state.scheduler, walk.end).to(latents.device)
        array: NDArray[np.float32] = latents.cpu().numpy()
        return array

    def decode(self, states: Sequence[RequestState]) -> list[NDArray[np.float32]]:
        """Pixels of denoised pictures; see ``Family.decode``."""
        latents = torch.cat([state.latents for state in states])
        is_tiling = states[0].batch_key.is_tiling
        pictures = to_arrays(self.autoencoder.decode(latents, is_tiling=is_tiling))
        return [
            source.composite(drawn) if (source := state.extra["source"]) else drawn
            for state, drawn in zip(states, pictures, strict=True)
        ]

    def preview(self, state: RequestState) -> NDArray[np.float32]:
        """What the last step aimed at, at most 256 pixels wide and high."""
        latents = shrink(state.extra.get("preview", state.latents), _PREVIEW_LATENTS)
        return to_arrays(self.autoencoder.decode(latents, is_tiling=state.batch_key.is_tiling))[0]

    def _check(self, request: GenerationRequest, weights: Weights) -> None:
        check_second_pass(request)
        if request.task != "generate":
            return
        if request.params.shift is not None:
            raise UnsupportedField("this model's schedules have no shift", param="shift")
        if request.images and request.latents is not None:
            message = "this model takes no reference pictures beside latents"
            raise InvalidRequest(message, param="images")
        if len(request.images) > 1:
            message = f"{len(request.images)} input pictures; this model takes one"
            raise InvalidRequest(message, param="images")
        channels = weights.pipeline.unet.config.in_channels
        if channels != self.base.vae.config.latent_channels and request.mask is None:
            message = "this model only inpaints: it needs an input picture, or latents, and a mask"
            raise InvalidRequest(message, param="mask")

    def _steering(self, request: GenerationRequest, weights: Weights) -> tuple[Conditioning, ...]:
        """What steers each row, with the LoRAs of the denoiser."""
        adapters = self.loras.adapters(request.loras)
        branches = self.embed(request, weights.pipeline)
        return tuple(replace(branch, adapters=adapters) for branch in branches)

    def _start(self, request: GenerationRequest, unet: Any) -> Start | Given:
        if request.latents is not None:
            return Given(self.autoencoder, unet, request)
        if not request.images:
            return Start(self.autoencoder, unet, request, None, None)
        strength = request.params.strength
        strength = self.config.defaults.strength if strength is None else strength
        return Start(self.autoencoder, unet, request, self._reader.read(request), strength)

    def _undrawn(self, request: GenerationRequest, weights: Weights) -> tuple[RequestState, ...]:
        """Pictures with nothing to denoise: encoded ones, or latents to be decoded."""
        latents = undrawn_latents(request, self.autoencoder, self._reader)
        walk = Walk(scheduler=None, timesteps=torch.empty(0))
        return tuple(
            self._made(request, index, weights, (), walk, one[None].to(self.device), {})
            for index, one in enumerate(latents)
        )

    def _following(self, request: GenerationRequest, weights: Weights) -> Pass | None:
        """The second pass, its text encoded and its schedule tried before the first begins."""
        second = second_request(request)
        if second is None or request.second_pass is None:
            return None
        params, factor = second.params, self.autoencoder.factor
        walk = self._walk(second, 0, params.strength)
        branches = self._steering(second, weights)
        channels = weights.pipeline.unet.config.in_channels
        shape = (channels, (params.height or 0) // factor, (params.width or 0) // factor)
        return Pass(
            request=second,
            upscaler=request.second_pass.upscaler,
            branches=branches,
            batch_key=BatchKey(weights.name, shape, branches[0].shapes, params.tiling),
            tokens=shape[1] * shape[2],
            num_timesteps=len(walk.timesteps),
        )

    def _walk(self, request: GenerationRequest, index: int, strength: float | None) -> Walk:
        """A scheduler of the picture's own, and the timesteps that it walks."""
        params = request.params
        assert params.num_inference_steps is not None
        scheduler = schedulers.build(
            params.scheduler or "",
            params.sigmas or "",
            self.base.scheduler.config,
            picture_seed(request, index),
        )
        if request.latents is not None:
            return walk_part(scheduler, params)
        timesteps = schedulers.walk(scheduler, params.num_inference_steps, strength)
        return Walk(scheduler=scheduler, timesteps=timesteps)

    def _state(
        self,
        index: int,
        weights: Weights,
        branches: tuple[Conditioning, ...],
        start: Start | Given,
    ) -> RequestState:
        request = start.request
        walk = self._walk(request, index, start.strength)
        generator = torch.Generator().manual_seed(picture_seed(request, index))
        latents, extra = start.draw(walk, generator, index)
        state = self._made(request, index, weights, branches, walk, latents, extra)
        state.generator = generator
        return state

    def _made(
        self,
        request: GenerationRequest,
        index: int,
        weights: Weights,
        branches: tuple[Conditioning, ...],
        walk: Walk,
        latents: Tensor,
        extra: dict[str, Any],
    ) -> RequestState:
        shape = (weights.pipeline.unet.config.in_channels, *latents.shape[2:])
        conditioning = branches[0].shapes if branches else ()
        return RequestState(
            request=request,
            index=index,
            weights=weights,
            branches=branches,
            batch_key=BatchKey(weights.name, shape, conditioning, request.params.tiling),
            tokens=shape[1] * shape[2],
            latents=latents,
            generator=torch.Generator(),
            scheduler=walk.scheduler,
            timesteps=walk.timesteps,
            extra={"source": None, **extra, "walk": walk},
        )


def _unet_input(state: RequestState) -> Tensor:
    """(1, in_channels, h, w): scaled latents, with the mask and the kept part if the UNet asks."""
    timestep = state.timesteps[state.step]
    scaled: Tensor = state.scheduler.scale_model_input(state.latents, timestep)
    channels = state.extra.get("channels")
    return scaled if channels is None else torch.cat([scaled, channels], dim=1)
