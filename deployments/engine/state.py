"""RequestState: one picture in flight. Private to the engine; it never leaves its process."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from deployments.types import SEED_RANGE, GenerationRequest

if TYPE_CHECKING:
    from torch import Generator, Tensor


@dataclass(frozen=True, slots=True)
class BatchKey:
    """Rows share a forward pass exactly when their keys are equal.

    Attributes:
        weights: name of the weights the denoiser runs with.
        latents: shape of one row's denoiser input, without the row axis.
        conditioning: shapes of one row's conditioning, without the row axis.
        is_tiling: whether the picture's opposite edges are neighbours in every convolution.
    """

    weights: str
    latents: tuple[int, ...]
    conditioning: tuple[tuple[int, ...], ...]
    is_tiling: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Pass:
    """A pass that a picture enters when its present timesteps are done.

    Attributes:
        request: what the pass is asked for, as a request of its own.
        branches, batch_key, tokens: as of ``RequestState``.
        num_timesteps: how many it will walk.
        upscaler: how the picture is brought to the size of this pass; opaque to the engine.
    """

    request: GenerationRequest
    branches: tuple[Any, ...]
    batch_key: BatchKey
    tokens: int
    num_timesteps: int
    upscaler: str

    @property
    def work(self) -> int:
        """Timesteps times rows times image tokens."""
        return self.num_timesteps * len(self.branches) * self.tokens


@dataclass(slots=True, kw_only=True)
class RequestState:
    """One picture between the asking and the finished pixels.

    A request for n pictures becomes n states: each has its own noise generator (seed + k) and its
    own diffusers scheduler (which counts its steps), so that whom it shares a forward pass with
    cannot show.

    Attributes:
        request: what was asked of the present pass, with every knob of ``params`` that the family
            uses filled in.
        index: k, the picture's place in its request.
        weights: what the family's ``load_weights`` returned; released when the picture is done.
        branches: one conditioning per guidance branch, the conditional one first; opaque to the
            engine. ``len(branches)`` rows go into a forward pass at each step.
        batch_key: equal for all branches of one picture.
        tokens: image tokens (latent positions) of one row, the unit of the token budget.
        latents: (1, channels, height, width) on the family's device.
        generator: the request's own CPU generator; every draw of noise comes from it.
        scheduler: a diffusers scheduler of this picture's own.
        timesteps: the values that the present pass walks; higher-order schedulers visit more than
            the steps asked for.
        step: how many of ``timesteps`` are done; the engine counts, after ``advance``.
        num_left_out: branches, counted from the last, that have no row in the next forward pass.
        num_before: timesteps of the passes before.
        following: the next pass, or None.
        prompt_tokens: tokens the text encoder saw, before padding.
        extra: what the family keeps besides (inpainting's mask and clean latents, say).
    """

    request: GenerationRequest
    index: int
    weights: Any
    branches: tuple[Any, ...]
    batch_key: BatchKey
    tokens: int
    latents: Tensor
    generator: Generator
    scheduler: Any
    timesteps: Tensor
    step: int = 0
    num_left_out: int = 0
    num_before: int = 0
    following: Pass | None = None
    prompt_tokens: int = 0
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def num_timesteps(self) -> int:
        """Forward passes that the present pass takes in all."""
        return len(self.timesteps)

    @property
    def num_visited(self) -> int:
        """Timesteps done, in all passes."""
        return self.num_before + self.step

    @property
    def num_visits(self) -> int:
        """Timesteps of all passes."""
        ahead = self.following.num_timesteps if self.following else 0
        return self.num_before + self.num_timesteps + ahead

    @property
    def num_rows(self) -> int:
        """Rows of the next forward pass that this picture takes: its guidance branches."""
        return len(self.branches) - self.num_left_out

    @property
    def work(self) -> int:
        """What is left to denoise: timesteps times rows times image tokens."""
        ahead = self.following.work if self.following else 0
        return max(0, self.num_timesteps - self.step) * self.num_rows * self.tokens + ahead

    @property
    def is_denoised(self) -> bool:
        """Whether only decoding is left."""
        return self.step >= self.num_timesteps

    def enter(self, scheduler: Any, timesteps: Tensor, latents: Tensor) -> None:
        """Begin the pass that follows; the generator goes on where it was."""
        assert self.following is not None
        self.num_before += self.num_timesteps
        self.request, self.branches = self.following.request, self.following.branches
        self.batch_key, self.tokens = self.following.batch_key, self.following.tokens
        self.scheduler, self.timesteps, self.latents = scheduler, timesteps, latents
        self.step, self.num_left_out, self.following = 0, 0, None


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a denoiser batch: a picture and one of its guidance branches."""

    state: RequestState
    branch: int


def picture_seed(request: GenerationRequest, index: int) -> int:
    """Seed of picture ``index``: the request's plus ``index``, within its 32 (or 64) bits.

    Pictures that vary by their variation seed keep the request's own.
    """
    seed = request.params.seed or 0
    return seed if request.params.variation_strength > 0 else _counted(seed, index)


def variation_seed(request: GenerationRequest, index: int) -> int:
    """Variation seed of picture ``index``: the request's plus ``index``; by default the seed's."""
    seed = request.params.variation_seed
    return _counted(request.params.seed or 0 if seed is None else seed, index)


def _counted(seed: int, index: int) -> int:
    return (seed + index) % (SEED_RANGE if seed < SEED_RANGE else 2**64)
