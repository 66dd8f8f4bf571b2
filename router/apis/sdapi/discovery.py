"""What clients look at before they draw: lists, flags, memory."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, Final

import psutil

from deployments.types import ModelCard
from router.apis.sdapi.prompts import Styles
from router.belongings import Belongings

#: Paths under ``/sdapi/v1`` whose lists are empty here, as where nothing is installed.
EMPTY_LISTS: Final = (
    "sd-vae",
    "sd-modules",
    "hypernetworks",
    "face-restorers",
    "realesrgan-models",
    "extensions",
)
#: Paths that are POSTed to and answer ``null``.
VOID_CALLS: Final = ("refresh-checkpoints", "refresh-vae", "refresh-embeddings")
#: Flags that clients look for.
CMD_FLAGS: Final[Mapping[str, Any]] = {
    "api": True,
    "nowebui": True,
    "listen": True,
    "ckpt": None,
    "lowvram": False,
    "medvram": False,
    "no_half": False,
    "api_server_stop": False,
    "disable_safe_unpickle": False,
    "hide_ui_dir_config": True,
}
EMBEDDINGS: Final[Mapping[str, Any]] = {"loaded": {}, "skipped": {}}
#: Gradio's page and its queue, as far as probes read them.
CONFIG: Final[Mapping[str, Any]] = {
    "version": "3.41.2",
    "mode": "blocks",
    "dev_mode": False,
    "components": [],
    "dependencies": [],
    "title": "Atelier",
    "is_space": False,
    "enable_queue": True,
    "show_api": False,
}


def render_memory() -> dict[str, Any]:
    """``GET memory``: of this process and its machine. The gateway has no GPU of its own."""
    memory = psutil.virtual_memory()
    used = psutil.Process(os.getpid()).memory_info().rss
    return {
        "ram": {"free": memory.available, "used": used, "total": memory.total},
        "cuda": {"error": "unavailable"},
    }


def render_loras(cards: Sequence[ModelCard], own: Belongings) -> list[dict[str, Any]]:
    """``GET loras``: those of all models and the caller's own, each once. A file's own path is the
    host's affair."""
    names = sorted({name for card in cards for name in own.loras(card)})
    return [
        {
            "name": name.rpartition("/")[2],
            "alias": name,
            "path": f"{name}.safetensors",
            "metadata": {},
        }
        for name in names
    ]


def render_styles(styles: Styles) -> list[dict[str, str]]:
    """``GET prompt-styles``."""
    return [
        {"name": name, "prompt": style.prompt, "negative_prompt": style.negative_prompt}
        for name, style in styles.items()
    ]


def render_queue(num_jobs: int) -> dict[str, Any]:
    """``GET /queue/status``: gradio's estimation."""
    return {
        "msg": "estimation",
        "rank": None,
        "queue_size": num_jobs,
        "avg_event_process_time": None,
        "avg_event_concurrent_process_time": None,
        "rank_eta": None,
        "queue_eta": 0,
    }
