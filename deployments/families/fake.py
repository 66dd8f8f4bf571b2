"""FakeFamily: colour gradients in place of a model, without torch. For laptops and tests.

A picture depends on the prompt, the seed, the weights, the guidance and the input pictures, not on
whom it shares a forward pass with. Words in a prompt make it fail, to try how the rest copes:

    fail:encode      encoding raises
    fail:step        the forward pass of the second step raises, for all who share it
    fail:advance     the second step of the one picture raises, after the forward pass
    fail:decode      decoding raises
    fail:nan         the picture holds NaN
    fail:oom         every forward pass runs out of memory
    fail:oom-batch   every forward pass of two pictures or more runs out of memory
    fail:exit        the process ends at the second step, as if killed
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, Self, cast

import numpy as np

from deployments.engine.second_pass import check_second_pass, second_request
from deployments.engine.state import (
    BatchKey,
    Pass,
    RequestState,
    Row,
    picture_seed,
    variation_seed,
)
from deployments.errors import GenerationFailed, InvalidRequest
from deployments.families.base import Family
from deployments.families.fake_latents import FACTOR, encode_picture, fake_walk, read_latents
from deployments.families.fake_picture import Floats, Inputs, goals, read_inputs, way
from deployments.families.wording import parts_of
from deployments.sources import Sources
from deployments.types import CheckedWeights

if TYPE_CHECKING:
    from deployments.config import ModelConfig
    from deployments.types import GenerationRequest, WeightsSource


#: What a set of weights pretends to take.
NUM_BYTES: Final = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class FakeWeights:
    """A set of weights that is nothing but its name."""

    name: str
    num_bytes: int = NUM_BYTES


class FakeFamily(Family):
    """Draws a gradient between two colours, in as many steps as it is asked for."""

    modes = ("text-to-image", "image-to-image", "inpainting", "edit")
    schedulers = ("Euler", "Heun", "DDIM")
    sigmas = ("normal", "karras")
    uses_torch = False
    has_latents = True
    sources: Sources

    def __init__(self, config: ModelConfig) -> None:
        self.config = config
        self.sources = Sources(config.personal)

    @classmethod
    def load(cls, config: ModelConfig, device: str, dtype: str) -> Self:  # noqa: ARG003
        """Nothing to read; device and dtype do not matter."""
        return cls(config)

    def load_weights(self, name: str | None) -> FakeWeights:
        """The base's own set, or one of ``config.personal``."""
        if name is not None:
            location = self.sources.get(name).location
            time.sleep(self.config.step_seconds or 0)
            if "broken" in location:
                raise GenerationFailed(f"weights {name!r} cannot be read")
        return FakeWeights(name=name or "")

    def check_weights(self, source: WeightsSource, max_bytes: int) -> CheckedWeights:
        """Whatever there is fits, but what has ``misfit`` in its location."""
        if "misfit" in source.location or max_bytes < NUM_BYTES:
            raise InvalidRequest("the weights do not fit", param="weights")
        return CheckedWeights(location=source.location, parts=("unet",), num_bytes=NUM_BYTES)

    def expected_bytes(self, name: str | None) -> int:  # noqa: ARG002
        """All sets are of one size."""
        return NUM_BYTES

    def encode(self, request: GenerationRequest, weights: FakeWeights) -> tuple[RequestState, ...]:
        """One state per picture; see ``Family.encode``."""
        if "encode" in _faults(request):
            raise RuntimeError("fake: no such file /srv/fake/encoder.bin")
        self._check(request)
        if request.task != "generate":
            return self._undrawn(request, weights)
        # A mask beside latents is of these.
        inputs = read_inputs(request if request.latents is None else replace(request, mask=None))
        return tuple(
            self._state(request, index, weights, inputs)
            for index in range(request.params.num_images)
        )

    def denoise(self, rows: Sequence[Row]) -> Sequence[Floats]:
        """Each row's way to the picture that its branch aims at, (1, 3, height, width)."""
        time.sleep(self.config.step_seconds or 0)
        num_pictures = len({id(row.state) for row in rows})
        for row in rows:
            faults = _faults(row.state.request)
            if "oom" in faults or ("oom-batch" in faults and num_pictures > 1):
                raise MemoryError("fake: out of memory")
            if "exit" in faults and row.state.step == 1:
                os._exit(1)
            if "step" in faults and row.state.step == 1:
                raise RuntimeError("fake: cannot step /srv/fake")
        return [row.state.branches[row.branch] - row.state.latents for row in rows]

    def advance(self, state: RequestState, predictions: Sequence[Floats]) -> None:
        """Go an even part of the way; the last step arrives exactly."""
        if "advance" in _faults(state.request) and state.step == 1:
            raise RuntimeError("fake: cannot advance /srv/fake")
        direction = way(state.request, predictions, parts_of(state.request))
        latents = cast("Floats", state.latents)
        if walk := state.extra.get("walk"):
            state.latents = walk.stepped(state.step, latents, direction)
            return
        left = np.float32(state.num_timesteps - state.step)
        state.latents = cast("Any", latents + direction / left)

    def follow(self, state: RequestState) -> bool:
        """Enlarge the gradient and go on towards the second pass's own."""
        following = state.following
        if following is None:
            return False
        shape = following.batch_key.latents
        rows = np.arange(shape[1]) * state.latents.shape[2] // shape[1]
        columns = np.arange(shape[2]) * state.latents.shape[3] // shape[2]
        seed = _look(state.request, state.index)
        branches = goals(following.request, state.weights.name, seed, shape)
        latents = cast("Any", state.latents)[:, :, rows[:, None], columns]
        state.enter(state.scheduler, cast("Any", _timesteps(following.request, True)), latents)
        state.branches = branches
        return True

    def latents(self, state: RequestState) -> Floats:
        """(3, height / 8, width / 8)."""
        latents: Floats = cast("Floats", state.latents)[0]
        return latents

    def decode(self, states: Sequence[RequestState]) -> list[Floats]:
        """The latents themselves, enlarged; kept pixels of an inpainting are the input's."""
        if any("decode" in _faults(state.request) for state in states):
            raise RuntimeError("fake: cannot decode /srv/fake")
        return [_decoded(state) for state in states]

    def preview(self, state: RequestState) -> Floats:
        """The latents so far, one pixel per position."""
        latents = cast("Floats", state.latents)
        return np.ascontiguousarray(latents[0].transpose(1, 2, 0).clip(0, 1))

    def _check(self, request: GenerationRequest) -> None:
        params = request.params
        for field, value, known in (
            ("scheduler", params.scheduler, self.schedulers),
            ("sigmas", params.sigmas, self.sigmas),
        ):
            if value is not None and value not in known:
                message = f"unknown {field} {value!r}; known: {', '.join(known)}"
                raise InvalidRequest(message, param=field)
        limit = max(1, self.config.limits.max_input_images)
        if len(request.images) > limit and request.task == "generate":
            message = f"{len(request.images)} input pictures; this model takes at most {limit}"
            raise InvalidRequest(message, param="images")
        check_second_pass(request)

    def _undrawn(
        self, request: GenerationRequest, weights: FakeWeights
    ) -> tuple[RequestState, ...]:
        """Pictures with nothing to denoise: encoded ones, or latents to be decoded."""
        _, height, width = _shape(request)
        if request.latents is None:
            size = width * FACTOR, height * FACTOR
            latents = np.concatenate([encode_picture(data, *size) for data in request.images])
        else:
            latents = read_latents(request.latents)
        return tuple(
            self._made(request, index, weights, (), one[None], np.zeros(0, dtype=np.float32))
            for index, one in enumerate(latents)
        )

    def _state(
        self,
        request: GenerationRequest,
        index: int,
        weights: FakeWeights,
        inputs: Inputs | None,
    ) -> RequestState:
        params = request.params
        seed = picture_seed(request, index)
        shape = _shape(request)
        generator = np.random.default_rng(seed)
        branches = goals(request, weights.name, _look(request, index), shape)
        latents = generator.random((1, *shape), dtype=np.float32)
        walk = None if request.latents is None else fake_walk(request, index, generator)
        if walk is not None:
            latents = walk.begun(adds_noise=params.adds_noise)
        if inputs is not None:
            strength = np.float32(1.0 if params.strength is None else params.strength)
            kept = np.clip(inputs.mean, 0, 1)[::FACTOR, ::FACTOR].transpose(2, 0, 1)[None]
            branches = tuple(kept + strength * (goal - kept) for goal in branches)
            latents = latents if walk else kept + strength * (latents - kept)
        timesteps = _timesteps(request, bool(request.images))
        state = self._made(request, index, weights, branches, latents, timesteps)
        state.generator = cast("Any", generator)
        state.following = _following(request, weights.name)
        state.extra |= {"inputs": inputs, "walk": walk}
        return state

    def _made(
        self,
        request: GenerationRequest,
        index: int,
        weights: FakeWeights,
        branches: tuple[Floats, ...],
        latents: Floats,
        timesteps: Floats,
    ) -> RequestState:
        shape = latents.shape[1:]
        return RequestState(
            request=request,
            index=index,
            weights=weights,
            branches=branches,
            batch_key=BatchKey(weights.name, shape, ((8,),), request.params.tiling),
            tokens=shape[1] * shape[2],
            latents=cast("Any", latents),
            generator=cast("Any", None),
            scheduler=request.params.scheduler,
            timesteps=cast("Any", timesteps),
            prompt_tokens=len(request.prompt.split()),
            extra={"inputs": None},
        )


def _following(request: GenerationRequest, weights: str) -> Pass | None:
    second = second_request(request)
    if second is None or request.second_pass is None:
        return None
    shape = _shape(second)
    return Pass(
        request=second,
        upscaler=request.second_pass.upscaler,
        branches=goals(second, weights, 0, shape),  # their number counts; follow() fits the seed
        batch_key=BatchKey(weights, shape, ((8,),), second.params.tiling),
        tokens=shape[1] * shape[2],
        num_timesteps=len(_timesteps(second, True)),
    )


def _shape(request: GenerationRequest) -> tuple[int, int, int]:
    """Of the latents, without the row axis."""
    params = request.params
    return 3, (params.height or 512) // FACTOR, (params.width or 512) // FACTOR


def _look(request: GenerationRequest, index: int) -> int:
    """The seed whose hue a picture has: the variation seed's when that is what varies."""
    if request.params.variation_strength > 0:
        return variation_seed(request, index)
    return picture_seed(request, index)


def _faults(request: GenerationRequest) -> set[str]:
    texts = (request.prompt, *(part.text for part in request.parts))
    return set(re.findall(r"fail:([a-z-]+)", " ".join(texts)))


def _timesteps(request: GenerationRequest, is_partial: bool) -> Floats:
    """From 1000 down: Heun visits each step but the last twice; strength leaves out the first."""
    params = request.params
    steps = params.num_inference_steps or 1
    if request.latents is not None:
        return np.linspace(1000, 1, params.num_walked_steps, dtype=np.float32)
    if is_partial and params.strength is not None:
        steps = max(1, min(steps, int(steps * params.strength)))
    visited = 2 * steps - 1 if params.scheduler == "Heun" else steps
    return np.linspace(1000, 1, visited, dtype=np.float32)


def _decoded(state: RequestState) -> Floats:
    latents = cast("Floats", state.latents)
    large = latents[0].repeat(FACTOR, axis=1).repeat(FACTOR, axis=2)
    pixels = large.transpose(1, 2, 0).clip(0, 1)
    if "nan" in _faults(state.request):
        pixels = np.full_like(pixels, np.nan)
    inputs: Inputs | None = state.extra["inputs"]
    if inputs is not None and inputs.frame is not None:
        return inputs.frame.filled(pixels)
    if inputs is None or state.request.mask is None or "nan" in _faults(state.request):
        return np.ascontiguousarray(pixels)
    return np.where(inputs.redrawn > 0, pixels, inputs.mean)
