"""Batcher: who shares the next forward pass, and who goes first. Pure Python, no tensor.

The rules, in order:

0. Fetch the weights of a waiting request, as soon as they find room: it costs the loop nothing.
1. Decode what is denoised: somebody waits for nothing else, and it frees memory.
2. Encode a waiting request while there is room, but at most ``MAX_ENCODES`` in a row when there
   are pictures to step.
3. Step the pictures of one ``BatchKey``: the key of the picture that ranks first, filled up in
   the order of rank.

Rank: time is counted in image tokens processed. A picture is due at the time it came plus the work
it has left, and the earliest due goes first. So short work overtakes long work, but only while its
own length is more than the time that the long one has already waited. A picture that was left out
of ``MAX_TURNS`` steps goes before all others.

Nothing starves: the pictures in flight are bounded, so encoding stops until others are decoded;
each picture takes part at least once in about ``MAX_TURNS`` steps plus the number of keys; and a
request whose weights find no room in memory is overtaken ``MAX_OVERTAKEN`` times at most, then
nothing is fetched or encoded before it. While weights are on their way, others go on.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from deployments.engine.memory import Stand
from deployments.engine.second_pass import second_request
from deployments.engine.share import Appetite, num_rows
from deployments.engine.state import RequestState
from deployments.types import GenerationRequest, LoraUse

MAX_ENCODES: Final = 4
MAX_TURNS: Final = 16
MAX_OVERTAKEN: Final = 8

#: Pictures in flight hold at most so many times the rows of one forward.
MAX_FILL: Final = 4

#: Of models whose work takes nothing that is known.
UNKNOWN: Final = Appetite()

#: After so many turns a limit that memory forced down is tried at twice its value again.
REGROW_TURNS: Final = 256


@dataclass(slots=True, kw_only=True)
class Waiting:
    """A request that is not yet encoded. ``came`` is on the clock of image tokens."""

    request_id: str
    weights: str | None
    loras: tuple[LoraUse, ...]
    num_bytes: int
    work: float
    came: float
    num_overtaken: int = 0
    has_fetched: bool = False


@dataclass(slots=True, eq=False, kw_only=True)
class Place:
    """One picture in flight. ``came`` counts image tokens, ``turn`` the turns of the loop;
    ``decode_tokens`` are those of the finished picture alone."""

    request_id: str
    state: RequestState
    came: float
    turn: int
    decode_tokens: float = 0.0


@dataclass(frozen=True, slots=True)
class Fetch:
    """Begin to load the weights of this request, before others due earlier whose weights find no
    room just now."""

    request_id: str
    overtaken: tuple[str, ...] = ()

    @property
    def request_ids(self) -> frozenset[str]:
        """Whom the work concerns."""
        return frozenset({self.request_id})


@dataclass(frozen=True, slots=True)
class Encode:
    """Encode this request, whose weights are there; ``overtaken`` as of ``Fetch``."""

    request_id: str
    overtaken: tuple[str, ...] = ()

    @property
    def request_ids(self) -> frozenset[str]:
        """Whom the work concerns."""
        return frozenset({self.request_id})


@dataclass(frozen=True, slots=True)
class Denoise:
    """One step of these pictures, of equal ``BatchKey``, in one forward pass."""

    places: tuple[Place, ...]

    @property
    def request_ids(self) -> frozenset[str]:
        """Whom the work concerns."""
        return frozenset(place.request_id for place in self.places)


@dataclass(frozen=True, slots=True)
class Decode:
    """Decode these pictures, of equal weights, latent shape and tiling, together.

    Or take the latents of pictures that end in them.
    """

    places: tuple[Place, ...]

    @property
    def request_ids(self) -> frozenset[str]:
        """Whom the work concerns."""
        return frozenset(place.request_id for place in self.places)


Work: TypeAlias = Fetch | Encode | Denoise | Decode

#: How a set of weights, work of so many bytes, and LoRAs stand with the pool.
Standing: TypeAlias = Callable[[str | None, int, tuple[LoraUse, ...]], Stand]


class Batcher:
    """Owns the queue of waiting requests and the pictures in flight.

    Args:
        max_rows: rows of one forward pass (pictures, when decoding).
        max_tokens: image tokens of one forward pass, over all rows. One picture always runs.
        appetite: what work takes of memory.
    """

    def __init__(self, *, max_rows: int, max_tokens: int, appetite: Appetite = UNKNOWN) -> None:
        self._max_rows = max_rows
        self._max_tokens = max_tokens
        self._appetite = appetite
        self._limits: dict[type[Work], int] = {Denoise: max_tokens, Decode: max_tokens}
        self._max_bytes: int | None = None
        self._waiting: dict[str, Waiting] = {}
        self._places: list[Place] = []
        self._clock = 0.0
        self._turn = 0
        self._num_encodes = 0

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to do."""
        return not self._waiting and not self._places

    def add(
        self,
        request_id: str,
        weights: str | None,
        work: float,
        *,
        num_bytes: int = 0,
        loras: tuple[LoraUse, ...] = (),
    ) -> None:
        """Let a request wait for its encoding.

        Args:
            work: estimates its tokens times rows times steps.
            num_bytes: what a picture of it takes beside the weights and LoRAs.
        """
        self._waiting[request_id] = Waiting(
            request_id=request_id,
            weights=weights,
            loras=loras,
            num_bytes=num_bytes,
            work=work,
            came=self._clock,
        )

    def bound(self, num_bytes: int | None) -> None:
        """Let no forward pass, and no decoding, take more of memory, but for a single picture: what
        is free at the moment. None is no bound."""
        self._max_bytes = num_bytes

    def bytes_of(self, work: Work) -> int:
        """What a forward pass, or a decoding, takes of memory."""
        if not isinstance(work, Denoise | Decode):
            return 0
        return sum(self._bytes(place, type(work)) for place in work.places)

    def admit(
        self, request_id: str, states: Sequence[RequestState], *, decode_tokens: float = 0.0
    ) -> None:
        """Turn a waiting request into its pictures; they keep the time at which it came."""
        came = self._waiting.pop(request_id).came
        self._places += [
            Place(
                request_id=request_id,
                state=state,
                came=came,
                turn=self._turn,
                decode_tokens=decode_tokens,
            )
            for state in states
        ]

    def leave(self, place: Place) -> None:
        """Take out one picture that is done."""
        self._places = [other for other in self._places if other is not place]

    def remove(self, request_id: str) -> None:
        """Take out a request with all that is left of it; unknown ones are none."""
        self._waiting.pop(request_id, None)
        self._places = [place for place in self._places if place.request_id != request_id]

    def choose(self, stand: Standing) -> Work | None:
        """What to do next; changes nothing."""
        to_step = [place for place in self._places if not place.state.is_denoised]
        to_decode = [place for place in self._places if place.state.is_denoised]
        arrival = self._next_arrival(stand)
        if isinstance(arrival, Fetch):
            return arrival
        if to_decode:
            return Decode(self._fill(to_decode, Decode))
        if arrival and not (to_step and self._num_encodes >= MAX_ENCODES):
            return arrival
        return Denoise(self._fill(to_step, Denoise)) if to_step else None

    def record(self, work: Work) -> None:
        """Move the clocks on after ``work`` has run."""
        self._turn += 1
        if isinstance(work, Encode):
            self._num_encodes += 1
        if isinstance(work, Fetch) and work.request_id in self._waiting:
            self._waiting[work.request_id].has_fetched = True
        if isinstance(work, Fetch | Encode):
            for request_id in work.overtaken:
                self._waiting[request_id].num_overtaken += 1
        if isinstance(work, Denoise):
            self._num_encodes = 0
            self._clock += sum(place.state.num_rows * place.state.tokens for place in work.places)
            for place in work.places:
                place.turn = self._turn
        if self._turn % REGROW_TURNS == 0:
            self._limits = {kind: self._grown(limit) for kind, limit in self._limits.items()}

    def shrink(self, work: Denoise | Decode) -> None:
        """Memory did not hold ``work``: let later ones have at most half its tokens."""
        kind = type(work)
        self._limits[kind] = max(1, sum(_size(place, kind)[1] for place in work.places) // 2)

    def _grown(self, limit: int) -> int:
        return min(self._max_tokens, limit * 2)

    def _next_arrival(self, stand: Standing) -> Fetch | Encode | None:
        num_rows = sum(place.state.num_rows for place in self._places)
        if self._places and num_rows >= MAX_FILL * self._max_rows:
            return None
        overtaken: list[str] = []
        ready: Encode | None = None
        is_closed = False
        for waiting in sorted(self._waiting.values(), key=lambda w: w.came + w.work):
            # NOTE: who has had weights fetched is let in all the same: the room that they take is
            # what others wait for.
            if is_closed and not waiting.has_fetched:
                continue
            match stand(waiting.weights, waiting.num_bytes, waiting.loras):
                case Stand.ABSENT:
                    return Fetch(waiting.request_id, tuple(overtaken))
                case Stand.READY:
                    ready = ready or Encode(waiting.request_id, tuple(overtaken))
                case Stand.NO_ROOM if waiting.num_overtaken >= MAX_OVERTAKEN:
                    is_closed = True
                case Stand.NO_ROOM:
                    overtaken.append(waiting.request_id)
        return ready

    def _rank(self, place: Place) -> tuple[int, float]:
        if self._turn - place.turn >= MAX_TURNS:
            return 0, place.turn
        return 1, place.came + place.state.work

    def _fill(self, places: list[Place], kind: type[Work]) -> tuple[Place, ...]:
        """Those that go together with the first in rank, as many as the limits hold."""
        ranked = sorted(places, key=self._rank)
        first, chosen = ranked[0], [ranked[0]]
        rows, tokens = _size(first, kind)
        taken, limit = self._bytes(first, kind), self._limits[kind]
        for place in ranked[1:]:
            if _group(place, kind) != _group(first, kind):
                continue
            more_rows, more_tokens = _size(place, kind)
            if rows + more_rows > self._max_rows or tokens + more_tokens > limit:
                continue
            more = self._bytes(place, kind)
            if self._max_bytes is not None and taken + more > self._max_bytes:
                continue
            rows, tokens, taken = rows + more_rows, tokens + more_tokens, taken + more
            chosen.append(place)
        return tuple(chosen)

    def _bytes(self, place: Place, kind: type[Work]) -> int:
        """What a picture takes of memory."""
        state = place.state
        if kind is Denoise:
            tokens = state.tokens + state.prompt_tokens
            return self._appetite.to_denoise(tokens, state.num_rows)
        if state.request.ends_in_latents:
            return 0
        return self._appetite.to_decode(place.decode_tokens)


def _group(place: Place, kind: type[Work]) -> Hashable:
    """Equal for pictures that may go together."""
    if kind is Denoise:
        return place.state.batch_key
    key = place.state.batch_key
    is_for_latents = place.state.request.ends_in_latents
    return key.weights, key.is_tiling, is_for_latents, tuple(place.state.latents.shape)


def _size(place: Place, kind: type[Work]) -> tuple[int, int]:
    """Rows and image tokens that a picture takes of the limits."""
    rows = place.state.num_rows if kind is Denoise else 1
    return rows, rows * place.state.tokens


def estimate(request: GenerationRequest, tokens_per_pixel: float) -> float:
    """The work of a request that is not encoded: timesteps times rows times image tokens."""
    second = second_request(request)
    later = 0.0 if second is None else _estimate(second, True, tokens_per_pixel)
    return _estimate(request, bool(request.images), tokens_per_pixel) + later


def _estimate(request: GenerationRequest, is_partial: bool, tokens_per_pixel: float) -> float:
    """The work of one pass; a partial one walks ``strength`` of its steps."""
    params = request.params
    steps = params.num_inference_steps or 1
    if request.task != "generate":
        steps = 0
    elif request.latents is not None:
        steps = params.num_walked_steps
    elif is_partial and params.strength is not None:
        steps = max(1, round(steps * params.strength))
    pixels = (params.width or 512) * (params.height or 512)
    return params.num_images * steps * num_rows(request) * pixels * tokens_per_pixel
