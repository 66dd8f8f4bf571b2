"""Opening: a model's family, its engine and its card, from its configuration."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from deployments.config import FAMILY_OPTIONS, ModelConfig, allowed_device, locate
from deployments.engine.calibration import Calibration, calibrate
from deployments.engine.engine import Engine
from deployments.engine.inline import InlineRunner, Runner
from deployments.engine.memory import Budget
from deployments.engine.share import Share, told
from deployments.families import family_class
from deployments.families.base import Family
from deployments.types import Device, ModelCard, SamplingParams

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reserved:
    """What the cluster reserved for a replica: of a GPU, and bytes of its node's memory."""

    num_gpus: float = 0.0
    memory: int | None = None


NOTHING: Final = Reserved()


@dataclass(frozen=True, slots=True)
class OpenedEngine:
    """An engine that runs, the family it runs, and on what: torch's device and dtype names."""

    engine: Engine
    family: Family
    device: str
    dtype: str


def open_engine(config: ModelConfig, reserved: Reserved = NOTHING) -> OpenedEngine:
    """Load a model's weights and start its engine; takes seconds.

    Raises ``ValueError`` for a configuration that no request could use, or a model that does not
    fit its share of the memory.
    """
    family_type = family_class(config.family)
    runner: Runner = InlineRunner()
    device, dtype = "cpu", "float32"
    if family_type.uses_torch:
        from deployments.engine.runner import TorchRunner, pick_device, pick_dtype

        device = pick_device(allowed_device(config.device))
        dtype = pick_dtype(config.dtype, device)
        runner = TorchRunner(device, config.num_threads)
    _check(config, family_type)
    share = share_of(config, runner.device, reserved)
    if share.is_reserved and share.num_bytes is not None:
        runner.bound(share.num_bytes)
    try:
        family = runner.load(lambda _: family_type.load(config, device, dtype), None)
        least, most = family.expected_bytes(None), config.max_resident_bytes
        if most is not None and least > most:
            raise ValueError(
                f"max_resident_bytes {most} is less than the base's own weights, {least}"
            )
        measured = calibrate(family, runner, config)
    except MemoryError as error:
        raise ValueError(_refusal(config, share)) from error
    share = _filled(config, family, share, measured)
    engine = Engine(
        family,
        runner,
        max_batch_rows=config.max_batch_rows,
        max_batch_tokens=config.max_batch_tokens,
        budget=_budget(config),
        share=share,
        tokens_per_pixel=measured.tokens_per_pixel,
    )
    engine.start()
    return OpenedEngine(engine, family, device, dtype)


def share_of(config: ModelConfig, device: Device, reserved: Reserved) -> Share:
    """The replica's share of its device's memory; without one, all that the device has.

    Of several GPUs it is that of one: modules that are spread over them count on the fullest, and
    each module's work is done on its own.
    """
    num_bytes, total = config.memory_bytes, device.total_bytes
    if num_bytes is None and device.id == "cpu":
        num_bytes = reserved.memory
    elif num_bytes is None and total is not None and reserved.num_gpus > 0:
        num_bytes = round(total * min(1.0, reserved.num_gpus))
    if num_bytes is None:
        return Share(num_bytes=total, is_reserved=False)
    return Share(num_bytes=num_bytes)


def _filled(config: ModelConfig, family: Family, share: Share, measured: Calibration) -> Share:
    """The share with what was measured, or is configured. Raises ``ValueError``; see ``Share``."""
    found = measured.appetite
    appetite = replace(
        found,
        encode=_or(config.encode_bytes_per_token, found.encode),
        denoise=_or(config.denoise_bytes_per_token, found.denoise),
        decode=_or(config.decode_bytes_per_token, found.decode),
        encode_start=found.encode_start if config.encode_bytes_per_token is None else 0,
        decode_start=found.decode_start if config.decode_bytes_per_token is None else 0,
    )
    tokens = config.defaults.width * config.defaults.height * measured.tokens_per_pixel
    fixed = family.loras.needed_bytes() if family.loras else 0
    share = replace(
        share,
        appetite=appetite,
        picture_bytes=appetite.of_picture(tokens, 2),
        reference_side=family.reference_side,
    )
    share.check(measured.weight_bytes, tokens, lora_bytes=fixed)
    logger.info(
        "memory: %s of %s, weights %s, fixed LoRAs %s; bytes per token %.0f encoding, "
        "%.0f denoising, %.0f decoding; %s for a picture of the default size",
        "a share" if share.is_reserved else "all",
        told(share.num_bytes or 0),
        told(measured.weight_bytes),
        told(fixed),
        appetite.encode,
        appetite.denoise,
        appetite.decode,
        told(share.picture_bytes),
    )
    return share


def _refusal(config: ModelConfig, share: Share) -> str:
    """What to say of a model whose weights, or whose first picture, the device does not hold."""
    stored = stored_bytes(config)
    files = "" if stored is None else f"its files hold {told(stored)} of weights; "
    have = "" if share.num_bytes is None else f" of {told(share.num_bytes)}"
    return f"the model does not fit its share{have} of the memory: {files}the device ran out of it"


def stored_bytes(config: ModelConfig) -> int | None:
    """Bytes of the safetensors files of a model's weights; None when they are not on this disk."""
    folder = Path(locate(config.weights or ""))
    if config.weights is None or not folder.is_dir():
        return None
    return sum(file.stat().st_size for file in folder.glob("*/*.safetensors"))


def _or(value: float | None, default: float) -> float:
    return default if value is None else value


def _budget(config: ModelConfig) -> Budget:
    """By number, unless bytes alone are given."""
    is_by_number = (
        config.max_resident_bytes is None or "max_resident_weights" in config.model_fields_set
    )
    return Budget(
        max_sets=config.max_resident_weights if is_by_number else None,
        max_bytes=config.max_resident_bytes,
    )


def _check(config: ModelConfig, family: type[Family]) -> None:
    """Raise ``ValueError`` for what no request could use, before weights are read."""
    if config.step_seconds is not None and family.uses_torch:
        raise ValueError("step_seconds is for the fake family alone")
    for option in sorted((FAMILY_OPTIONS & config.model_fields_set) - family.options):
        raise ValueError(f"{option} is not for family {config.family!r}")
    for key, known in (("scheduler", family.schedulers), ("sigmas", family.sigmas)):
        value = getattr(config.defaults, key)
        if value not in known:
            raise ValueError(f"unknown {key} {value!r}; known: {', '.join(known)}")


def make_card(
    config: ModelConfig, opened: OpenedEngine, model_id: str, max_ongoing_requests: int
) -> ModelCard:
    """The card of a model: its family's abilities within its configuration's limits."""
    return ModelCard(
        id=model_id,
        family=config.family,
        modes=opened.family.modes,
        defaults=SamplingParams(**config.defaults.model_dump()),
        aliases=config.aliases,
        size_multiple=opened.family.size_multiple,
        schedulers=opened.family.schedulers,
        sigmas=opened.family.sigmas,
        has_latents=opened.family.has_latents,
        loras=opened.family.loras.names if opened.family.loras else (),
        takes_loras=opened.family.loras is not None,
        lora_digests=opened.family.loras.shelf.digests if opened.family.loras else (),
        weights=opened.family.sources.names if opened.family.sources else (),
        weights_digests=opened.family.sources.digests if opened.family.sources else (),
        takes_weights=opened.family.sources is not None,
        device=opened.device,
        dtype=opened.dtype,
        max_ongoing_requests=max_ongoing_requests,
        created=int(time.time()),
        **config.limits.model_dump(),
    )
