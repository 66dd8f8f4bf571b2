"""Layout of Qwen-Image's single files: a transformer under diffusers' names, whatever its prefix.

The original names are the same ones, with ComfyUI's prefix before them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final

from deployments.families.layout import Layout, Misfit

if TYPE_CHECKING:
    from torch import Tensor

#: What may stand before the names of a transformer's tensors; the last is nothing.
PREFIXES: Final = ("model.diffusion_model.", "diffusion_model.", "transformer.", "")
#: Its largest part, that only a transformer has.
SIGN: Final = "transformer_blocks."


def wanted(names: Iterable[str], _modules: Mapping[str, Any]) -> list[str]:
    """Those names of a single file's tensors that are of its transformer; maybe none."""
    known = list(names)
    prefix = _prefix(known)
    return [] if prefix is None else [name for name in known if name.startswith(prefix)]


def sort_tensors(
    tensors: dict[str, Tensor], _modules: Mapping[str, Any]
) -> dict[str, dict[str, Tensor]]:
    """The transformer's tensors under its own names. Raises ``Misfit`` when there is none."""
    prefix = _prefix(tensors)
    if prefix is None:
        raise Misfit("there is no transformer in it")
    return {"transformer": {name.removeprefix(prefix): t for name, t in tensors.items()}}


def _prefix(names: Iterable[str]) -> str | None:
    known = list(names)
    for prefix in PREFIXES:
        if any(name.startswith(prefix + SIGN) for name in known):
            return prefix
    return None


#: Of Qwen-Image and Qwen-Image-Edit.
QWEN_IMAGE: Final = Layout(wanted, sort_tensors)
