"""Settings of the gateway: its application's ``args``, the environment, and ``.env``."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from typing import Annotated, Any, Final

from dotenv import dotenv_values
from pydantic import AliasChoices, Field, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

logger = logging.getLogger(__name__)

#: Variables that other servers of this kind read, and what replaces them here.
REPLACED: Final[Mapping[str, str]] = {
    "HOST": "http_options.host in serve_config.yaml",
    "PORT": "http_options.port in serve_config.yaml",
    "RELOAD": "`serve deploy serve_config.yaml` after a change; what runs stays up",
}


def _variable(name: str, field: str) -> AliasChoices:
    return AliasChoices(field, name, f"ATELIER_{name}")


class Settings(BaseSettings):
    """Everything that the operator may set. ``args`` win over the environment, that over ``.env``.

    Attributes:
        api_key: the key that callers must present; empty turns auth off (API_KEY).
        database_url: where rows live: ``sqlite:///file``, ``postgresql://...`` or ``memory://``.
        images_url: where pictures live: a folder, ``s3://bucket/prefix`` or ``memory://``.
        webhook_url, webhook_secret, webhook_enabled: where news of image jobs goes (WEBHOOK_...).
        environment: told in webhooks (``development``, ``production``).
        fetch_allow: networks (CIDR) that input URLs and webhook addresses of requests may be in
            although they are not public.
        public_url: base of the URLs handed out; empty takes the request's own.
        max_queued_jobs: waiting jobs beyond which new ones get a 429.
        lease_seconds: how long a gateway's claim on a job lasts without renewal.
        prompt_styles: A1111's styles: name to ``prompt`` and ``negative_prompt``, in which
            ``{prompt}`` stands for the caller's words.
        retention_seconds, retention_bytes: age and total size beyond which ended jobs and their
            pictures are removed; None keeps them.
        checkpoint_folders: folders of the hosts' disks from which owners may register checkpoints
            by path; none refuses paths.
        max_checkpoint_bytes: the most that a registered checkpoint may have.
        log_level: of our own loggers (LOG_LEVEL).
    """

    model_config = SettingsConfigDict(
        env_prefix="ATELIER_", env_file=".env", extra="ignore", frozen=True, populate_by_name=True
    )

    api_key: str = Field("", validation_alias=_variable("API_KEY", "api_key"))
    database_url: str = "sqlite:///atelier.db"
    images_url: str = "./generated_images"
    webhook_url: str = Field("", validation_alias=_variable("WEBHOOK_URL", "webhook_url"))
    webhook_secret: str = Field("", validation_alias=_variable("WEBHOOK_SECRET", "webhook_secret"))
    webhook_enabled: bool = Field(
        False, validation_alias=_variable("WEBHOOK_ENABLED", "webhook_enabled")
    )
    environment: str = "development"
    fetch_allow: Annotated[tuple[str, ...], NoDecode] = ()
    public_url: str = ""
    max_queued_jobs: int = Field(10_000, ge=1)
    lease_seconds: float = Field(10.0, gt=1)
    prompt_styles: dict[str, dict[str, str]] = Field(default_factory=dict)
    retention_seconds: float | None = Field(None, gt=0)
    retention_bytes: int | None = Field(None, gt=0)
    checkpoint_folders: Annotated[tuple[str, ...], NoDecode] = ()
    max_checkpoint_bytes: int = Field(8 * 2**30, ge=1)
    log_level: str = Field("info", validation_alias=_variable("LOG_LEVEL", "log_level"))

    @field_validator("fetch_allow", "checkpoint_folders", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        return (
            tuple(part.strip() for part in value.split(",") if part.strip())
            if isinstance(value, str)
            else value
        )

    @classmethod
    def from_args(cls, args: Mapping[str, Any]) -> Settings:
        """Settings from the application's arguments; unknown keys fail naming the known."""
        unknown = sorted(set(args) - set(cls.model_fields))
        if unknown:
            known = ", ".join(sorted(cls.model_fields))
            raise ValueError(f"unknown key {', '.join(map(repr, unknown))}; known: {known}")
        return cls(**args)


def answer_replaced() -> None:
    """Say at start-up what replaces variables (or lines of ``.env``) that have no meaning here."""
    variables = dotenv_values(".env") | os.environ
    for name, replacement in REPLACED.items():
        if variables.get(name):
            logger.warning("%s is set but not read here; use %s", name, replacement)
