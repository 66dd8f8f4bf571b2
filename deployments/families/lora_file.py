"""LoRA files: which layers one adapts and by what factors, out of the forms that are shared.

Those are diffusers' and PEFT's (``unet.….to_q.lora_A.weight``) and that of kohya's trainer, which
A1111 and ComfyUI users have (``lora_unet_…_to_q.lora_down.weight`` and ``.alpha``).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import torch
from diffusers.loaders import QwenImageLoraLoaderMixin, StableDiffusionLoraLoaderMixin
from diffusers.utils import convert_state_dict_to_peft, convert_unet_state_dict_to_peft
from diffusers.utils.state_dict_utils import StateDictType
from safetensors import SafetensorError, safe_open
from torch.nn import Conv2d, Linear

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module

#: Where diffusers keeps PEFT's configuration in a file's metadata.
_CONFIGURATION: Final = "lora_adapter_metadata"

#: What stands in the names of a LoRA's tensors, and of no module's own.
_MARKS: Final = (
    *(".lora_A.", ".lora_B.", ".lora_down.", ".lora_up.", ".lora.down.", ".lora.up."),
    *("_lora.down.", "_lora.up."),
)

#: The most tensors of a file; three for every layer of SDXL are 3200. The libraries' tables take
#: time that grows with their square.
MAX_TENSORS: Final = 4096

#: Formats of numbers that a LoRA may have, as safetensors name them.
_FORMATS: Final = frozenset({"F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2"})

#: What stands in the names of tensors that mean another kind of adapter.
_OTHER_KINDS: Final = {
    "hada_": "LoHa",
    "lokr_": "LoKr",
    "lora_mid": "a LoRA of three factors",
    "dora_scale": "DoRA",
    "lora_magnitude_vector": "DoRA",
    "oft_": "OFT",
    "ia3": "IA3",
}


#: What the libraries' tables raise on names and shapes that nobody thought of.
_STRANGE: Final = (
    *(LookupError, ValueError, AttributeError, TypeError),
    *(RuntimeError, ArithmeticError, AssertionError),
)


@dataclass(frozen=True, slots=True, eq=False)
class LowRank:
    """What is added to one layer's output: ``up(down(input))``, the file's alpha already in ``up``.

    Attributes:
        down: (rank, inputs), of a convolution (rank, inputs, height, width).
        up: (outputs, rank), of a convolution (outputs, rank, 1, 1).
    """

    down: Tensor
    up: Tensor

    @property
    def num_bytes(self) -> int:
        """Bytes of both factors."""
        return sum(t.numel() * t.element_size() for t in (self.down, self.up))


#: Part of a pipeline (``unet``, ``text_encoder``, ...) -> name of a layer in it -> what is added.
Layers: TypeAlias = dict[str, dict[str, LowRank]]

#: From the tensors of a file to those whose names are ``part.layer.lora_A.weight`` and ``lora_B``.
Convert: TypeAlias = Callable[[dict[str, "Tensor"]], Mapping[str, "Tensor"]]


def is_lora(names: Iterable[str]) -> bool:
    """Whether tensors of these names are a LoRA's, or another kind of adapter's."""
    marks = (*_MARKS, *_OTHER_KINDS)
    return any(mark in name for name in names for mark in marks)


def read_names(path: Path) -> list[str]:
    """Names of the tensors of a safetensors file. Raises ``ValueError`` for any other."""
    try:
        with safe_open(path, framework="pt") as file:
            return list(file.keys())
    except (OSError, SafetensorError) as error:
        raise ValueError("it is not a safetensors file") from error


def read_layers(
    path: Path, modules: Mapping[str, Module], convert: Convert, *, is_meta: bool = False
) -> Layers:
    """The layers of a LoRA file, each of the shape of its layer in ``modules``.

    Args:
        modules: part -> the module that the layers are of.
        convert: knows the forms of the model's family.
        is_meta: whether only shapes are wanted; the tensors are on the meta device then.
    Raises:
        ValueError: the file cannot be read, is of another kind, or of another model.
    """
    tensors, configuration = _read(path, is_meta=is_meta)
    for mark, kind in _OTHER_KINDS.items():
        if any(mark in name for name in tensors):
            raise ValueError(f"it is {kind}, which is not supported")
    try:
        named = convert(tensors)
    except _STRANGE as error:
        raise ValueError("its layers have names that mean nothing to this model") from error
    layers = {part: _paired(part, named) for part in modules}
    if not any(layers.values()):
        raise ValueError("it has no layer of this model")
    known = tuple(f"{part}." for part in modules)
    if stray := [name for name in named if not name.startswith(known)]:
        raise ValueError(f"it is for a model that has {stray[0].split('.')[0]!r}")
    return {
        part: {
            name: _fitting(_scaled(low, name, configuration.get(part, {})), part, name, module)
            for name, low in _renamed(layers[part], module).items()
        }
        for part, module in modules.items()
    }


def convert_stable_diffusion(unet_config: Any) -> Convert:
    """Of Stable Diffusion's and SDXL's forms, by diffusers' own tables."""

    def convert(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        folded = _with_alphas(tensors)
        named, _ = StableDiffusionLoraLoaderMixin.lora_state_dict(folded, unet_config=unet_config)
        is_of_unet = {name: name.startswith("unet.") for name in named}
        texts = {name: tensor for name, tensor in named.items() if not is_of_unet[name]}
        for form in (StateDictType.DIFFUSERS_OLD, StateDictType.DIFFUSERS):
            texts = convert_state_dict_to_peft(texts, original_type=form)
        own = {name: tensor for name, tensor in named.items() if is_of_unet[name]}
        converted: dict[str, Tensor] = {**convert_unet_state_dict_to_peft(own), **texts}
        return converted

    return convert


def convert_qwen_image(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Of Qwen-Image's forms, by diffusers' own tables, and of such mixtures as they leave out."""
    spelled = {_peft_name(name): tensor for name, tensor in tensors.items()}
    named: dict[str, Tensor] = QwenImageLoraLoaderMixin.lora_state_dict(spelled)
    if any(name.startswith("transformer.") for name in named):
        return named
    return {f"transformer.{name}": tensor for name, tensor in named.items()}


def _peft_name(name: str) -> str:
    """A factor's name in PEFT's words, without the part that it is of.

    diffusers knows ``lora_down`` beside an alpha alone, and an alpha without such a prefix alone.
    """
    name = name.removeprefix("transformer.")
    for others, own in (("down", "A"), ("up", "B")):
        for spelling in (f".lora_{others}.", f".lora.{others}."):
            name = name.replace(spelling, f".lora_{own}.")
    return name


def _read(path: Path, *, is_meta: bool) -> tuple[dict[str, Tensor], dict[str, dict[str, Any]]]:
    """A file's tensors, and PEFT's configuration of each part."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            names = list(file.keys())
            _check_number(len(names))
            tensors = {}
            for name in names:
                outline, is_alpha = file.get_slice(name), name.endswith(".alpha")
                _check_format(name, outline.get_dtype(), is_alpha=is_alpha)
                tensors[name] = (
                    torch.empty(outline.get_shape(), device="meta")
                    if is_meta and not is_alpha
                    else file.get_tensor(name)
                )
    except (OSError, SafetensorError) as error:
        raise ValueError("it is not a safetensors file") from error
    configuration: dict[str, dict[str, Any]] = {}
    try:
        told = dict(json.loads(metadata.get(_CONFIGURATION, "{}")))
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError("its configuration cannot be read") from error
    for key, value in told.items():
        part, _, name = key.partition(".")
        configuration.setdefault(part, {})[name] = value
    return tensors, configuration


def _check_number(num_tensors: int) -> None:
    if num_tensors > MAX_TENSORS:
        raise ValueError(f"it has {num_tensors} tensors; accepted: at most {MAX_TENSORS}")


def _check_format(name: str, told: str, *, is_alpha: bool) -> None:
    if told not in _FORMATS and not is_alpha:
        raise ValueError(f"its {name} is {told}; accepted: {', '.join(sorted(_FORMATS))}")


def _with_alphas(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Without the file's alphas: the upper factors are times alpha / rank instead.

    So that nothing hangs on how diffusers names the alphas, which it does not convert everywhere.
    """
    tensors = dict(tensors)
    for name in [name for name in tensors if name.endswith(".alpha")]:
        layer = name.removesuffix(".alpha")
        for down, up in (("lora_down", "lora_up"), ("lora_A", "lora_B"), ("lora.down", "lora.up")):
            if f"{layer}.{down}.weight" in tensors:
                alpha = float(tensors.pop(name))
                rank = tensors[f"{layer}.{down}.weight"].shape[0]
                key = f"{layer}.{up}.weight"
                tensors[key] = tensors[key].float() * (alpha / rank)
                break
    return tensors


def _paired(part: str, named: Mapping[str, Tensor]) -> dict[str, LowRank]:
    """The layers of one part by their names. Raises ``ValueError`` for factors without partner."""
    prefix, layers = f"{part}.", {}
    own = {name.removeprefix(prefix): t for name, t in named.items() if name.startswith(prefix)}
    for name, down in own.items():
        layer, end, rest = name.partition(".lora_A.weight")
        if not end or rest:
            continue
        if (up := own.get(f"{layer}.lora_B.weight")) is None:
            raise ValueError(f"it lacks the upper factor of {part}.{layer}")
        if min(down.ndim, up.ndim) < 2 or len(down) == 0:
            raise ValueError(f"its factors of {part}.{layer} are no matrices")
        layers[layer] = LowRank(down, up)
    if len(own) != 2 * len(layers):
        paired = {f"{layer}.lora_{factor}.weight" for layer in layers for factor in "AB"}
        raise ValueError(f"it has {part}.{min(own.keys() - paired)}, which is not supported")
    return layers


def _renamed(layers: dict[str, LowRank], module: Module) -> dict[str, LowRank]:
    """By the names that the layers have in this version of a text encoder."""
    if hasattr(module, "text_model"):
        return layers
    return {name.removeprefix("text_model."): low for name, low in layers.items()}


def _scaled(low: LowRank, name: str, configuration: Mapping[str, Any]) -> LowRank:
    """Times PEFT's ``alpha / rank``, where the file says so; it is 1 where nothing does.

    A pattern is the end of a layer's name, or with ``^`` all of it.
    """
    if "lora_alpha" not in configuration:
        return low
    try:
        factor = _factor(low.down.shape[0], name, configuration)
        return replace(low, up=low.up.float() * factor)  # there is no arithmetic in 8 bits
    except (TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise ValueError("its configuration cannot be read") from error


def _factor(rank: int, name: str, configuration: Mapping[str, Any]) -> float:
    alpha = configuration["lora_alpha"]
    for pattern, value in (configuration.get("alpha_pattern") or {}).items():
        whole = pattern.removeprefix("^")
        if name == whole or (whole == pattern and name.endswith(f".{pattern}")):
            alpha = value
            break
    return float(alpha) / (rank**0.5 if configuration.get("use_rslora") else rank)


def _fitting(low: LowRank, part: str, name: str, module: Module) -> LowRank:
    """The factors in the shapes that the layer wants. Raises ``ValueError`` when they have not."""
    try:
        layer = module.get_submodule(name)
    except AttributeError as error:
        raise ValueError(f"it adapts {part}.{name}, which this model has not") from error
    rank = low.down.shape[0]
    if isinstance(layer, Linear):
        low = replace(low, down=_flat(low.down), up=_flat(low.up))
        shapes: tuple[tuple[int, ...], ...] = (rank, layer.in_features), (layer.out_features, rank)
    elif isinstance(layer, Conv2d) and layer.groups == 1:
        low = replace(low, down=_square(low.down), up=_square(low.up))
        shapes = (
            (rank, layer.in_channels, *layer.kernel_size),
            (layer.out_channels, rank, 1, 1),
        )
    else:
        raise ValueError(f"it adapts {part}.{name}, which is no layer that can be adapted")
    found = tuple(low.down.shape), tuple(low.up.shape)
    if found != shapes:
        raise ValueError(
            f"it adapts {part}.{name} by factors of shapes {found[0]} and {found[1]}; "
            f"this model's would have {shapes[0]} and {shapes[1]}"
        )
    return low


def _flat(factor: Tensor) -> Tensor:
    """A 1 by 1 convolution as a matrix: what is one in the file may be linear in the model."""
    return factor.flatten(1) if factor.shape[2:] == (1, 1) else factor


def _square(factor: Tensor) -> Tensor:
    """A matrix as a 1 by 1 convolution."""
    return factor[:, :, None, None] if factor.ndim == 2 else factor
