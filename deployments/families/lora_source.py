"""Where a model's LoRAs come from: files of its configuration, of a folder, or of the hub."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

from huggingface_hub import hf_hub_download, list_repo_files

from deployments.config import PROJECT_ROOT
from deployments.families.lora import Loras
from deployments.families.lora_file import Convert

if TYPE_CHECKING:
    import torch
    from torch.nn import Module

    from deployments.config import ModelConfig

_EXTENSION: Final = ".safetensors"


def open_loras(
    config: ModelConfig,
    modules: Mapping[str, Module],
    convert: Convert,
    device: torch.device | None = None,
) -> Loras:
    """The LoRAs of ``config.loras`` and of ``config.lora_folder``; a name in both is the former's.

    ``device`` is where the modules compute when that is not where they are.
    Raises ``ValueError`` naming a LoRA that is not there or does not fit; those of the folder that
    do not fit are left out, since many models may share one folder.
    """
    named = {name: _find(name, source) for name, source in config.loras.items()}
    listed = {} if config.lora_folder is None else _list(config.lora_folder)
    return Loras(
        {**listed, **named},
        modules,
        convert,
        max_bytes=config.max_lora_bytes,
        fixed=config.fixed_loras,
        optional=listed.keys() - named.keys(),
        device=device,
    )


def _find(name: str, source: str) -> Path:
    """A file, the only one of a folder, or the hub's (``owner/repository[/file]``)."""
    for base in (Path.cwd(), PROJECT_ROOT):
        path = base / source
        if path.is_dir():
            return path / _only(name, [found.name for found in path.glob(f"*{_EXTENSION}")])
        if path.is_file():
            return _only_safetensors(name, path)
    owner, _, rest = source.partition("/")
    repository, _, file = rest.partition("/")
    if not repository or Path(source).is_absolute():
        raise ValueError(f"LoRA {name!r}: there is no file {source!r}")
    if not file:
        file = _only(name, [f for f in list_repo_files(f"{owner}/{repository}") if _is_top(f)])
    return _only_safetensors(name, Path(hf_hub_download(f"{owner}/{repository}", file)))


def _list(folder: str) -> dict[str, Path]:
    """Every safetensors file below a folder, by its path in it without the extension."""
    for base in (Path.cwd(), PROJECT_ROOT):
        root = base / folder
        if root.is_dir():
            return {
                path.relative_to(root).with_suffix("").as_posix(): path
                for path in sorted(root.rglob(f"*{_EXTENSION}"))
            }
    raise ValueError(f"there is no folder {folder!r} of LoRAs")


def _only(name: str, files: list[str]) -> str:
    if len(files) == 1:
        return files[0]
    found = ", ".join(sorted(files)) or "none"
    raise ValueError(f"LoRA {name!r} needs the name of one {_EXTENSION} file; there are: {found}")


def _only_safetensors(name: str, path: Path) -> Path:
    if path.suffix != _EXTENSION:
        raise ValueError(f"LoRA {name!r}: {path.name!r} is no {_EXTENSION} file")
    return path


def _is_top(file: str) -> bool:
    return file.endswith(_EXTENSION) and "/" not in file
