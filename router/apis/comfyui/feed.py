"""Feed: the frames of one prompt, from what its script told to the sockets of who asked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from deployments.errors import NotFound
from router.apis.comfyui import frames
from router.apis.comfyui.entry import client_of, has_previews, messages_of
from router.apis.comfyui.frames import Frame, Picture
from router.apis.comfyui.sockets import Sockets
from router.files import Files
from router.job import Job, JobProgress

#: Frames that everybody gets when the prompt named no client; the others are its client's alone.
FOR_ALL: Final = frozenset({"progress", "progress_state", "execution_interrupted"})
#: Frames that a prompt which is run again after a crash does not repeat.
TOLD_ONCE: Final = frozenset({"execution_start", "execution_cached", "executed"})


class Feed:
    """Where the frames of one prompt stand. Each goes out once and in order.

    Attributes:
        job: the prompt's job, as it was when the feed began.
        client_id: whose frames they are; None when the prompt named nobody.
        node: the node that it executes, as its client was told last.
    """

    def __init__(self, job: Job, *, sockets: Sockets, files: Files) -> None:
        self.job = job
        self.client_id = client_of(job)
        self.node: str | None = None
        self._sockets = sockets
        self._files = files
        self._has_previews = has_previews(job)
        self._first: Mapping[str, Any] | None = None
        self._position = 0
        self._told: set[tuple[str, str | None]] = set()
        self._preview: Mapping[str, Any] = {}
        self._num_previews = 0

    async def relay(self, progress: JobProgress) -> None:
        """Send what is new."""
        self._begin_anew_where_the_prompt_did(progress)
        while self._position < len(progress.notes):
            note = progress.notes[self._position]
            self._position += 1
            if note is not None:  # else a later note says all of it
                await self._tell(note)
        self._look_at(progress)

    def begin(self, job: Job) -> None:
        """Send how the ended prompt began, where its script never told."""
        for kind, data in messages_of(job)[:2]:
            self._tell_frame(kind, data)

    def end(self, job: Job) -> None:
        """Send how the prompt ended."""
        kind, data = messages_of(job)[-1]
        self._tell_frame(kind, data)

    def send(self, frame: Frame, *, is_for_all: bool) -> None:
        """To the prompt's client; where it named none, to all of the owner's or to nobody."""
        if self.client_id is not None or is_for_all:
            self._sockets.send(frame, owner=self.job.owner, client_id=self.client_id)

    def _begin_anew_where_the_prompt_did(self, progress: JobProgress) -> None:
        first = progress.notes[0] if progress.notes else self._first
        if self._first is not None and first != self._first:
            self._position = self._num_previews = 0
        self._first = first

    async def _tell(self, note: Mapping[str, Any]) -> None:
        if "show" in note:
            await self._show(note)
        elif "preview" in note:
            self._preview = note
        else:
            self._tell_frame(note["type"], note["data"])

    def _tell_frame(self, kind: str, data: Mapping[str, Any]) -> None:
        if kind in TOLD_ONCE:
            which = (kind, data.get("node"))
            if which in self._told:
                return
            self._told.add(which)
        if kind == "executing":
            self.node = data["node"]
        self.send(frames.text(kind, data), is_for_all=kind in FOR_ALL)

    async def _show(self, note: Mapping[str, Any]) -> None:
        """A whole picture of ``SaveImageWebsocket``."""
        if not self._sockets.has(self.job.owner, self.client_id):
            return
        try:
            file = await self._files.find(owner=self.job.owner, **note["show"])
            data = await self._files.read(file)
        except NotFound:
            return  # it was removed: a look at it is all that is lost
        told = {"value": note["value"], "max": note["max"]}
        told |= {"prompt_id": self.job.name, "node": note["node"]}
        self._tell_frame("progress", told)
        self._send_picture(data, "png", note["node"], can_be_dropped=False)

    def _look_at(self, progress: JobProgress) -> None:
        """A look at the picture under way, unless its node is done: clients take a picture for
        that of the node which executes."""
        if progress.preview is None or progress.num_previews <= self._num_previews:
            return
        self._num_previews = progress.num_previews
        node = self._preview.get("node", "")
        is_known = self._preview.get("preview") == progress.num_previews
        if self._has_previews and is_known and node == self.node:
            self._send_picture(progress.preview, "jpeg", node, can_be_dropped=True)

    def _send_picture(
        self, data: bytes, picture_format: str, node: str, *, can_be_dropped: bool
    ) -> None:
        picture = Picture(
            data=data,
            format=picture_format,
            node=node,
            prompt_id=self.job.name or "",
            can_be_dropped=can_be_dropped,
        )
        self.send(picture, is_for_all=True)
