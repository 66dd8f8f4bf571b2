"""Discovery: what clients look at before they draw: nodes, models, flags, the machine."""

from __future__ import annotations

import os
import posixpath
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final

from fastapi import Request
from starlette.responses import JSONResponse, Response

from deployments.types import ModelCard
from router.apis.body import MAX_BODY_BYTES
from router.apis.comfyui.node import Offer
from router.apis.comfyui.nodes import NODES
from router.apis.comfyui.object_info import render_node, render_nodes
from router.apis.route import owner_of
from router.service import GenerationService

#: The release of ComfyUI whose wire this is; clients refuse to work with too old ones.
COMFYUI_VERSION: Final = "0.38.1"
#: ``/features``, and the answer to a client's own flags.
FEATURES: Final[Mapping[str, Any]] = {
    "supports_preview_metadata": True,
    "supports_model_type_tags": False,
    "max_upload_size": MAX_BODY_BYTES,
    "extension": {"manager": {"supports_v4": False}},
    "node_replacements": True,
    "assets": False,
}
#: Folders of models, and the input whose choices are what lies in them: its node and its name.
FOLDERS: Final[Mapping[str, tuple[str, str] | None]] = {
    "checkpoints": ("CheckpointLoaderSimple", "ckpt_name"),
    "loras": ("LoraLoader", "lora_name"),
    "vae": ("VAELoader", "vae_name"),
    "text_encoders": ("CLIPLoader", "clip_name"),
    "diffusion_models": ("UNETLoader", "unet_name"),
    "clip_vision": None,
    "style_models": None,
    "embeddings": None,
    "diffusers": None,
    "vae_approx": None,
    "controlnet": None,
    "gligen": None,
    "upscale_models": None,
    "hypernetworks": None,
    "photomaker": None,
    "classifiers": None,
}
#: Older names of folders.
OLDER_FOLDERS: Final[Mapping[str, str]] = {"clip": "text_encoders", "unet": "diffusion_models"}
#: What is empty here, as where nothing is installed.
EMPTY: Final[Mapping[str, Any]] = {
    "/embeddings": [],
    "/extensions": [],
    "/workflow_templates": {},
    "/i18n": {},
    "/global_subgraphs": {},
    "/node_replacements": {},
}


class Discovery:
    """What can be asked for here."""

    def __init__(self, service: GenerationService) -> None:
        self._service = service

    async def nodes(self, request: Request) -> Any:
        """Every kind of node."""
        return JSONResponse(render_nodes(await self._offer(request)))

    async def node(self, request: Request) -> Any:
        """One kind of node; nothing where there is none."""
        kind = NODES.get(request.path_params["node_class"])
        if kind is None:
            return {}
        return JSONResponse({kind.class_type: render_node(kind, await self._offer(request))})

    async def features(self) -> Any:
        """What the server understands."""
        return FEATURES

    async def system_stats(self) -> Any:
        """The gateway's machine, and the devices that models run on."""
        return render_system(self._service.cards())

    async def folders(self) -> Any:
        """Kinds of models."""
        return list(FOLDERS)

    async def files(self, request: Request) -> Response:
        """Names of one kind of models."""
        names = await self._names(request)
        return Response(status_code=404) if names is None else JSONResponse(names)

    async def described_folders(self) -> Any:
        """Kinds of models; what is told of folders names none of the server."""
        return [{"name": name, "folders": [f"models/{name}"], "extensions": []} for name in FOLDERS]

    async def described_files(self, request: Request) -> Response:
        """One kind of models; hosted ones have no size and no times of their own."""
        names = await self._names(request)
        if names is None:
            return Response(status_code=404)
        none = {"pathIndex": 0, "modified": 0, "created": 0, "size": 0}
        return JSONResponse([{"name": name, **none} for name in names])

    async def nothing(self) -> Response:
        """What a file would tell that is not there: a preview of a model, a subgraph."""
        return Response(status_code=404)

    async def _names(self, request: Request) -> Sequence[str] | None:
        folder = request.path_params["folder"]
        folder = OLDER_FOLDERS.get(folder, folder)
        if folder not in FOLDERS:
            return None
        if (place := FOLDERS[folder]) is None:
            return []
        class_type, name = place
        row = NODES[class_type].find_input(name)
        own = await self._service.belongings(owner=owner_of(request))
        return (row and row.list_choices(Offer(cards=self._service.cards(), own=own))) or []

    async def _offer(self, request: Request) -> Offer:
        owner = owner_of(request)
        files = await self._service.files.list(owner=owner, kind="input")
        names = tuple(posixpath.join(file.subfolder, file.name) for file in files)
        own = await self._service.belongings(owner=owner)
        return Offer(cards=self._service.cards(), files=names, own=own)


def render_system(cards: Sequence[ModelCard]) -> dict[str, Any]:
    """``GET /system_stats``: bytes; 0 where only the models' hosts know."""
    total, free = _memory()
    return {
        "system": {
            "os": sys.platform,
            "ram_total": total,
            "ram_free": free,
            "comfyui_version": COMFYUI_VERSION,
            "required_frontend_version": None,
            "installed_templates_version": None,
            "required_templates_version": None,
            "comfy_package_versions": [],
            "python_version": sys.version,
            "pytorch_version": _version_of("torch"),
            "embedded_python": False,
            "argv": [],
        },
        "devices": [
            _render_device(device, (total, free) if device == "cpu" else (0, 0))
            for device in dict.fromkeys([card.device for card in cards] or ["cpu"])
        ],
    }


def _render_device(device: str, memory: tuple[int, int]) -> dict[str, Any]:
    kind, _, index = device.partition(":")
    total, free = memory
    return {
        "name": device,
        "type": kind,
        "index": int(index) if index.isdigit() else None,
        "vram_total": total,
        "vram_free": free,
        "torch_vram_total": total,
        "torch_vram_free": free,
    }


def _memory() -> tuple[int, int]:
    """Bytes of this machine's memory, and those that are free."""
    page = os.sysconf("SC_PAGE_SIZE")
    return page * os.sysconf("SC_PHYS_PAGES"), page * os.sysconf("SC_AVPHYS_PAGES")


def _version_of(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
