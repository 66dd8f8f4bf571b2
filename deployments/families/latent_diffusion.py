"""LatentDiffusion: what Stable Diffusion and Stable Diffusion XL share, all but the text."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Final, Self

import torch
from diffusers.utils.torch_utils import randn_tensor

from deployments.config import locate
from deployments.engine.second_pass import check_second_pass, second_request
from deployments.engine.state import BatchKey, Pass, RequestState, picture_seed
from deployments.errors import InvalidRequest
from deployments.families import schedulers
from deployments.families.autoencoder import Autoencoder, shrink, to_arrays
from deployments.families.base import Family
from deployments.families.checkpoint import Weights, num_bytes, read_personal, read_pipeline
from deployments.families.schedulers import SCHEDULERS, SIGMAS
from deployments.families.source import SourceReader
from deployments.families.start import Start
from deployments.families.text_encoder import Conditioning, TextEncoder, num_tokens
from deployments.families.tiling import edges_joined
from deployments.families.upscale import LATENT, enlarge_latents, enlarge_pixels

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from deployments.config import ModelConfig
    from deployments.engine.state import Row
    from deployments.types import GenerationRequest

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
    pipeline: ClassVar[str]
    omitted: ClassVar[dict[str, Any]]
    personal: ClassVar[tuple[str, ...]]

    def __init__(self, config: ModelConfig, pipeline: Any) -> None:
        self.config = config
        self.base = pipeline
        self.autoencoder = Autoencoder(pipeline.vae)
        self.device = pipeline.device
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
            parts = [getattr(self.base, part) for part in ("vae", *self.personal)]
            size = num_bytes(parts)
            return Weights(name="", num_bytes=size, pipeline=self.base, is_pinned=True)
        if name not in self.config.personal:
            known = ", ".join(sorted(self.config.personal)) or "none"
            raise InvalidRequest(f"unknown weights {name!r}; known: {known}", param="weights")
        folder = locate(self.config.personal[name])
        own = read_personal(name, folder, {p: getattr(self.base, p) for p in self.personal})
        pipeline = type(self.base)(**{**self.base.components, **own})
        pipeline.register_to_config(**self.base.config)  # such as force_zeros_for_empty_prompt
        return Weights(name=name, num_bytes=num_bytes(own.values()), pipeline=pipeline)

    def encode(self, request: GenerationRequest, weights: Weights) -> tuple[RequestState, ...]:
        """One state per picture; see ``Family.encode``."""
        self._check(request, weights)
        source, strength = None, None
        if request.images:
            source = self._reader.read(request)
            strength = request.params.strength
            strength = self.config.defaults.strength if strength is None else strength
        branches = self.embed(request, weights.pipeline)
        start = Start(self.autoencoder, weights.pipeline.unet, request, source, strength)
        following = self._following(request, weights)
        tokens = self._num_tokens(request)
        states = []
        for index in range(request.params.num_images):
            state = self._state(index, weights, branches, start)
            state.following, state.prompt_tokens = following, tokens
            states.append(state)
        return tuple(states)

    @abstractmethod
    def embed(self, request: GenerationRequest, pipeline: Any) -> tuple[Conditioning, ...]:
        """The prompt's conditioning and, when guided, the negative prompt's after it."""

    def denoise(self, rows: Sequence[Row]) -> Sequence[Tensor]:
        """Each row's prediction, (1, channels, height, width) in float32."""
        unet = rows[0].state.weights.pipeline.unet
        branches: list[Conditioning] = [row.state.branches[row.branch] for row in rows]
        inputs = torch.cat([_unet_input(row.state) for row in rows]).to(unet.dtype)
        timesteps = torch.stack([row.state.timesteps[row.state.step].float() for row in rows])
        with edges_joined(unet, is_tiling=rows[0].state.batch_key.is_tiling):
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
        prediction = predictions[0]
        if len(predictions) > 1:
            assert params.guidance_scale is not None
            prediction = predictions[1] + params.guidance_scale * (prediction - predictions[1])
        timestep, before = state.timesteps[state.step], state.latents
        output = schedulers.step(
            state.scheduler, prediction, timestep, before, params=params, generator=state.generator
        )
        state.latents = output.prev_sample
        if state.request.num_previews:
            state.extra["preview"] = schedulers.clean_latents(
                state.scheduler, output, prediction, timestep, before
            )
        if "kept" in state.extra:
            state.latents = _blend(state)

    def follow(self, state: RequestState) -> bool:
        """Enlarge the first pass's end and noise it for the second, as image-to-image does."""
        if state.following is None:
            return False
        request = state.following.request
        kept = self._enlarged(state, state.following)
        scheduler, timesteps = self._walk(request, state.index, request.params.strength)
        noise = randn_tensor(kept.shape, generator=state.generator, device=kept.device)
        state.enter(scheduler, timesteps, scheduler.add_noise(kept, noise, timesteps[:1]))
        return True

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
        if len(request.images) > 1:
            message = f"{len(request.images)} input pictures; this model takes one"
            raise InvalidRequest(message, param="images")
        check_second_pass(request)
        channels = weights.pipeline.unet.config.in_channels
        if channels != self.base.vae.config.latent_channels and request.mask is None:
            message = "this model only inpaints: it needs an input picture and a mask"
            raise InvalidRequest(message, param="mask")

    def _num_tokens(self, request: GenerationRequest) -> int:
        encoder = TextEncoder(self.base.tokenizer, self.base.text_encoder)
        return num_tokens(encoder.chunks(request.prompt, is_weighted=request.is_weighted))

    def _following(self, request: GenerationRequest, weights: Weights) -> Pass | None:
        """The second pass, its text encoded and its schedule tried before the first begins."""
        second = second_request(request)
        if second is None or request.second_pass is None:
            return None
        params, factor = second.params, self.autoencoder.factor
        _, timesteps = self._walk(second, 0, params.strength)
        branches = self.embed(second, weights.pipeline)
        channels = weights.pipeline.unet.config.in_channels
        shape = (channels, (params.height or 0) // factor, (params.width or 0) // factor)
        return Pass(
            request=second,
            upscaler=request.second_pass.upscaler,
            branches=branches,
            batch_key=BatchKey(weights.name, shape, branches[0].shapes, params.tiling),
            tokens=shape[1] * shape[2],
            num_timesteps=len(timesteps),
        )

    def _enlarged(self, state: RequestState, following: Pass) -> Tensor:
        """The clean latents of the first pass at the second one's size."""
        _, height, width = following.batch_key.latents
        if following.upscaler in LATENT:
            return enlarge_latents(state.latents, following.upscaler, height, width)
        factor = self.autoencoder.factor
        return enlarge_pixels(
            self.autoencoder,
            state.latents,
            following.upscaler,
            (width * factor, height * factor),
            state.generator,
            is_tiling=following.batch_key.is_tiling,
        )

    def _walk(
        self, request: GenerationRequest, index: int, strength: float | None
    ) -> tuple[Any, Tensor]:
        """A scheduler of the picture's own, and the timesteps that it walks."""
        params = request.params
        assert params.num_inference_steps is not None
        scheduler = schedulers.build(
            params.scheduler or "",
            params.sigmas or "",
            self.base.scheduler.config,
            picture_seed(request, index),
        )
        return scheduler, schedulers.walk(scheduler, params.num_inference_steps, strength)

    def _state(
        self, index: int, weights: Weights, branches: tuple[Conditioning, ...], start: Start
    ) -> RequestState:
        request = start.request
        generator = torch.Generator().manual_seed(picture_seed(request, index))
        scheduler, timesteps = self._walk(request, index, start.strength)
        latents, extra = start.draw(scheduler, timesteps, generator, index)
        shape = (start.unet.config.in_channels, *latents.shape[2:])
        return RequestState(
            request=request,
            index=index,
            weights=weights,
            branches=branches,
            batch_key=BatchKey(weights.name, shape, branches[0].shapes, request.params.tiling),
            tokens=shape[1] * shape[2],
            latents=latents,
            generator=generator,
            scheduler=scheduler,
            timesteps=timesteps,
            extra=extra,
        )


def _unet_input(state: RequestState) -> Tensor:
    """(1, in_channels, h, w): scaled latents, with the mask and the kept part if the UNet asks."""
    timestep = state.timesteps[state.step]
    scaled: Tensor = state.scheduler.scale_model_input(state.latents, timestep)
    channels = state.extra.get("channels")
    return scaled if channels is None else torch.cat([scaled, channels], dim=1)


def _blend(state: RequestState) -> Tensor:
    """Drawn latents where the mask is white; elsewhere the input's, noised for the next step."""
    kept: Tensor = state.extra["kept"]
    redrawn: Tensor = state.extra["redrawn"]
    if (following := state.step + 1) < state.num_timesteps:
        timestep = state.timesteps[following : following + 1]
        kept = state.scheduler.add_noise(kept, state.extra["noise"], timestep)
    return (1 - redrawn) * kept + redrawn * state.latents
