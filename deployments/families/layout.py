"""Layouts: which tensors of a checkpoint's files belong to which module, under which names.

Accepted are diffusers' folders, and single files: a UNet alone under diffusers' names; several
modules, each name with its module's before it (``unet.``, ``text_encoder.``); and the original
Stable Diffusion names (``model.diffusion_model.``), which diffusers itself converts.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from diffusers.loaders.single_file_utils import (
    convert_ldm_clip_checkpoint,
    convert_ldm_unet_checkpoint,
    convert_open_clip_checkpoint,
)

if TYPE_CHECKING:
    from torch import Tensor

#: What the original names of the UNet begin with.
UNET_PREFIX: Final = "model.diffusion_model."
#: Those of the text encoders: of Stable Diffusion 1, and of XL's first and second.
CLIP_PREFIXES: Final = ("cond_stage_model.transformer.", "conditioner.embedders.0.transformer.")
OPEN_CLIP_PREFIX: Final = "conditioner.embedders.1.model."
#: The most blocks of a UNet under its original names; diffusers goes over all tensors for each.
MAX_BLOCKS: Final = 256
#: A name that only an unprefixed UNet has.
UNET_SIGN: Final = "conv_in.weight"
#: Files of one module in a diffusers folder, the first kind that is there.
FILES: Final = (
    re.compile(r"(diffusion_pytorch_)?model\.safetensors"),
    re.compile(r"(diffusion_pytorch_)?model-\d+-of-\d+\.safetensors"),
    re.compile(r"(diffusion_pytorch_)?model\.fp16\.safetensors"),
    re.compile(r"(diffusion_pytorch_)?model\.fp16-\d+-of-\d+\.safetensors"),
)


class Misfit(ValueError):
    """What a checkpoint holds does not fit the base model, or may not be accepted."""


@dataclass(frozen=True, slots=True)
class Layout:
    """How the single files of a family's checkpoints are laid out.

    Attributes:
        wanted: those of the tensors' names, beside the base's modules, that ``sort`` has a use for.
        sort: a file's tensors by module, under the modules' own names; raises ``Misfit``.
    """

    wanted: Callable[[Iterable[str], Mapping[str, Any]], list[str]]
    sort: Callable[[dict[str, Tensor], Mapping[str, Any]], dict[str, dict[str, Tensor]]]


def files_of(part: str, names: Iterable[str]) -> Sequence[str]:
    """Those of a diffusers folder's files (relative names) that hold a module; maybe none."""
    own = sorted(name for name in names if name.startswith(f"{part}/"))
    for kind in FILES:
        if found := [name for name in own if kind.fullmatch(name.removeprefix(f"{part}/"))]:
            return found
    return ()


def wanted(names: Iterable[str], modules: Mapping[str, Any]) -> list[str]:
    """Those names of a single file's tensors that ``sort_tensors`` has a use for."""
    prefixes = (UNET_PREFIX, *CLIP_PREFIXES, OPEN_CLIP_PREFIX)
    found = list(names)
    if any(name.startswith(UNET_PREFIX) for name in found):
        return [name for name in found if name.startswith(prefixes)]
    others = tuple(f"{other}." for other in ("vae", "safety_checker") if other not in modules)
    return [name for name in found if not name.startswith(others)]


def sort_tensors(
    tensors: dict[str, Tensor], modules: Mapping[str, Any]
) -> dict[str, dict[str, Tensor]]:
    """A single file's tensors by module, under the modules' own names.

    Args:
        modules: the base's, by their names, such as ``unet``.
    Raises:
        Misfit: the file holds no UNet that could be found, or tensors of unknown modules.
    """
    if any(name.startswith(UNET_PREFIX) for name in tensors):
        return _from_original(tensors, modules)
    if UNET_SIGN in tensors:
        return {"unet": tensors}
    sorted_out: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        part, _, own = name.partition(".")
        if part not in modules:
            raise Misfit(f"{name} belongs to no module of this model")
        sorted_out.setdefault(part, {})[own] = tensor
    if "unet" not in sorted_out:
        raise Misfit("there is no UNet in it")
    return sorted_out


#: Of Stable Diffusion and SDXL.
STABLE_DIFFUSION: Final = Layout(wanted, sort_tensors)


def renamed(tensors: Mapping[str, Tensor], known: Iterable[str]) -> dict[str, Tensor]:
    """One module's tensors under the names that transformers has for them today."""
    names = set(known)
    found = {}
    for name, tensor in tensors.items():
        if name.endswith("position_ids") and name not in names:
            continue  # old checkpoints keep the numbers 0, 1, 2, ...
        short = name.removeprefix("text_model.")
        own = next((n for n in (name, short, f"text_model.{name}") if n in names), name)
        found[own] = tensor
    return found


def _from_original(
    tensors: dict[str, Tensor], modules: Mapping[str, Any]
) -> dict[str, dict[str, Tensor]]:
    blocks = {tuple(name.removeprefix(UNET_PREFIX).split(".")[:2]) for name in tensors}
    if len(blocks) > MAX_BLOCKS:
        raise Misfit(f"it has {len(blocks)} blocks; accepted: at most {MAX_BLOCKS}")
    config = {**modules["unet"].config}
    config.setdefault("class_embed_type", None)
    found = {"unet": convert_ldm_unet_checkpoint(dict(tensors), config)}
    clip = {name: t for name, t in tensors.items() if name.startswith(CLIP_PREFIXES)}
    if clip and "text_encoder" in modules:
        found["text_encoder"] = convert_ldm_clip_checkpoint(clip)
    if "text_encoder_2" in modules and any(n.startswith(OPEN_CLIP_PREFIX) for n in tensors):
        found["text_encoder_2"] = convert_open_clip_checkpoint(
            modules["text_encoder_2"], tensors, prefix=OPEN_CLIP_PREFIX
        )
    return found
