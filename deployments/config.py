"""ModelConfig: the ``args`` of one model's application in ``serve_config.yaml``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Literal

from dotenv import dotenv_values
from pydantic import BaseModel, ConfigDict, Field, model_validator

from deployments.types import SHIFTS

#: The folder that holds ``deployments``; relative paths in a configuration start here.
PROJECT_ROOT = Path(__file__).resolve().parent.parent


class Strict(BaseModel):
    """A frozen part of the configuration that refuses unknown keys and names the known ones."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown_keys(cls, values: Any) -> Any:
        if isinstance(values, dict):
            unknown = sorted(set(values) - set(cls.model_fields))
            if unknown:
                known = ", ".join(sorted(cls.model_fields))
                raise ValueError(f"unknown key {', '.join(map(repr, unknown))}; known: {known}")
        return values


class Defaults(Strict):
    """What a request gets that leaves a knob open."""

    width: int = Field(512, ge=8)
    height: int = Field(512, ge=8)
    num_inference_steps: int = Field(30, ge=1)
    guidance_scale: float = Field(7.5, ge=0)
    true_cfg_scale: float | None = Field(None, ge=0)
    strength: float = Field(0.8, ge=0, le=1)
    scheduler: str = "Euler"
    sigmas: str = "normal"


class Limits(Strict):
    """What a request may ask for; beyond it is a 400 that names the limit."""

    min_size: int = Field(64, ge=8)
    max_size: int = Field(2048, ge=8)
    max_pixels: int = Field(2048 * 2048, ge=64)
    max_input_images: int = Field(1, ge=0)
    max_num_inference_steps: int = Field(150, ge=1)


class ModelConfig(Strict):
    """One model's application.

    Attributes:
        family: a name from ``deployments.families.FAMILIES``.
        weights: a diffusers folder in safetensors (relative paths start at the project's root), or
            a Hugging Face hub id, the only thing that is ever downloaded.
        device: ``auto`` takes the GPU when there is one.
        dtype: ``auto`` is float32 on a CPU and bfloat16 on a GPU.
        aliases: further names that requests may use.
        personal: the table user -> weights folder or hub id of the same base; the entry
            ``default`` serves users that have no entry of their own. The deployment's
            ``user_config`` may hold the table, too, and can be changed without a restart.
        max_resident_weights: how many sets of weights stay in memory, the least recently used
            idle one leaves first.
        max_resident_bytes: how many bytes of them, the base's own among them; in place of the
            number, unless that is given, too.
        max_pinned_bytes: page-locked memory of the host that keeps copies of weights for a GPU.
        max_batch_rows, max_batch_tokens: one forward holds at most so many rows, and rows of at
            most so many latent tokens together (always at least one row).
        memory_bytes: the replica's share of its device's memory, of several GPUs that of one. None
            is, on a GPU, the deployment's ``num_gpus`` of all its memory, and on a CPU its
            ``memory``; without these, nothing is set aside, and the bound is all that the device
            has.
        encode_bytes_per_token, denoise_bytes_per_token, decode_bytes_per_token: what encoding takes
            of memory for each image token of an input picture, a forward pass for each of each row,
            and decoding for each of a picture, beside the weights; None is measured at the start.
        num_threads: torch's threads on a CPU; None is as many as the replica reserves cores, or,
            if it reserves none, as it may use: set it where several replicas share a node.
        reference_pixels: how many pixels, about, the denoiser sees of each picture that an edit
            looks at, whatever the size drawn; each 256 of them are a token. 0 is as many as are
            drawn, None leaves it to the checkpoint.
        quantization: bits of the large modules' weights: ``int8`` and ``fp8`` by torchao, ``nf4``
            by bitsandbytes (CUDA alone).
        gguf: a GGUF file with the denoiser, in place of the one in ``weights``.
        offload: what waits on the CPU while it is not used: whole modules (``model``), layers
            (``group``), nothing.
        device_map: ``cuda`` is one GPU, ``balanced`` spreads the modules over all; None asks the
            variable DEVICE_MAP.
        attention_slicing, vae_tiling: less memory for more time, where a model has them.
        loras: name -> LoRA that requests may use: a safetensors file (relative paths as those of
            ``weights``), or a hub id, ``owner/repository`` or ``owner/repository/file``.
        lora_folder: a folder whose safetensors files are LoRAs, too, named by their paths in it;
            those that are for other models are left out.
        fixed_loras: name -> weight of LoRAs that every request has besides its own, such as one
            that makes few steps enough.
        shift: of flow-matching models, for requests that name none (``SamplingParams.shift``): the
            one that a few-step LoRA was trained with. None is the checkpoint's own schedule.
        max_lora_bytes: how much memory LoRAs may take that no request uses; they leave earlier
            where others want the room.
        step_seconds: the fake family's pace; real families refuse it.
    """

    family: str
    weights: str | None = None
    device: str = "auto"
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    aliases: tuple[str, ...] = ()
    personal: dict[str, str] = Field(default_factory=dict)
    max_resident_weights: int = Field(3, ge=1)
    max_resident_bytes: int | None = Field(None, ge=1)
    max_pinned_bytes: int = Field(8 * 2**30, ge=0)
    max_batch_rows: int = Field(16, ge=1)
    max_batch_tokens: int = Field(16384, ge=1)
    memory_bytes: int | None = Field(None, ge=1)
    encode_bytes_per_token: float | None = Field(None, ge=0)
    denoise_bytes_per_token: float | None = Field(None, ge=0)
    decode_bytes_per_token: float | None = Field(None, ge=0)
    num_threads: int | None = Field(None, ge=1)
    reference_pixels: Literal[0] | Annotated[int, Field(ge=32 * 32)] | None = None
    quantization: Literal["none", "int8", "fp8", "nf4"] = "none"
    gguf: str | None = None
    offload: Literal["none", "model", "group"] = "none"
    device_map: Literal["cuda", "balanced"] | None = None
    attention_slicing: bool = False
    vae_tiling: bool = False
    loras: dict[str, str] = Field(default_factory=dict)
    lora_folder: str | None = None
    fixed_loras: dict[str, float] = Field(default_factory=dict)
    shift: float | None = Field(None, ge=SHIFTS[0], le=SHIFTS[1])
    max_lora_bytes: int = Field(2**30, ge=0)
    step_seconds: float | None = Field(None, ge=0)
    defaults: Defaults = Defaults()
    limits: Limits = Limits()


class LiveConfig(Strict):
    """The ``user_config`` of a model's deployment: what changes while its replicas keep running.

    Attributes:
        personal, loras: as of ``ModelConfig``; an entry here wins over one of the same name there.
        lora_folder: in place of that of ``ModelConfig``.
    """

    personal: dict[str, str] = Field(default_factory=dict)
    loras: dict[str, str] = Field(default_factory=dict)
    lora_folder: str | None = None


#: Fields of ``ModelConfig`` that only some families heed.
FAMILY_OPTIONS = frozenset(
    {
        "attention_slicing",
        "device_map",
        "fixed_loras",
        "gguf",
        "lora_folder",
        "loras",
        "max_lora_bytes",
        "offload",
        "quantization",
        "reference_pixels",
        "shift",
        "vae_tiling",
    }
)


def locate(weights: str) -> str:
    """An existing folder, or safetensors file, as an absolute path; anything else (a hub id) as it
    stands."""
    for base in (Path.cwd(), PROJECT_ROOT):
        path = base / weights
        if path.is_dir() or (path.suffix == ".safetensors" and path.is_file()):
            return str(path)
    return weights


def allowed_device(configured: str) -> str:
    """The configured device; ``cpu`` where the variable ``USE_GPU`` forbids any other."""
    return "cpu" if variable("USE_GPU").lower() in ("false", "0", "no") else configured


def variable(name: str) -> str:
    """A variable of the environment, else of ``.env`` in the working directory, else empty."""
    return (os.environ.get(name) or dotenv_values(".env").get(name) or "").strip()
