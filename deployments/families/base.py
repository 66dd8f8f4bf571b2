"""Family: what the engine needs of one model family, in a few verbs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Self

from deployments.errors import UnsupportedField
from deployments.types import Evicted

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from deployments.config import ModelConfig
    from deployments.engine.state import RequestState, Row
    from deployments.families.lora import Loras
    from deployments.sources import Sources
    from deployments.types import CheckedWeights, GenerationRequest, Mode, WeightsSource


class Family(ABC):
    """One model family's code: encode, denoise, advance, follow, decode.

    The engine calls every method from its one thread, without gradients, but for those that say
    otherwise. A family holds modules
    and tokenizers; it holds nothing of a request, since requests run through it interleaved.

    Class attributes:
        modes: what the family can do.
        size_multiple: width and height are multiples of this many pixels.
        schedulers, sigmas: accepted names of ``SamplingParams.scheduler`` and ``.sigmas``.
        options: fields of ``ModelConfig`` that this family heeds and not all do.
        reference_side: about how many pixels of a side the family reads of an input picture,
            whatever the size it draws; 0 is that size.
        uses_torch: whether it needs a ``TorchRunner``; else an ``InlineRunner`` will do.
        has_latents: whether it does the tasks ``encode`` and ``decode``, starts from
            ``GenerationRequest.latents`` and has ``latents``; the gateway asks nothing of the sort
            of other families.
        sources: where the sets of ``load_weights`` are read from; None when it has but its own.
        loras: owns the LoRAs, which requests may use; None when the family takes none.
    """

    modes: tuple[Mode, ...]
    size_multiple: ClassVar[int] = 8
    schedulers: ClassVar[tuple[str, ...]]
    sigmas: ClassVar[tuple[str, ...]]
    uses_torch: ClassVar[bool] = True
    options: ClassVar[frozenset[str]] = frozenset()
    reference_side: int = 0
    has_latents: ClassVar[bool] = False
    sources: Sources | None = None
    loras: Loras | None = None

    @classmethod
    @abstractmethod
    def load(cls, config: ModelConfig, device: str, dtype: str) -> Self:
        """Read the base model's weights onto ``device`` (a torch device name) in ``dtype``."""

    @abstractmethod
    def load_weights(self, name: str | None) -> Any:
        """A set of weights by its name in ``sources``; None is the base model's own.

        Called in threads of the pool's, beside everything else and beside itself. The result has
        ``name: str`` and ``num_bytes: int``; sets that are already in memory are kept by the
        engine's pool, not here. Raises ``InvalidRequest`` for unknown names.
        """

    def check_weights(self, source: WeightsSource, max_bytes: int) -> CheckedWeights:  # noqa: ARG002
        """What a source holds for this model, by its headers alone. Any thread may call.

        Raises ``InvalidRequest`` when it does not fit, or has more bytes.
        """
        raise UnsupportedField("this model takes no weights but its own", param="base")

    def prepare(self, request: GenerationRequest) -> None:  # noqa: B027 - most have nothing to do
        """Read into memory what a request needs besides its weights, so that its encoding is quick.

        Called before the engine has the request, in a thread of its own: unlike the others, this
        runs beside them. Raises as ``encode`` does.
        """

    def evict(self) -> Evicted:
        """Let go of what ``prepare`` read and no request uses. Any thread may call."""
        return Evicted(weights=(), num_bytes=0)

    @property
    def host_bytes(self) -> int:
        """Bytes of the host's memory that keep what a GPU may need. Any thread may ask."""
        return 0

    def expected_bytes(self, name: str | None) -> int:  # noqa: ARG002
        """About how many bytes ``load_weights(name)`` will take; never less, where it is known."""
        return 0

    @abstractmethod
    def encode(self, request: GenerationRequest, weights: Any) -> tuple[RequestState, ...]:
        """One state per picture: text encoded, noise drawn, input pictures in latent space.

        ``request.params`` has no None left in width, height, steps, guidance, seed, scheduler and
        sigmas. The text is encoded once for all of the request's pictures. A picture that has
        nothing to denoise (tasks ``encode`` and ``decode``) has no timesteps.
        Raises ``InvalidRequest`` for what the family cannot do (undecodable picture, a scheduler
        that has no such spacing).
        """

    @abstractmethod
    def denoise(self, rows: Sequence[Row]) -> Sequence[Any]:
        """One forward pass over rows of equal ``BatchKey``: each row's prediction, in order."""

    @abstractmethod
    def advance(self, state: RequestState, predictions: Sequence[Any]) -> None:
        """One step of one picture: combine its branches' predictions, step its scheduler."""

    def follow(self, state: RequestState) -> bool:
        """What follows when a picture's timesteps are done: whether there is another pass.

        Called once after the last step of each pass. True when ``state`` has entered the pass
        that it announced in ``following``; else the picture goes on to be decoded.
        """
        assert state.following is None
        return False

    def latents(self, state: RequestState) -> NDArray[np.float32]:
        """A denoised picture's latents as they travel: (channels, height, width), see ``Latents``.

        Called in place of ``decode`` when the request ``ends_in_latents``; only families with
        ``has_latents`` have it.
        """
        raise NotImplementedError(f"{type(self).__name__} has no latents")

    @abstractmethod
    def decode(self, states: Sequence[RequestState]) -> list[NDArray[np.float32]]:
        """Pixels of denoised pictures of equal latent shape: (height, width, 3), 0..1 each.

        Kept pixels of an inpainting are the input's own. Raises ``NumericalFailure`` only when
        every picture is affected; the engine checks each result for NaN itself.
        """

    @abstractmethod
    def preview(self, state: RequestState) -> NDArray[np.float32]:
        """The picture so far, small and cheap: (height, width, 3), 0..1."""
