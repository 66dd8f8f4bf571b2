"""PersonalModels: owners' own weights. Registered, checked by a host, kept, found by name."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import secrets
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO, Final

from deployments.errors import (
    AtelierError,
    Conflict,
    InvalidRequest,
    ModelNotReady,
    StorageFailure,
    UnsupportedField,
)
from deployments.types import ModelCard, WeightsSource
from router.belongings import Belongings
from router.models import Models, WorkerDied, WorkerUnavailable
from router.routing import resolve
from router.store.images import ImageStore
from router.store.jobs import JobStore
from router.store.personal_models import PersonalModel, PersonalModelStore

__all__ = ["PersonalModel", "PersonalModels"]

logger = logging.getLogger(__name__)

#: What a name may be; it is the ``user_id`` of /generate, too.
NAME: Final = re.compile(r"[\w.@+:-]{1,128}")
#: A Hugging Face id, perhaps a file of it, and perhaps the revision.
HUB_ID: Final = re.compile(
    r"[A-Za-z0-9][\w.-]{0,95}/[\w.-]{1,96}(/(?:\w[\w.-]{0,96}/){0,4}\w[\w.-]{0,96}\.safetensors)?"
    r"(@[\w.-]{1,96})?"
)
#: Where uploads lie in the image store.
FOLDER: Final = "weights"
#: Seconds for which an upload may be without its row, which comes after it.
GRACE_SECONDS: Final = 3600.0
#: Keys looked up at once.
BATCH: Final = 200
#: Characters of the longest path: longer ones name nothing, and take long to follow.
MAX_PATH_LENGTH: Final = 4096


class PersonalModels:
    """Rows in a ``PersonalModelStore``, uploads in the ``ImageStore``. Every look-up reads the
    store, so that all gateways agree at once. An upload stays for as long as a model, or a job that
    has not ended, names it.

    Args:
        folders: folders of which a ``path`` must be in one; none refuses paths.
        max_bytes: the most that a checkpoint's files may have together.
    """

    def __init__(
        self,
        *,
        store: PersonalModelStore,
        images: ImageStore,
        jobs: JobStore,
        models: Models,
        folders: Sequence[str] = (),
        max_bytes: int = 8 * 2**30,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.max_bytes = max_bytes
        self._store = store
        self._images = images
        self._jobs = jobs
        self._models = models
        self._folders = tuple(folders)
        self._clock = clock

    async def get(self, *, owner: str, name: str) -> PersonalModel:
        """The owner's model of this name. Raises ``NotFound``."""
        return await self._store.get(owner=owner, name=name)

    async def belongings(self, *, owner: str) -> Belongings:
        """What an owner has registered at this moment."""
        return Belongings(model.own for model in await self._store.list(owner=owner))

    async def are_kept(self, keys: Collection[str]) -> bool:
        """Whether models name all of these uploads: then none of them is about to be removed."""
        return await self._store.needed(keys) >= frozenset(keys)

    async def list(self, *, owner: str) -> Sequence[PersonalModel]:
        """An owner's models in the order of their names."""
        return await self._store.list(owner=owner)

    async def delete(self, *, owner: str, name: str) -> None:
        """Forget a model, and its upload once no job needs it. Raises ``NotFound``."""
        model = await self._store.delete(owner=owner, name=name)
        logger.info("personal model %s (%s) removed", name, model.source.id)
        if model.key:
            await self._remove([model.key])

    async def put_path(self, path: str, *, owner: str, name: str, base: str) -> PersonalModel:
        """Register a safetensors file, or a diffusers folder, on the hosts' disks.

        Raises ``InvalidRequest`` for a path outside of the configured folders; see ``put_upload``
        for more.
        """
        located = await asyncio.to_thread(self._locate, path)
        return await self._put("path", located, owner=owner, name=name, base=base)

    async def put_hub(self, hub: str, *, owner: str, name: str, base: str) -> PersonalModel:
        """Register a Hugging Face id: ``owner/name``, or of a LoRA ``owner/name/file.safetensors``,
        either with ``@revision``."""
        if not HUB_ID.fullmatch(hub):
            message = "accepted: owner/name, owner/name/file.safetensors, each with @revision"
            raise InvalidRequest(f"hub {hub[:80]!r} is no id; {message}", param="hub")
        return await self._put("hub", hub, owner=owner, name=name, base=base)

    async def put_upload(
        self, file: BinaryIO, *, owner: str, name: str, base: str
    ) -> PersonalModel:
        """Keep a safetensors file and register it.

        Raises:
            InvalidRequest: the name, or what the checkpoint holds, cannot be accepted.
            UnsupportedField: the base model takes neither weights nor LoRAs, or the server no
                uploads.
            Conflict: the configuration has weights or a LoRA of this name for the base model, or a
                model is called so.
            UnknownModel, ModelNotReady: as of the base model.
            Overloaded: the owner has too many.
        """
        self._check_name(name, base)
        await asyncio.to_thread(_check_start, file)
        key = f"{FOLDER}/{_new_id()}.safetensors"
        url = self._images.url(key)
        if url is None:
            raise UnsupportedField("uploads are not kept by this server", param="file")
        await self._images.put_file(key, file)
        try:
            return await self._put("upload", url, owner=owner, name=name, base=base, key=key)
        except StorageFailure:
            raise  # nobody knows whether the row is kept: the sweep looks again
        except AtelierError:
            await self._images.delete([key])
            raise

    async def run(self, interval: float) -> None:
        """Sweep every ``interval`` seconds until cancelled; a store out of reach is tried again."""
        while True:
            await asyncio.sleep(interval)
            try:
                await self.sweep()
            except AtelierError as error:
                logger.warning("uploaded weights could not be swept: %s", error)
            except Exception:
                logger.exception("uploaded weights could not be swept, trying again")

    async def sweep(self) -> None:
        """Remove uploads that no model and no unfinished job names, such as replaced ones."""
        oldest = self._clock() - GRACE_SECONDS
        kept = [kept async for kept in self._images.list(FOLDER) if kept.modified_at < oldest]
        for start in range(0, len(kept), BATCH):
            await self._remove([upload.key for upload in kept[start : start + BATCH]])

    async def _remove(self, keys: Collection[str]) -> None:
        """Remove those uploads that are not needed.

        NOTE: in this order. Who adds a job looks for the model again afterwards: either its job is
        seen here, or it sees that the model is gone.
        """
        unneeded = set(keys) - await self._store.needed(keys)
        unneeded -= await self._jobs.awaited_uploads(unneeded)
        await self._images.delete(unneeded)

    async def _put(
        self, kind: str, location: str, *, owner: str, name: str, base: str, key: str = ""
    ) -> PersonalModel:
        card = self._check_name(name, base)
        source = WeightsSource(id=_new_id(), kind=kind, location=location)  # type: ignore[arg-type]
        try:
            checked = await self._models.check_weights(card.id, source, self.max_bytes)
        except (WorkerDied, WorkerUnavailable) as error:
            message = f"model {card.id!r} cannot check the weights just now"
            raise ModelNotReady(message, retry_after=5.0) from error
        model = PersonalModel(
            owner=owner,
            name=name,
            base=card.id,
            source=replace(
                source,
                location=checked.location,
                is_lora=checked.is_lora,
                digest=checked.digest,
                num_values=checked.num_values,
            ),
            key=key,
            parts=checked.parts,
            num_bytes=checked.num_bytes,
            created_at=self._clock(),
        )
        await self._store.put(model)
        logger.info("personal model %s (%s) of %s registered", name, source.id, card.id)
        return model

    def _check_name(self, name: str, base: str) -> ModelCard:
        """The card of the base model, for which the name may be taken."""
        if not NAME.fullmatch(name):
            message = "a name is 1 to 128 letters, digits and characters of _.@+:-"
            raise InvalidRequest(message, param="name")
        statuses = self._models.statuses()
        card = resolve(statuses, base)
        if not (card.takes_weights or card.takes_loras):
            raise UnsupportedField(f"model {card.id!r} takes no weights but its own", param="base")
        for kind, names in (("weights", card.weights), ("a LoRA", card.loras)):
            if name in names:
                message = f"the configuration of {card.id!r} has {kind} {name!r} already"
                raise Conflict(message, param="name")
        if any(status.card and status.card.has_name(name) for status in statuses):
            raise Conflict(f"a hosted model is called {name!r}", param="name")
        return card

    def _locate(self, path: str) -> str:
        """The path without symbolic links, when it is in one of the folders."""
        if not self._folders:
            raise UnsupportedField("this server takes no checkpoints by path", param="path")
        if "\0" in path or not 0 < len(path) <= MAX_PATH_LENGTH:
            raise InvalidRequest("path must be the path of a file or folder", param="path")
        real = Path(os.path.realpath(path))
        if not any(real.is_relative_to(os.path.realpath(folder)) for folder in self._folders):
            raise InvalidRequest("path is outside of the folders for checkpoints", param="path")
        return str(real)


def _check_start(file: BinaryIO) -> None:
    """Raise unless a file begins as safetensors do: pickles and archives are not even kept."""
    start = file.read(9)
    file.seek(0)
    if len(start) < 9 or start[8:] != b"{":
        raise InvalidRequest("the file is no safetensors file; accepted: safetensors", param="file")


def _new_id() -> str:
    return f"pm_{secrets.token_hex(12)}"
