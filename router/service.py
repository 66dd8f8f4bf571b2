"""GenerationService: what the APIs call. Submit, wait, watch, cancel, get, list, image."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from typing import Any, Final

from deployments.errors import (
    AtelierError,
    Cancelled,
    Conflict,
    InvalidRequest,
    JobNotFound,
    NotFound,
    Overloaded,
    error_for,
)
from deployments.types import Evicted, GenerationRequest, Load, ModelCard
from router.belongings import Belongings, Variant, names_of
from router.dispatch import Dispatcher
from router.events import EventHub, JobNews
from router.files import Files
from router.job import (
    Idempotency,
    Job,
    JobProgress,
    JobStand,
    JobStatus,
    StoredRequest,
    new_job,
    store_request,
)
from router.models import Models, ModelStatus
from router.overview import Overview, overview
from router.personal_models import PersonalModels
from router.routing import choose, resolve
from router.store.images import ImageStore
from router.store.jobs import JobPage, JobStore

#: Seconds without news after which a watcher looks at the store itself.
SILENCE_SECONDS: Final = 5.0
#: Seconds between looks whether a caller is still there.
POLL_SECONDS: Final = 0.2
#: The longest prompt, in characters.
MAX_PROMPT_LENGTH: Final = 20_000


class GenerationService:
    """The one way in and out: every API's request becomes a job here.

    Args:
        files: the owners' files; its jobs' scripts read and write them, too.
        personal: the owners' own weights.
        max_queued_jobs: waiting jobs beyond which new ones are refused with ``Overloaded``.
    """

    def __init__(
        self,
        *,
        models: Models,
        jobs: JobStore,
        images: ImageStore,
        files: Files,
        personal: PersonalModels,
        dispatcher: Dispatcher,
        events: EventHub,
        max_queued_jobs: int = 10_000,
    ) -> None:
        self._models = models
        self._jobs = jobs
        self._images = images
        self.files = files
        self.personal = personal
        self._dispatcher = dispatcher
        self._events = events
        self._max_queued_jobs = max_queued_jobs

    # -- models ---------------------------------------------------------------------------------

    def model_statuses(self) -> Sequence[ModelStatus]:
        """Every configured model, ready or not."""
        return self._models.statuses()

    def cards(self) -> tuple[ModelCard, ...]:
        """The card of every model that has started."""
        return self._models.cards()

    @property
    def is_ready(self) -> bool:
        """Whether every configured model has a running replica."""
        return self._models.are_ready

    @property
    def loads(self) -> Mapping[str, Load]:
        """How busy the ready models were, and how full, a few seconds ago."""
        return self._dispatcher.loads

    def resolve(self, name: str) -> ModelCard:
        """The card with this id or alias; see ``routing.resolve`` for errors."""
        return resolve(self._models.statuses(), name)

    def choose(self, request: GenerationRequest, *, prefer: Sequence[str] = ()) -> ModelCard:
        """The card of the model that ``submit`` would choose; see ``routing.choose``."""
        return choose(
            self._models.statuses(),
            name=request.model,
            mode=request.mode,
            prefer=prefer,
            loads=self._dispatcher.loads,
        )

    async def belongings(self, *, owner: str) -> Belongings:
        """The weights and LoRAs that an owner has registered."""
        return await self.personal.belongings(owner=owner)

    async def variants(self, *, owner: str) -> tuple[Variant, ...]:
        """All that draws under a name for this owner: the models that serve, and weights."""
        return (await self.belongings(owner=owner)).variants(self.cards())

    async def variant(self, name: str, *, owner: str) -> Variant:
        """What a name stands for to this owner. Raises as ``resolve``."""
        own = await self._named([name], owner=owner)
        return own.resolve(self._models.statuses(), name)

    async def meant(self, request: GenerationRequest, *, owner: str) -> GenerationRequest:
        """The request with the id of the hosted model that its model's name means, and with the
        weights, where it means those. Raises as ``resolve``."""
        if request.model is None:
            return request
        own = await self._named([request.model], owner=owner)
        return own.meant(self._models.statuses(), request)

    async def find_weights(
        self, names: Sequence[str], card: ModelCard, *, owner: str
    ) -> str | None:
        """The first of the names of weights that a model has for this owner: his own, or those of
        its configuration. None is the model itself."""
        own = await self.belongings(owner=owner)
        known = (name for name in names if name in card.weights or own.weights(name, card))
        return next(known, None)

    async def refresh(self) -> None:
        """Learn anew what the models offer, such as LoRAs that were put into their folders."""
        await self._models.refresh()

    async def overview(self) -> Overview:
        """What the cluster runs, and what it holds of each device's memory."""
        return overview(await self._models.applications())

    async def evict(self) -> Evicted:
        """Drop idle weights everywhere."""
        return await self._models.evict()

    # -- jobs -----------------------------------------------------------------------------------

    async def submit(
        self,
        *requests: GenerationRequest,
        api: str,
        owner: str,
        prefer: Sequence[str] = (),
        priority: int = 0,
        idempotency: Idempotency | None = None,
        webhook_url: str | None = None,
        notify: bool = False,
        details: Mapping[str, Any] | None = None,
        job_id: str | None = None,
    ) -> Job:
        """Accept work: from here on it is durable.

        The job waits for the model that its first request names, else the first of ``prefer`` that
        can do the work, else the least loaded capable one. Its other requests run on that, too, but
        for those that name another. Input pictures are kept before the row. Names of models may be
        those of weights; a script's ``weights`` are further names that it may come to use.

        Raises:
            InvalidRequest, UnknownModel, ModelNotReady: see ``routing``.
            Overloaded: too many jobs wait already.
            Conflict: the idempotency key came with another body, ``job_id`` is taken, or weights
                that a request names were removed just now.
            StorageFailure: the job could not be kept; it was not accepted.
        """
        if not requests:
            raise InvalidRequest("a job needs at least one request")
        first = await self.find(idempotency, api=api, owner=owner)
        if first is not None:
            return first
        for request in requests:
            _check_texts(request)
        script_args = (details or {}).get("script_args", {})
        names = names_of(requests) | frozenset(script_args.get("weights", ()))
        own = await self._named(names, owner=owner)
        meant = [own.meant(self._models.statuses(), request) for request in requests]
        card = self.choose(meant[0], prefer=prefer)
        admitted = [own.admit(self._card_of(request, card), request) for request in meant]
        self._check_queue()
        stored = await self._store_inputs(admitted)
        job = new_job(
            stored,
            own=own.among(names),
            api=api,
            owner=owner,
            model=card.id,
            priority=priority,
            webhook_url=webhook_url,
            notify=notify,
            details=details or {},
            id=job_id,
        )
        return await self._add(job, idempotency=idempotency)

    async def enqueue(
        self,
        script: str,
        args: Mapping[str, Any],
        *,
        model: str,
        api: str,
        owner: str,
        name: str,
        input_keys: Sequence[str] = (),
        priority: int = 0,
        details: Mapping[str, Any] | None = None,
    ) -> Job:
        """Accept a job whose script makes its own requests, while it runs, of one or more models.

        Args:
            args: what the script needs (JSON values); ``models`` lists the ids of those it may ask,
                ``weights`` the names of weights and LoRAs that it may use.
            model: id of the model whose queue it waits in; "" when it needs none.
            name: the client's id of the job; see ``Job.name``.
            input_keys: keys of the kept pictures that it needs. The script finds their bytes, in
                order, in the ``images`` of its one request.

        Raises ``Overloaded``, ``Conflict`` (the name runs already, or weights were removed just
        now), ``StorageFailure``.
        """
        self._check_queue()
        names = frozenset(args.get("weights", ()))
        own = await self._named(names, owner=owner)
        request = StoredRequest(request=GenerationRequest(prompt=""), image_keys=tuple(input_keys))
        job = new_job(
            (request,),
            own=own.among(names),
            api=api,
            owner=owner,
            model=model,
            name=name,
            priority=priority,
            details={**(details or {}), "script": script, "script_args": args},
        )
        return await self._add(job)

    async def find(self, idempotency: Idempotency | None, *, api: str, owner: str) -> Job | None:
        """The job that a key brought before, whatever else has changed; None when it is new.

        Raises ``Conflict`` when it came with another body.
        """
        if idempotency is None:
            return None
        return await self._jobs.find(owner=owner, api=api, idempotency=idempotency)

    async def run(
        self,
        *requests: GenerationRequest,
        is_disconnected: Callable[[], Awaitable[bool]] | None = None,
        idempotency: Idempotency | None = None,
        **submit_args: Any,
    ) -> Job:
        """Submit and wait: the synchronous call. Returns the completed job.

        A caller that goes away (this task is cancelled, or ``is_disconnected`` answers true)
        cancels the job, unless it gave an idempotency key: then it may come back for the pictures.
        Raises the job's error when it failed, ``Cancelled`` when it was cancelled.
        """
        job = await self.submit(*requests, idempotency=idempotency, **submit_args)
        if idempotency is not None:
            return raise_unless_completed(await self._ended(job.id))
        return await self.wait(job.id, is_disconnected=is_disconnected)

    async def wait(
        self,
        job_id: str,
        *,
        is_disconnected: Callable[[], Awaitable[bool]] | None = None,
    ) -> Job:
        """Wait for a job's end on behalf of a caller without whom it is pointless; see ``run``."""
        leaver = is_disconnected and asyncio.create_task(self._cancel_when(is_disconnected, job_id))
        try:
            return raise_unless_completed(await self._ended(job_id))
        except asyncio.CancelledError:
            await asyncio.shield(self._cancel(job_id))
            raise
        finally:
            if leaver:
                leaver.cancel()

    async def watch(self, job_id: str) -> AsyncIterator[JobNews]:
        """Progress as it happens, on whichever replica the job runs, then the ended job."""
        with self._events.subscribe(job_id) as subscription:
            news = await self._newest(job_id)
            while True:
                for item in news:
                    yield item
                    if isinstance(item, Job):
                        return
                # The hub tells everything; looking again after a long silence costs little.
                news = await subscription.take(SILENCE_SECONDS) or await self._newest(job_id)

    async def cancel(self, job_id: str, *, owner: str) -> Job:
        """Cancel a job of this owner; one that has ended is returned as it is.

        Raises ``JobNotFound``.
        """
        await self.get(job_id, owner=owner)
        return await self._cancel(job_id)

    async def interrupt(self, job_id: str, *, owner: str) -> Job:
        """Ask a job of this owner to end with the pictures it has, on whichever replica it runs.

        Raises ``JobNotFound``.
        """
        await self.get(job_id, owner=owner)
        job = await self._jobs.interrupt(job_id)
        self._dispatcher.interrupt(job_id)
        if job.status.is_final:
            self._events.publish(job_id, job)
        return job

    async def skip(self, job_id: str, *, owner: str) -> None:
        """Ask a running job of this owner to leave out what it draws just now, and to go on with
        what follows, on whichever replica it runs. Raises ``JobNotFound``."""
        await self.get(job_id, owner=owner)
        await self._jobs.skip(job_id)

    async def get(self, job_id: str, *, owner: str) -> Job:
        """The job. Raises ``JobNotFound``, also for other owners' jobs."""
        job = await self._jobs.get(job_id)
        if job.owner != owner:
            raise JobNotFound(f"no job {job_id!r}")
        return job

    async def list(
        self,
        *,
        owner: str,
        api: str | None = None,
        statuses: Collection[JobStatus] = (),
        limit: int = 50,
        cursor: str | None = None,
    ) -> JobPage:
        """This owner's jobs, newest first."""
        return await self._jobs.list(
            owner=owner, api=api, statuses=statuses, limit=limit, cursor=cursor
        )

    async def named(self, name: str, *, owner: str, api: str) -> Job:
        """The newest job with the client's own id, unless it was hidden. Raises ``JobNotFound``."""
        return await self._jobs.named(name, owner=owner, api=api)

    async def unfinished(self, *, owner: str, api: str) -> Sequence[Job]:
        """This owner's jobs in progress, then the queued ones in the order of their turns."""
        return await self._jobs.unfinished(owner=owner, api=api)

    async def unfinished_ids(self, *, owner: str, api: str) -> frozenset[str]:
        """Ids of this owner's jobs that have not ended."""
        return await self._jobs.unfinished_ids(owner=owner, api=api)

    async def history(self, *, owner: str, api: str, limit: int | None = None) -> Sequence[str]:
        """Ids of this owner's ended jobs that are not hidden, the first to end first."""
        return await self._jobs.history(owner=owner, api=api, limit=limit)

    async def hide(self, *, owner: str, api: str, job_ids: Collection[str] | None) -> None:
        """Take ended jobs (None: all) out of the owner's history; the jobs themselves stay."""
        await self._jobs.hide(owner=owner, api=api, job_ids=job_ids)

    async def changed_since(
        self, moment: float, *, api: str, owners: Collection[str]
    ) -> Sequence[JobStand]:
        """Where jobs of these owners stand that were added or moved since a time, on whichever
        replica."""
        return await self._jobs.changed_since(moment, api=api, owners=owners)

    async def next_number(self, *, owner: str, counter: str) -> int:
        """0, 1, 2, ...: the next number of an owner's counter, the same on every replica."""
        return await self._jobs.next_number(owner=owner, counter=counter)

    async def progress(self, job_id: str) -> JobProgress | None:
        """The newest news of a job in progress."""
        return await self._jobs.progress(job_id)

    async def image(self, job: Job, index: int) -> bytes:
        """The encoded bytes of a job's picture, counted from 0. Raises ``NotFound``."""
        if not 0 <= index < len(job.images):
            raise NotFound(f"job {job.id!r} has no image {index + 1}")
        return await self._images.get(job.images[index].key)

    async def images(self, job: Job) -> Sequence[bytes]:
        """The encoded bytes of all of a job's pictures, in order."""
        return await asyncio.gather(*(self._images.get(image.key) for image in job.images))

    # -- inside ---------------------------------------------------------------------------------

    def _card_of(self, request: GenerationRequest, card: ModelCard) -> ModelCard:
        """The card of the model that the request names, else the job's."""
        return card if request.model in (None, card.id) else self.choose(request)

    async def _named(self, names: Collection[str], *, owner: str) -> Belongings:
        """What the owner has registered; nothing, without asking the store, when all of the names
        are models'."""
        cards = self._models.cards()
        if all(any(card.has_name(name) for card in cards) for name in names):
            return Belongings()
        return await self.belongings(owner=owner)

    async def _add(self, job: Job, *, idempotency: Idempotency | None = None) -> Job:
        """Make a job durable, and let it run."""
        added = await self._jobs.add(job, idempotency=idempotency)
        keys = job.upload_keys if added.id == job.id else ()
        if keys and not await self.personal.are_kept(keys):
            await self._cancel(job.id)
            raise Conflict("weights that the request names were removed just now", param="weights")
        self._dispatcher.wake(added.model)
        return added

    def _check_queue(self) -> None:
        waiting = self._dispatcher.num_queued
        if waiting >= self._max_queued_jobs:
            raise Overloaded(
                f"{waiting} jobs are waiting already; accepted: at most {self._max_queued_jobs}",
                retry_after=5.0,
            )

    async def _store_inputs(
        self, requests: Sequence[GenerationRequest]
    ) -> tuple[StoredRequest, ...]:
        stored_requests = []
        blobs: dict[str, bytes] = {}
        for request in requests:
            stored, needed = await asyncio.to_thread(store_request, request)
            stored_requests.append(stored)
            blobs |= needed
        await asyncio.gather(*(self._images.put(key, data) for key, data in blobs.items()))
        return tuple(stored_requests)

    async def _cancel(self, job_id: str) -> Job:
        job = await self._jobs.cancel(job_id)
        self._dispatcher.abandon(job_id)
        self._events.publish(job_id, job)
        return job

    async def _ended(self, job_id: str) -> Job:
        async for news in self.watch(job_id):
            if isinstance(news, Job):
                return news
        raise AssertionError("a watch ends with the job")

    async def _cancel_when(
        self, is_disconnected: Callable[[], Awaitable[bool]], job_id: str
    ) -> None:
        while not await is_disconnected():  # noqa: ASYNC110 - ASGI has no event for it
            await asyncio.sleep(POLL_SECONDS)
        await self._cancel(job_id)

    async def _newest(self, job_id: str) -> Sequence[JobNews]:
        job = await self._jobs.get(job_id)
        if job.status.is_final:
            return [job]
        progress = await self._jobs.progress(job_id)
        return [progress] if progress is not None else []


def raise_unless_completed(job: Job) -> Job:
    """The completed job; a failed one raises its error, a cancelled one ``Cancelled``."""
    if job.status is JobStatus.COMPLETED:
        return job
    if job.status is JobStatus.FAILED and job.error is not None:
        raise error_for(job.error.code, job.error.message, job.error.param)
    if job.status is JobStatus.CANCELLED:
        raise Cancelled("the job was cancelled")
    raise AtelierError(f"job {job.id} is {job.status}")


def _check_texts(request: GenerationRequest) -> None:
    texts = {"prompt": request.prompt, "negative_prompt": request.negative_prompt}
    if second := request.second_pass:
        texts["second_pass.prompt"] = second.prompt or ""
        texts["second_pass.negative_prompt"] = second.negative_prompt or ""
    for param, text in texts.items():
        if len(text) > MAX_PROMPT_LENGTH:
            raise InvalidRequest(
                f"{param} has {len(text)} characters; accepted: at most {MAX_PROMPT_LENGTH}",
                param=param,
            )
        if "\0" in text:
            raise InvalidRequest(f"{param} holds a NUL character; accepted: text", param=param)
