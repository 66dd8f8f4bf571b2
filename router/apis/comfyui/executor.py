"""The graph as a job's script: its nodes run as soon as their inputs are there."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from deployments.errors import AtelierError, Cancelled, GenerationFailed, NotFound
from deployments.types import GenerationRequest
from router.apis.comfyui.arrivals import receive
from router.apis.comfyui.cache import CACHE, Given, NodeCache
from router.apis.comfyui.drawing import Drawing
from router.apis.comfyui.failure import PASSING, NodeFailure
from router.apis.comfyui.graph import Graph
from router.apis.comfyui.holdings import MAX_BYTES, Holdings
from router.apis.comfyui.journal import Journal
from router.apis.comfyui.node import Node
from router.apis.comfyui.node_drawing import NodeDrawing, Studio
from router.apis.comfyui.nodes import NODES
from router.apis.comfyui.nodes.loaders import LORA_EXTENSION
from router.apis.comfyui.plan import Plan, keys_of, make_plan
from router.apis.comfyui.several import gather, spread
from router.apis.comfyui.values import Shown

if TYPE_CHECKING:
    from router.scripts import Canvas

logger = logging.getLogger(__name__)

#: NOTE: of this gateway's process. What works on pixels may need gigabytes while it does, so that
#: few such nodes run at once, and of one graph fewer still.
THREADS: Final = ThreadPoolExecutor(4, thread_name_prefix="pixels")
THREADS_PER_GRAPH: Final = 2

#: What the code of a node that asks models raises on inputs that nobody thought of.
FAULTS: Final = (ArithmeticError, AttributeError, LookupError, MemoryError, TypeError, ValueError)

#: Seconds that a graph still runs after its last node's frames: some clients begin to listen late.
HOLD_SECONDS: Final = 0.05


async def execute_graph(
    canvas: Canvas, requests: Sequence[GenerationRequest], args: Mapping[str, Any]
) -> None:
    """Run the graph of a job.

    Args:
        requests: one, which holds the input pictures.
        args: ``graph``, validated; ``outputs``, ids of the output nodes to run; ``inputs``, file
            name -> its place among the input pictures; ``models``, ids of those that may be asked;
            ``weights``, names of models, weights and LoRAs that the graph loads; ``width``, how
            many nodes may be with a model at once.
    Raises:
        AtelierError: why a node failed; the result tells it, and keeps what was shown until then.
        Cancelled: the job was interrupted; likewise.
    """
    await Execution(canvas, requests, args).run()


class Execution:
    """One attempt at a graph.

    Args:
        table: class type -> row.
        cache: of what nodes gave in earlier graphs.
        max_bytes: what the values of all nodes may take at once.
    """

    def __init__(
        self,
        canvas: Canvas,
        requests: Sequence[GenerationRequest],
        args: Mapping[str, Any],
        *,
        table: Mapping[str, Node] = NODES,
        cache: NodeCache = CACHE,
        max_bytes: int = MAX_BYTES,
    ) -> None:
        self._canvas = canvas
        self._cache = cache
        self._graph = Graph(args["graph"], args["outputs"], table=table)
        self._journal = Journal(canvas, canvas.job.name or canvas.job.id)
        self._studio = Studio(
            canvas=canvas,
            journal=self._journal,
            graph=args["graph"],
            outputs=args["outputs"],
            inputs={name: requests[0].images[place] for name, place in args["inputs"].items()},
            turns=asyncio.Semaphore(max(1, int(args.get("width", 1)))),
        )
        self._keys = keys_of(self._graph, self._contents(args))
        self._max_bytes = max_bytes
        self._holdings = Holdings({})
        self._threads = asyncio.Semaphore(THREADS_PER_GRAPH)
        self._done = {node: asyncio.Event() for node in self._graph.order}

    async def run(self) -> None:
        """Run it and tell its result; see ``execute_graph``."""
        try:
            await self._run_nodes()
        except NodeFailure as failure:
            if self._canvas.is_interrupted:
                raise self._interrupted() from failure
            await self._hold()
            executed, given = self._journal.executed, self._holdings.nodes
            told = {**failure.told(), "executed": executed, "current_outputs": given}
            self._journal.end("execution_error", told)
            raise failure.error from failure
        except asyncio.CancelledError as error:
            if self._canvas.is_interrupted:
                raise self._interrupted() from error
            raise
        except Exception:
            # Whoever kept latents may have died: the next attempt makes its own.
            self._cache.drop_remote(self._canvas.job.owner)
            raise
        await self._hold()
        self._journal.end("execution_success", {})

    # -- the whole ------------------------------------------------------------------------------

    async def _run_nodes(self) -> None:
        self._journal.start()
        plan = make_plan(self._graph, await self._find_given())
        self._journal.num_nodes = len(plan.order)
        self._journal.reuse(plan.reused)
        order = self._begin(plan)
        del plan  # it holds what the cache may have dropped meanwhile
        try:
            async with asyncio.TaskGroup() as group:
                for node in order:
                    group.create_task(self._run_node(node))
        except BaseExceptionGroup as group:
            failures = list(_leaves(group))
            lasting = [error for error in failures if isinstance(error, NodeFailure)]
            raise (lasting or failures)[0] from None

    async def _find_given(self) -> dict[str, Given]:
        """What the cache holds of the graph's nodes, as far as it can still be had."""
        owner, is_retried = self._canvas.job.owner, self._canvas.job.attempts > 1
        found = {}
        for node, key in self._keys.items():
            given = self._cache.get(owner, key)
            if given is None or (given.is_remote and is_retried):
                continue
            if await self._are_there(given):
                found[node] = given
        return found

    async def _are_there(self, given: Given) -> bool:
        """Whether every file that a node left behind still exists."""
        files = [
            entry
            for entries in (given.output or {}).values()
            for entry in entries
            if isinstance(entry, dict) and "filename" in entry
        ]
        try:
            for file in files:
                await self._canvas.files.find(
                    owner=self._canvas.job.owner,
                    kind=file["type"],
                    subfolder=file["subfolder"],
                    name=file["filename"],
                )
        except NotFound:
            return False
        return True

    def _begin(self, plan: Plan) -> Sequence[str]:
        """Take over what the cache gives; ids of the nodes to run."""
        self._holdings = Holdings(
            {node: self._sources_of(node) for node in plan.order}, max_bytes=self._max_bytes
        )
        for node in plan.reused:
            if (given := plan.given.get(node)) is not None:
                self._holdings.add(node, given)
                if given.output is not None:
                    self._journal.reshow(node, given.output)
            self._done[node].set()
        return plan.order

    async def _hold(self) -> None:
        try:
            await asyncio.sleep(HOLD_SECONDS)
        except asyncio.CancelledError:
            if not self._canvas.is_interrupted:
                raise

    def _interrupted(self) -> Cancelled:
        if len(self._journal.messages) < 2:
            self._journal.reuse(())  # it had not come that far, but every history tells it
        waiting = [node for node in self._graph.order if not self._done[node].is_set()]
        node = next(iter((*self._journal.running, *waiting)), "")
        told = {
            "node_id": node,
            "node_type": self._graph.kind(node).class_type if node else "",
            "executed": self._journal.executed,
        }
        self._journal.end("execution_interrupted", told)
        return Cancelled("the prompt was interrupted")

    # -- one node -------------------------------------------------------------------------------

    async def _run_node(self, node: str) -> None:
        for source in self._sources_of(node):
            await self._done[source].wait()
        self._journal.begin(node)
        inputs = self._inputs_of(node)
        try:
            given = _given(await self._call(node, inputs))
            self._holdings.add(node, given)
            if given.output is not None:
                self._journal.show(node, given.output)
        except PASSING:
            raise
        except AtelierError as error:
            kind = self._graph.kind(node)
            raise NodeFailure(node, kind.class_type, error, inputs) from error
        if node in self._keys:
            self._cache.add(self._canvas.job.owner, self._keys[node], given)
        self._holdings.release(node)
        self._journal.finish(node)
        self._done[node].set()

    def _sources_of(self, node: str) -> list[str]:
        return [link.node for link in self._graph.links(node).values()]

    def _inputs_of(self, node: str) -> dict[str, Any]:
        linked = {
            name: self._holdings.find(link.node, link.slot)
            for name, link in self._graph.links(node).items()
        }
        return self._graph.literals(node) | linked

    async def _call(self, node: str, inputs: Mapping[str, Any]) -> tuple[Any, ...] | Shown:
        """Run a node, once or for each value of the lists that it is given."""
        kind = self._graph.kind(node)
        drawing = NodeDrawing(node, self._studio)
        rows = {row.name: row for row in kind.inputs}
        received = dict(inputs)
        for name in self._graph.links(node):
            received[name] = receive(rows[name], inputs[name])
        results: list[tuple[Any, ...] | Shown] = []
        for one in spread(kind, received):
            results.append(await self._call_once(kind, drawing, one))
            self._holdings.check(results)
        return gather(results)

    async def _call_once(
        self, kind: Node, drawing: Drawing, inputs: Mapping[str, Any]
    ) -> tuple[Any, ...] | Shown:
        given: tuple[Any, ...] | Shown
        is_plain = not inspect.iscoroutinefunction(kind.run)
        try:
            if not is_plain:
                given = await kind.run(drawing, **inputs)
            elif kind.is_pictorial:
                async with self._threads:
                    work = partial(kind.run, **inputs)
                    given = await asyncio.get_running_loop().run_in_executor(THREADS, work)
            else:
                given = await asyncio.to_thread(partial(kind.run, **inputs))
        except AtelierError:
            raise
        except Exception as error:
            if not is_plain and not isinstance(error, FAULTS):
                raise  # such as a host's death
            logger.exception("job_id=%s %s failed", self._canvas.job.id, kind.class_type)
            raise GenerationFailed(f"{kind.class_type} cannot work with these inputs") from error
        return given

    def _contents(self, args: Mapping[str, Any]) -> dict[str, str]:
        """What names in the graph stand for: the key of a file's bytes, a start of a model, the id
        or the digest of weights; all of them, where a name has several meanings."""
        keys = self._canvas.job.requests[0].image_keys
        contents = {name: keys[place] for name, place in args["inputs"].items()}

        def add(names: Iterable[str], meaning: str) -> None:
            for name in names:
                contents[name] = f"{contents.get(name, '')} {meaning}"

        for model in args.get("models", ()):
            card = self._canvas.card(model)
            add((card.id, *card.aliases), f"{card.id} {card.created}")
            for name, digest in card.lora_digests:
                add((name, f"{name}{LORA_EXTENSION}"), digest)
            for name, digest in card.weights_digests:
                add((name, f"{card.id}/{name}"), f"{card.created} {digest}")
        for own in self._canvas.job.own:
            names = own.name, f"{own.base}/{own.name}", f"{own.name}{LORA_EXTENSION}"
            add(names, own.source.id)
        return contents


def _given(returned: tuple[Any, ...] | Shown) -> Given:
    if isinstance(returned, Shown):
        return Given(output=returned.output)
    return Given(values=tuple(returned))


def _leaves(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error
