"""Places of LoRAs: which one file a configuration, or an owner's source, means, on this disk."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from huggingface_hub import HfApi, hf_hub_download, list_repo_files

from deployments.config import PROJECT_ROOT
from deployments.families.hub import hub_asked, parse_hub_id
from deployments.families.lora_file import read_names
from deployments.families.upload import upload_file

if TYPE_CHECKING:
    from deployments.types import WeightsSource

EXTENSION: Final = ".safetensors"


def find_files(loras: Mapping[str, str], folder: str | None) -> tuple[dict[str, Path], Path | None]:
    """Where the files of a configuration's ``loras`` are, and its ``lora_folder``.

    Raises ``ValueError`` naming what is not there.
    """
    named = {name: _find(name, source) for name, source in loras.items()}
    return named, None if folder is None else _find_folder(folder)


def _find(name: str, source: str) -> Path:
    """A file, the only one of a folder, or the hub's (``owner/repository[/file]``)."""
    for base in (Path.cwd(), PROJECT_ROOT):
        path = base / source
        if path.is_dir():
            return path / _only_of(name, [found.name for found in path.glob(f"*{EXTENSION}")])
        if path.is_file():
            return _only_safetensors(name, path)
    owner, _, rest = source.partition("/")
    repository, _, file = rest.partition("/")
    if not repository or Path(source).is_absolute():
        raise ValueError(f"LoRA {name!r}: there is no file {source!r}")
    if not file:
        file = _only_of(name, [f for f in list_repo_files(f"{owner}/{repository}") if _is_top(f)])
    return _only_safetensors(name, Path(hf_hub_download(f"{owner}/{repository}", file)))


def _find_folder(folder: str) -> Path:
    for base in (Path.cwd(), PROJECT_ROOT):
        if (base / folder).is_dir():
            return base / folder
    raise ValueError(f"there is no folder {folder!r} of LoRAs")


def _only_of(name: str, files: list[str]) -> str:
    if len(files) == 1:
        return files[0]
    found = ", ".join(sorted(files)) or "none"
    raise ValueError(f"LoRA {name!r} needs the name of one {EXTENSION} file; there are: {found}")


def _only_safetensors(name: str, path: Path) -> Path:
    if path.suffix != EXTENSION:
        raise ValueError(f"LoRA {name!r}: {path.name!r} is no {EXTENSION} file")
    return path


def _is_top(file: str) -> bool:
    return file.endswith(EXTENSION) and "/" not in file


def located(source: WeightsSource, max_bytes: int) -> WeightsSource | None:
    """The source with the place of its one file, on the hub at the commit that its id means now;
    None when it is no one file, as checkpoints in folders.

    Raises ``OSError`` when it is out of reach, ``ValueError`` for a larger file of the hub's.
    """
    if source.kind == "upload":
        return source
    if source.kind == "hub":
        return _located_in_hub(source, max_bytes)
    path = Path(source.location)
    if path.is_file():
        return source
    found = _only([one.name for one in path.glob(f"*{EXTENSION}")])
    return None if found is None else replace(source, location=str(path / found))


def names_in(source: WeightsSource) -> list[str]:
    """Names of the tensors of a located source. Raises ``ValueError`` and ``OSError``."""
    if source.kind != "hub":
        with opened(source, is_header_enough=True) as path:
            return read_names(path)
    repository, file, revision = parse_hub_id(source.location)
    with hub_asked():
        told = HfApi().parse_safetensors_file_metadata(repository, file, revision=revision)
    return list(told.tensors)


@contextmanager
def opened(source: WeightsSource, *, is_header_enough: bool = False) -> Iterator[Path]:
    """The file of a located source, as long as the context is open. Raises ``OSError``.

    ``is_header_enough`` is as of ``upload_file``.
    """
    if source.kind == "upload":
        with upload_file(source.location, is_header_enough=is_header_enough) as path:
            yield path
    elif source.kind == "path":
        yield Path(source.location)
    else:
        repository, file, revision = parse_hub_id(source.location)
        with hub_asked():
            path = Path(hf_hub_download(repository, file, revision=revision))
        yield path


def _located_in_hub(source: WeightsSource, max_bytes: int) -> WeightsSource | None:
    repository, file, revision = parse_hub_id(source.location)
    with hub_asked():
        told = HfApi().model_info(repository, revision=revision, files_metadata=True, timeout=20)
    sizes = {one.rfilename: one.size or 0 for one in told.siblings or ()}
    found = file if file in sizes else _only([] if file else sizes)
    if found is None:
        return None
    if sizes[found] > max_bytes:
        raise ValueError(f"it has {sizes[found]} bytes; accepted: at most {max_bytes}")
    return replace(source, location=f"{repository}/{found}@{told.sha}")


def _only(names: list[str] | dict[str, int]) -> str | None:
    """The only safetensors file that is in no folder."""
    files = [name for name in names if name.endswith(EXTENSION) and "/" not in name]
    return files[0] if len(files) == 1 else None
