"""Drawing: what a node may ask for while its graph runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from deployments.types import GenerationRequest, Latents, ModelCard
from router.apis.comfyui.values import Images
from router.belongings import Variant
from router.files import FileKind


class Drawing(Protocol):
    """One running node's way to the cluster.

    What the node's inputs are to blame for is an ``AtelierError``; whatever else is raised ends the
    attempt at the whole graph, which is tried again after a host's death.
    """

    def card(self, model: str) -> ModelCard:
        """The card of the model with this id, alias, or name of weights for it. Raises
        ``UnknownModel``."""

    def variant(self, model: str) -> Variant:
        """The same, and the weights."""

    def loras(self, model: str) -> Sequence[str]:
        """Names of the LoRAs that requests to a model may use."""

    def draw_seed(self) -> int:
        """A seed for who asked for any, 0 to 2**32 - 1; the same at every attempt."""

    async def sample(self, requests: Sequence[GenerationRequest]) -> tuple[Latents, ...]:
        """Run requests that start from the latents of one picture each, side by side; their
        latents, in order. Their steps are the node's progress.

        Latents of zeros take the size that the model makes of the one asked for.
        """

    async def encode(self, model: str, pictures: Sequence[bytes]) -> tuple[Latents, ...]:
        """The latents of encoded pictures, one each."""

    async def decode(self, model: str, latents: Sequence[Latents]) -> Images:
        """The pictures of latents, one each."""

    def input(self, name: str) -> bytes:
        """The bytes of a file that a node of the graph names, as they were when the graph was
        accepted. Raises ``NotFound``."""

    async def save(self, images: Images, *, kind: FileKind, prefix: str) -> list[dict[str, Any]]:
        """Save pictures under the prefix's next numbers: ``filename``, ``subfolder`` and ``type``
        of each. Raises ``InvalidRequest`` for a prefix that no file can have."""

    async def show(self, images: Images) -> None:
        """Send pictures, whole, to the socket of who asked."""
