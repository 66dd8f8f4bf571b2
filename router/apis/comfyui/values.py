"""The values that links between nodes carry. Small and frozen; pixels are numpy, never torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from deployments.types import Latents, LoraUse, PromptPart
from router.apis.comfyui import png

#: Pixels of one picture: (height, width, 3 or 4), uint8.
Pixels: TypeAlias = NDArray[np.uint8]

#: What asks for a seed of any value, another in every graph.
ANY_SEED: Final = -1
#: The most pictures that one value may hold.
MAX_BATCH: Final = 256
#: What takes less memory is not counted.
SMALL_BYTES: Final = 64 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A MODEL: a hosted model.

    Attributes:
        id: its ``Variant.name``: its card's id, or the name of personal weights.
        shift: the flow schedule's shift, where a node set it.
        loras: what is added to its denoiser alone, the first one first.
    """

    id: str
    shift: float | None = None
    loras: tuple[LoraUse, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Clip:
    """A CLIP: the text encoder of a hosted model, and which of its layers is used.

    Attributes:
        model: as the ``id`` of a ``Model``.
        skip: counted from the last, which is 1; None is the model's own.
        loras: what is added to it.
    """

    model: str
    skip: int | None = None
    loras: tuple[LoraUse, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Vae:
    """A VAE: the autoencoder of a hosted model, by its card's id; personal weights bring none."""

    model: str


class Images:
    """An IMAGE: pictures of equal size, at least one.

    They come as pixels or as PNG files, and the other is made when it is asked for: so saving what
    a model drew costs neither decoding nor encoding.
    """

    __slots__ = ("_buffers", "_buffers_of", "_encoded", "_pixels")

    def __init__(self, pixels: Sequence[Pixels] = (), encoded: Sequence[bytes] = ()) -> None:
        self._pixels = tuple(pixels)
        self._encoded = tuple(encoded)
        self._buffers: tuple[Pixels | bytes, ...] = ()
        self._buffers_of = (False, False)

    def __len__(self) -> int:
        return len(self._pixels or self._encoded)

    @property
    def pixels(self) -> tuple[Pixels, ...]:
        """(height, width, 3 or 4) of each. Decoding takes its time: ask for them in a thread."""
        if not self._pixels:
            self._pixels = tuple(png.decode(data) for data in self._encoded)
        return self._pixels

    @property
    def encoded(self) -> tuple[bytes, ...]:
        """A PNG file of each. Encoding takes its time: ask for them in a thread."""
        if not self._encoded:
            self._encoded = tuple(png.encode(pixels) for pixels in self._pixels)
        return self._encoded

    @property
    def width(self) -> int:
        """Pixels from left to right."""
        return self._size()[0]

    @property
    def height(self) -> int:
        """Pixels from top to bottom."""
        return self._size()[1]

    @property
    def has_alpha(self) -> bool:
        """Whether pixels have a fourth channel."""
        if self._pixels:
            return bool(self._pixels[0].shape[2] == 4)
        return png.has_alpha(self._encoded[0])

    @property
    def num_bytes(self) -> int:
        """What they take at most, as pixels and as files at once."""
        width, height = self._size()
        return len(self) * width * height * 8

    @property
    def buffers(self) -> tuple[Pixels | bytes, ...]:
        """The arrays and files that they hold at present, each once; none of small pictures."""
        held = bool(self._pixels), bool(self._encoded)
        if self._buffers_of != held:
            is_small = self.width * self.height * 4 < SMALL_BYTES
            those = () if is_small else self._pixels + self._encoded
            self._buffers = tuple({id(one): one for one in those}.values())
            self._buffers_of = held
        return self._buffers

    def _size(self) -> tuple[int, int]:
        if self._pixels:
            height, width = self._pixels[0].shape[:2]
            return width, height
        return png.size_of(self._encoded[0])


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Masks:
    """A MASK: (count, height, width), float32, 0..1; 1 is where a picture is to be re-drawn."""

    values: NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Conditioning:
    """A CONDITIONING: texts with their weights, and the pictures that an edit refers to.

    Attributes:
        model: the ``Variant.name`` of the model whose text encoder is to read the texts.
        references: PNG files.
    """

    model: str
    parts: tuple[PromptPart, ...]
    references: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Latent:
    """A LATENT: latents of pictures of equal size, and how they are to be drawn over.

    Attributes:
        pictures: latents of one picture each, so that batches are taken apart and joined here
            while the arrays stay where they are.
        noise_indices: k of each picture, whose noise is that of seed + k; empty is 0, 1, 2, ...
        model: id of the model that made them; "" for zeros.
        mask: where they may be re-drawn; None is everywhere.
        source: the PNG files that they were encoded from, one each, for models that edit; or empty.
        is_noisy: whether they ended before their schedule did and keep its noise.
    """

    pictures: tuple[Latents, ...]
    noise_indices: tuple[int, ...] = ()
    model: str = ""
    mask: Masks | None = None
    source: tuple[bytes, ...] = ()
    is_noisy: bool = False

    @property
    def width(self) -> int:
        """Pixels from left to right, once decoded."""
        return self.pictures[0].width

    @property
    def height(self) -> int:
        """Pixels from top to bottom, once decoded."""
        return self.pictures[0].height

    @property
    def indices(self) -> tuple[int, ...]:
        """k of each picture, told or counted."""
        return self.noise_indices or tuple(range(len(self.pictures)))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Shown:
    """What an output node leaves behind: the ``output`` of its ``executed`` message."""

    output: dict[str, list[Any]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Several:
    """A list on one link: whoever takes it runs once for each of its values. Never empty."""

    values: tuple[Any, ...]


def is_remote(value: Any) -> bool:
    """Whether something of a value lies with a model's host, and is lost when that dies."""
    if isinstance(value, Several):
        return any(map(is_remote, value.values))
    return isinstance(value, Latent) and any(one.value is not None for one in value.pictures)


def num_bytes_of(value: Any) -> int:
    """What keeping a value costs, in bytes, wherever it lies."""
    match value:
        case Several():
            return sum(map(num_bytes_of, value.values))
        case Images():
            return value.num_bytes
        case Masks():
            return int(value.values.nbytes)
        case Conditioning():
            return sum(map(len, value.references)) + sum(len(part.text) for part in value.parts)
        case Latent():
            masks = 0 if value.mask is None else int(value.mask.values.nbytes)
            arrays = sum(picture.num_bytes for picture in value.pictures)
            return arrays + masks + sum(map(len, value.source))
        case str() | bytes():
            return len(value)
        case _:
            return 0


def buffers_of(value: Any) -> Iterator[tuple[int, int]]:
    """Each piece of memory that a value holds at present: what tells it from others, its bytes.

    Those below ``SMALL_BYTES`` are left out: there is no end to them, and they do no harm.
    """
    for buffer in _buffers(value):
        if isinstance(buffer, np.ndarray):
            whole = buffer
            while isinstance(whole.base, np.ndarray):  # a part of an array keeps all of it
                whole = whole.base
            place, num_bytes = id(whole), int(whole.nbytes)
        elif isinstance(buffer, Latents):
            place, num_bytes = id(buffer.value), buffer.num_bytes
        else:
            place, num_bytes = id(buffer), len(buffer)
        if num_bytes >= SMALL_BYTES:
            yield place, num_bytes


def _buffers(value: Any) -> Iterator[NDArray[Any] | bytes | Latents]:
    match value:
        case Images():
            yield from value.buffers
        case Masks():
            yield value.values
        case Conditioning():
            yield from value.references
        case Latent():
            yield from value.pictures
            yield from value.source
            yield from _buffers(value.mask)
        case Several():
            yield from _buffers(value.values)
        case tuple() | list():
            for part in list[Any](value):
                yield from _buffers(part)
