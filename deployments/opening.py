"""Opening: a model's family, its engine and its card, from its configuration."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass

from deployments.config import FAMILY_OPTIONS, ModelConfig, allowed_device
from deployments.engine.calibration import calibrate
from deployments.engine.engine import UNBOUNDED, Engine
from deployments.engine.inline import InlineRunner, Runner
from deployments.engine.memory import Budget
from deployments.engine.share import Appetite, Share
from deployments.families import family_class
from deployments.families.base import Family
from deployments.types import ModelCard, SamplingParams

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class OpenedEngine:
    """An engine that runs, the family it runs, and on what: torch's device and dtype names."""

    engine: Engine
    family: Family
    device: str
    dtype: str


def open_engine(config: ModelConfig, num_gpus: float = 0.0) -> OpenedEngine:
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
    family = family_type.load(config, device, dtype)
    least, most = family.expected_bytes(None), config.max_resident_bytes
    if most is not None and least > most:
        raise ValueError(f"max_resident_bytes {most} is less than the base's own weights, {least}")
    share, tokens_per_pixel = _share(config, family, runner, num_gpus)
    engine = Engine(
        family,
        runner,
        max_batch_rows=config.max_batch_rows,
        max_batch_tokens=config.max_batch_tokens,
        budget=_budget(config),
        share=share,
        tokens_per_pixel=tokens_per_pixel,
    )
    engine.start()
    return OpenedEngine(engine, family, device, dtype)


def _share(
    config: ModelConfig, family: Family, runner: Runner, num_gpus: float
) -> tuple[Share, float]:
    """The replica's share of its device's memory, and image tokens per pixel."""
    num_bytes = config.memory_bytes
    if num_bytes is None and runner.total_bytes is not None and num_gpus > 0:
        num_bytes = round(runner.total_bytes * min(1.0, num_gpus))
    if num_bytes is None:
        return UNBOUNDED, 1 / 64
    runner.bound(num_bytes)
    measured = calibrate(family, runner, config)
    told = Appetite(
        denoise=_or(config.denoise_bytes_per_token, measured.appetite.denoise),
        decode=_or(config.decode_bytes_per_token, measured.appetite.decode),
    )
    share = Share(num_bytes=num_bytes, appetite=told)
    pixels = config.defaults.width * config.defaults.height
    share.check(measured.weight_bytes, pixels * measured.tokens_per_pixel)
    logger.info(
        "memory: a share of %d bytes, weights %d, per token %.0f denoising, %.0f decoding",
        num_bytes,
        measured.weight_bytes,
        told.denoise,
        told.decode,
    )
    return share, measured.tokens_per_pixel


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
        loras=opened.family.lora_names,
        weights=opened.family.sources.names if opened.family.sources else (),
        takes_weights=opened.family.sources is not None,
        device=opened.device,
        dtype=opened.dtype,
        max_ongoing_requests=max_ongoing_requests,
        created=int(time.time()),
        **config.limits.model_dump(),
    )
