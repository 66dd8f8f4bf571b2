"""Personal: modules of a base model with an owner's weights in place of the base's.

A checkpoint is compared with the base by the headers of its safetensors files, on a meta device;
pickles are never opened. The modules are built from the base's structure, since the libraries' own
ways to build them change settings of the whole process for a moment, in which others draw.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypeVar

import torch
from huggingface_hub import HfApi, snapshot_download
from safetensors import SafetensorError, safe_open
from torch.nn import Parameter

from deployments.errors import GenerationFailed, InvalidRequest
from deployments.families.hub import hub_asked, parse_hub_id
from deployments.families.layout import STABLE_DIFFUSION, Layout, Misfit, files_of, renamed
from deployments.families.transfer import PinnedCopies, move
from deployments.families.upload import upload_file
from deployments.types import CheckedWeights

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module

    from deployments.types import WeightsSource

logger = logging.getLogger(__name__)

#: Module -> name of a tensor in it -> the tensor.
Tensors: TypeAlias = dict[str, dict[str, "Tensor"]]
#: Those of a file's tensors, by their names, that are of use.
Choose: TypeAlias = Callable[[list[str]], list[str]]
#: What names a file to who reads it.
F = TypeVar("F")

#: Number formats that a checkpoint may have, as safetensors name them.
DTYPES: Final[Mapping[str, torch.dtype]] = {
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F32": torch.float32,
}
#: The most tensors of one file; whole SDXL has 2500. What sorts them takes its time for each.
MAX_TENSORS: Final = 16_384
#: What reading a damaged checkpoint, or converting a strange one, may raise.
BROKEN: Final = (
    SafetensorError,
    OSError,
    ValueError,
    KeyError,
    IndexError,
    AttributeError,
    TypeError,
    RuntimeError,
)


class PersonalModules:
    """Reads owners' weights into modules like the base's. Any thread may call.

    Args:
        modules: the base's modules that weights may replace, by their names; they have the first
            one always.
        max_copy_bytes: the most page-locked memory for copies that make the way back to a GPU
            short; on a CPU there are none.
        layout: of the family's single files.
    """

    def __init__(
        self,
        modules: Mapping[str, Any],
        max_copy_bytes: int,
        layout: Layout = STABLE_DIFFUSION,
    ) -> None:
        self._layout = layout
        self._moulds = {part: _mould(module) for part, module in modules.items()}
        first = next(iter(modules.values()))
        self._device: torch.device = first.device
        self._dtypes = {part: module.dtype for part, module in modules.items()}
        self.copies = PinnedCopies(max_copy_bytes if self._device.type == "cuda" else 0)

    @property
    def num_bytes(self) -> int:
        """Bytes of a set that replaces every module."""
        return sum(
            tensor.numel() * self._dtypes[part].itemsize
            for part, mould in self._moulds.items()
            for tensor in mould.state_dict().values()
        )

    def check(self, source: WeightsSource, max_bytes: int) -> CheckedWeights:
        """What the source holds; see ``Family.check_weights``."""
        try:
            if source.kind == "hub":
                return self._check_hub(source, max_bytes)
            with _opened(source, list(self._moulds), is_header_enough=True) as files:
                num_bytes = sum(path.stat().st_size for path in files.values())
                _check_size(num_bytes, max_bytes)
                tensors = self._sorted(files, _outline)
        except Misfit as error:
            raise InvalidRequest(f"the weights do not fit: {error}", param="weights") from error
        except BROKEN as error:
            logger.warning("weights %s cannot be read: %r", source.id, error)
            raise InvalidRequest(
                "the weights cannot be read; accepted: safetensors of this model's modules",
                param="weights",
            ) from error
        return CheckedWeights(location=source.location, parts=tuple(tensors), num_bytes=num_bytes)

    def read(self, source: WeightsSource) -> dict[str, Module]:
        """The modules that the source has weights of, on the base's device, in its dtypes.

        Raises ``GenerationFailed`` when it cannot be read or does not fit.
        """
        tensors = self.copies.get(source.id)
        if tensors is None:
            tensors = self.copies.put(source.id, self._read(source))
        placed = move(tensors, self._device)
        return {part: _cast(self._moulds[part], own) for part, own in placed.items()}

    def _read(self, source: WeightsSource) -> Tensors:
        try:
            with _opened(source, list(self._moulds)) as files:
                tensors = self._sorted(files, _load)
                # NOTE: copies, for what was loaded is the file itself, mapped: it would change,
                # or take the process down, when the file does.
                return {
                    part: {name: t.to(self._dtypes[part], copy=True) for name, t in own.items()}
                    for part, own in tensors.items()
                }
        except Misfit as error:
            message = f"weights {source.id!r} do not fit this model: {error}"
            raise GenerationFailed(message) from error
        except BROKEN as error:
            logger.warning("weights %s cannot be read: %r", source.id, error)
            raise GenerationFailed(f"weights {source.id!r} cannot be read") from error

    def _sorted(
        self, files: Mapping[str, F], read: Callable[[F, Choose], dict[str, Tensor]]
    ) -> Tensors:
        """A checkpoint's tensors by module. Raises ``Misfit`` unless they are the base's."""
        if list(files) == [""]:
            whole = read(files[""], lambda names: self._layout.wanted(names, self._moulds))
            found = self._layout.sort(whole, self._moulds)
        else:
            found = {}
            for name, path in files.items():
                found.setdefault(name.partition("/")[0], {}).update(read(path, list))
        return {
            part: _fitting(part, found[part], self._moulds[part])
            for part in self._moulds
            if part in found
        }

    def _check_hub(self, source: WeightsSource, max_bytes: int) -> CheckedWeights:
        """What a hub id holds, at the commit that it means now; only headers are fetched."""
        api = HfApi()
        repository, file, revision = parse_hub_id(source.location)
        with hub_asked():
            found = api.model_info(
                repository, revision=revision or None, files_metadata=True, timeout=20
            )
        if file:
            raise Misfit("one file of the hub's is accepted when it is a LoRA")
        sizes = {one.rfilename: one.size or 0 for one in found.siblings or ()}
        files = _files_of_folder(sizes, list(self._moulds))
        num_bytes = sum(sizes[name] for name in files)
        _check_size(num_bytes, max_bytes)

        def outline(name: str, _: object) -> dict[str, Tensor]:
            with hub_asked():
                told = api.parse_safetensors_file_metadata(repository, name, revision=found.sha)
            return {n: _empty(n, t.shape, t.dtype) for n, t in told.tensors.items()}

        parts = self._sorted({name: name for name in files}, outline)
        location = f"{repository}@{found.sha}"
        return CheckedWeights(location=location, parts=tuple(parts), num_bytes=num_bytes)


@contextmanager
def _opened(
    source: WeightsSource, parts: Sequence[str], *, is_header_enough: bool = False
) -> Iterator[dict[str, Path]]:
    """The safetensors files of a source by their names in its folder; a single file's is empty."""
    if source.kind == "upload":
        with upload_file(source.location, is_header_enough=is_header_enough) as path:
            yield {"": path}
        return
    if source.kind == "hub":
        yield _of_folder(Path(_downloaded(source.location, parts)), parts)
        return
    path = Path(source.location)
    if not path.exists():
        raise FileNotFoundError("the checkpoint is gone")
    yield {"": path} if path.is_file() else _of_folder(path, parts)


def _downloaded(location: str, parts: Sequence[str]) -> str:
    repository, _, revision = parse_hub_id(location)
    with hub_asked():
        return snapshot_download(
            repository,
            revision=revision or None,
            allow_patterns=[f"{part}/*.safetensors" for part in parts],
        )


def _of_folder(folder: Path, parts: Sequence[str]) -> dict[str, Path]:
    names = [path.relative_to(folder).as_posix() for path in folder.glob("*/*.safetensors")]
    return {name: folder / name for name in _files_of_folder(names, parts)}


def _files_of_folder(names: Iterable[str], parts: Sequence[str]) -> list[str]:
    """Those of a folder's files that hold the modules. Raises ``Misfit`` without the first."""
    known = list(names)
    files = [name for part in parts for name in files_of(part, known)]
    if not any(name.startswith(f"{parts[0]}/") for name in files):
        raise Misfit(f"there is no {parts[0]} in it")
    return files


def _check_size(num_bytes: int, max_bytes: int) -> None:
    if num_bytes > max_bytes:
        raise Misfit(f"they have {num_bytes} bytes; accepted: at most {max_bytes}")


def _outline(path: Path, choose: Choose) -> dict[str, Tensor]:
    """The chosen tensors of a file, without their numbers."""
    with safe_open(path, "pt") as file:
        chosen = {name: file.get_slice(name) for name in choose(_names(file))}
        return {n: _empty(n, t.get_shape(), t.get_dtype()) for n, t in chosen.items()}


def _empty(name: str, shape: Sequence[int], dtype: str) -> Tensor:
    """A tensor without numbers. Raises ``Misfit`` for formats that no base is trained in."""
    if dtype not in DTYPES:
        raise Misfit(f"{name} is {dtype}; accepted: {', '.join(DTYPES)}")
    return torch.empty(tuple(shape), dtype=DTYPES[dtype], device="meta")


def _load(path: Path, choose: Choose) -> dict[str, Tensor]:
    with safe_open(path, "pt") as file:
        return {name: file.get_tensor(name) for name in choose(_names(file))}


def _names(file: Any) -> list[str]:
    """Names of an open file's tensors. Raises ``Misfit`` when they are too many."""
    names = list(file.keys())
    if len(names) > MAX_TENSORS:
        raise Misfit(f"it has {len(names)} tensors; accepted: at most {MAX_TENSORS}")
    return names


def _fitting(part: str, tensors: Mapping[str, Tensor], mould: Module) -> dict[str, Tensor]:
    """The tensors under the module's names. Raises ``Misfit`` unless they are all of it."""
    ours = {name: tuple(tensor.shape) for name, tensor in mould.state_dict().items()}
    found = renamed(tensors, ours)
    theirs = {name: tuple(tensor.shape) for name, tensor in found.items()}
    for name in sorted(theirs.keys() | ours.keys()):
        if theirs.get(name) != ours.get(name):
            raise Misfit(
                f"{part} has {name} of shape {theirs.get(name)}, the base has {ours.get(name)}"
            )
    return found


def _mould(module: Any) -> Any:
    """The module's structure, its state on a meta device."""
    state = dict(module.named_parameters()) | dict(module.named_buffers())
    kept = module.state_dict().keys()
    memo = {
        id(tensor): _like(tensor, torch.empty_like(tensor, device="meta"))
        for name, tensor in state.items()
        if name in kept
    }
    return copy.deepcopy(module, memo)


def _cast(mould: Any, tensors: Mapping[str, Tensor]) -> Any:
    """A module of the mould's structure with these tensors."""
    state = dict(mould.named_parameters()) | dict(mould.named_buffers())
    memo = {id(state[name]): _like(state[name], tensor) for name, tensor in tensors.items()}
    return copy.deepcopy(mould, memo)


def _like(tensor: Tensor, other: Tensor) -> Tensor:
    return Parameter(other, requires_grad=False) if isinstance(tensor, Parameter) else other
