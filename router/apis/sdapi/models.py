"""The handlers that list what an owner may name: checkpoints and LoRAs."""

from __future__ import annotations

from typing import Any

from fastapi import Request

from router.apis.route import owner_of
from router.apis.sdapi.checkpoints import checkpoints, render_checkpoint
from router.apis.sdapi.discovery import render_loras
from router.service import GenerationService


class Models:
    """What an owner may name."""

    def __init__(self, service: GenerationService) -> None:
        self._service = service

    async def checkpoints(self, request: Request) -> Any:
        """Hosted models, the owner's weights, and the configuration's."""
        variants = await self._service.variants(owner=owner_of(request))
        return [render_checkpoint(one) for one in checkpoints(variants)]

    async def loras(self, request: Request) -> Any:
        """The models' LoRAs and the owner's."""
        own = await self._service.belongings(owner=owner_of(request))
        return render_loras(self._service.cards(), own)

    async def refresh_loras(self) -> Any:
        """Look for new files in the models' folders now."""
        await self._service.refresh()
