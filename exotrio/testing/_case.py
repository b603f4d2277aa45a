"""One run of a graph with at most one fault: the state manager, the runtimes, and the fault."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import trio

from exotrio._execution.handle import Execution
from exotrio._fields.models import Values
from exotrio._nodes.base import BaseNode, runs_in_of
from exotrio._runtime.runtime import Runtime
from exotrio._util.exceptions import ungrouped
from exotrio._util.slim_httpx import httpx
from exotrio._wire.vocabulary import to_ms
from exotrio.client._state_manager import StateManager
from exotrio.graph import Graph
from exotrio.manager import create_app, open_service
from exotrio.manager.engine.leases import Terms
from exotrio.testing._events import EventSender, VirtualClock
from exotrio.testing._graphs import GraphRun, result, start, wait
from exotrio.testing._points import Fault, Place, Point, Work
from exotrio.testing._visits import Endless, Hold, TaskTracker, Visit, checkpoint_number, observed

if TYPE_CHECKING:
    from exotrio.testing._asyncio import TrioHostedLoop

KEY = "rehearsal"
TERMS = Terms(lease_ttl_ms=6_000)
"""Short, since each second that a run waits for the end of a lease costs a heartbeat."""
MOMENT = 0.001
"""Seconds of a pause after which all that needs no time has happened, since virtual time waits for it."""
MAX_CLEAN_UP = 90.0
"""Seconds that killed node code may take to be cancelled after the case; more than its asyncio loop has."""
MAX_SUSPENDED = 60.0
"""Seconds after which a suspended runtime continues in any case: another may wait for it to end the state."""


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """The settings that all cases of an exploration share.

    Attributes:
        successor: The node classes of the runtime that takes over.
    """

    graph: Graph
    graphs: Sequence[Graph]
    namespace: str
    nodes: Sequence[type[BaseNode]]
    successor: Sequence[type[BaseNode]]
    inputs: Values | None
    store: Mapping[str, object] | None
    events: Mapping[str, Values]


class Wire(httpx.AsyncBaseTransport):
    """Sends each request in a task of the server, so that a held runtime does not hold the server.

    Args:
        server: Answers requests.
        nursery: For the tasks of the server.

    Attributes:
        is_cut: Requests are not sent, and never answered.
        loses_answer_about: The id of a state; the answer to its outcome is lost, once.
    """

    def __init__(self, server: httpx.AsyncBaseTransport, nursery: trio.Nursery) -> None:
        self.is_cut = False
        self.loses_answer_about: str | None = None
        self._server = server
        self._nursery = nursery

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request, and return its answer."""
        if self.is_cut:
            await trio.sleep_forever()
        scope, answered = trio.CancelScope(), trio.Event()
        response: httpx.Response | None = None

        async def serve() -> None:
            nonlocal response
            with scope:
                response = await self._server.handle_async_request(request)
            answered.set()

        self._nursery.start_soon(serve)
        try:
            await answered.wait()
        finally:
            scope.cancel()
        lost = self.loses_answer_about
        if lost is not None and request.url.path.endswith("/outcomes") and lost.encode() in request.content:
            self.loses_answer_about = None
            raise httpx.ReadError("the answer was lost")
        assert response is not None, "the server has answered"
        return response


class Process:
    """A runtime with all its tasks, as a separate process.

    Args:
        number: From 1.
        has_asyncio: Whether some of them run on asyncio.

    Attributes:
        killed: It never continues.
        ended: All its tasks have ended.
        asyncio: Its asyncio loop, if it has nodes for that.
    """

    def __init__(
        self,
        number: int,
        namespace: str,
        nodes: Sequence[type[BaseNode]],
        server: httpx.AsyncBaseTransport,
        nursery: trio.Nursery,
        has_asyncio: bool,
    ) -> None:
        self.wire = Wire(server, nursery)
        self.runtime = Runtime(namespace, f"runtime {number}", nodes, key=KEY, transport=self.wire)
        self.hold = Hold()
        self.killed = False
        self.resumed = trio.Event()
        self.resumed.set()
        self.ended = trio.Event()
        self._scope = trio.CancelScope()
        self._has_asyncio = has_asyncio
        self.asyncio: TrioHostedLoop

    async def run(self, *, task_status: trio.TaskStatus[Runtime] = trio.TASK_STATUS_IGNORED) -> None:
        """Run the runtime until it is stopped."""
        try:
            with self._scope, ungrouped():
                async with trio.open_nursery() as nursery:
                    if self._has_asyncio:
                        # Here, since it imports asyncio.
                        from exotrio.testing._asyncio import TrioHostedLoop

                        self.asyncio = TrioHostedLoop()
                        nursery.start_soon(self.asyncio.serve)
                    await self.runtime.run(task_status=task_status)
                    nursery.cancel_scope.cancel()
        finally:
            self.ended.set()

    def discard(self) -> None:
        """End all its tasks."""
        self.wire.is_cut = True
        self.hold.lift()
        self._scope.cancel()


class Case:
    """One run.

    Args:
        point: The fault in it; None for none.

    Attributes:
        records: It has no fault, and records the places where one can strike.
        places: The places that the run reached, in order, if it records them.
        reads_stopping: Identifiers of nodes that read ``self.stopping``.
        begun: How often each node was begun.
        repeated: What executions did whose states had to be run again.
        endless: Describes a node that did not end when it was cancelled; None if there was none.
    """

    def __init__(self, scenario: Scenario, point: Point | None) -> None:
        self.scenario = scenario
        self.records = point is None
        self.places: list[Place] = []
        self.reads_stopping: set[str] = set()
        self.begun: Counter[str] = Counter()
        self.repeated = Work()
        self.endless: str | None = None
        self._point = point
        self._visits: Counter[str] = Counter()
        self._last_visits: dict[str, Visit] = {}
        """By the id of the state."""
        self._visit: Visit | None = None
        self._ended_elsewhere = trio.Event()
        self._tracker = TaskTracker()
        self._processes: list[Process] = []
        self.events: EventSender
        self._server: httpx.AsyncBaseTransport
        self._manager: StateManager
        self._nursery: trio.Nursery

    @asynccontextmanager
    async def run(self, timeout: float) -> AsyncIterator[GraphRun]:
        """Run the graph. Killed tasks are still held where they were while the body runs.

        Raises:
            trio.TooSlowError: the run did not end in time.

        Cancellation:
            Ends all tasks, as at the end of the body.
        """
        begin = trio.current_time()
        self.events = EventSender(self.scenario.events, self._point, VirtualClock(), self.places)
        service = open_service(
            ":memory:",
            clock=self.events.clock,
            monotonic=lambda: to_ms(trio.current_time() - begin),
            terms=TERMS,
            schedules=False,
        )
        trio.lowlevel.add_instrument(self._tracker)
        try:
            with ungrouped():
                async with service as opened, trio.open_nursery() as self._nursery:
                    # Not with ``embedded``: leases of runtimes in the process of a state manager do not end.
                    app = create_app(opened, key=KEY)
                    self._server = httpx.ASGITransport(app, raise_app_exceptions=False)
                    try:
                        async with StateManager(
                            self.scenario.namespace, "http://rehearsal", KEY, transport=self._server
                        ) as self._manager:
                            yield await self._run(self._manager, timeout)
                    finally:
                        await self._discard()
        finally:
            trio.lowlevel.remove_instrument(self._tracker)

    async def _run(self, manager: StateManager, timeout: float) -> GraphRun:
        graph = self.scenario.graph
        await self._nursery.start(self._start)
        run_id = await start(manager, graph, self.scenario.graphs, self.scenario.inputs, self.scenario.store)
        if self.events.begin(run_id):
            await self.events.send_early(manager, run_id)
        status = await wait(manager, run_id, timeout, self.events)
        for process in self._processes:
            await process.resumed.wait()
            if not process.killed:
                process.runtime.stop()
                await process.ended.wait()
        return await result(manager, graph, run_id, status)

    async def _start(self, *, task_status: trio.TaskStatus[Runtime] = trio.TASK_STATUS_IGNORED) -> None:
        """Run another runtime until it ends."""
        nodes = self.scenario.successor if self._processes else self.scenario.nodes
        process = Process(
            len(self._processes) + 1,
            self.scenario.namespace,
            [observed(node, self) for node in nodes],
            self._server,
            self._nursery,
            has_asyncio=any(runs_in_of(node) == "asyncio" for node in nodes),
        )
        self._processes.append(process)
        async with trio.open_nursery() as nursery:
            with self._tracker.starting(process, process.hold):
                nursery.start_soon(partial(process.run, task_status=task_status))

    async def _discard(self) -> None:
        """End all processes, killed ones included. Shielded, for up to ``MAX_CLEAN_UP``."""
        left = [process for process in self._processes if not process.ended.is_set()]
        with _without_logs(), trio.move_on_after(MAX_CLEAN_UP, shield=True):
            for process in left:
                process.discard()
            for process in left:
                await process.ended.wait()

    @property
    def struck(self) -> bool:
        """Whether the run reached the place where the fault strikes."""
        return self._visit is not None or self.events.struck

    # -- for visits

    def begin(self, execution: Execution) -> Visit:
        """Return the execution of a node that begins in the current task."""
        claim = execution.claim
        self._visits[claim.identifier] += 1
        before = self._last_visits.get(claim.state_id)
        if before is not None and not before.asked:
            work = before.work_after(checkpoint_number(claim))
            self.repeated = Work(self.repeated.awaits + work.awaits, self.repeated.seconds + work.seconds)
        visit = Visit(self, self._tracker.current, execution, self._visits[claim.identifier])
        self._last_visits[claim.state_id] = visit
        run_id = str(claim.run_id)  # ours names it
        if self.events.begin(run_id):
            visit.hold.begin()
            self._nursery.start_soon(self._send_early, run_id, visit.hold)
        return visit

    def reach(self, visit: Visit, place: Place) -> None:
        """Record that an execution reached a place; if the fault belongs there, let it strike."""
        if self._point is None:
            self.places.append(place)
        elif self._visit is None and place == self._point.place:
            self._visit = visit
            self._strike(self._point.fault, visit, visit.process)

    def kill_endless(self, visit: Visit, what: str) -> None:
        """Kill the process of an execution that does not end when it is cancelled, as an operator has to."""
        process: Process = visit.process
        if process.killed:
            raise Endless(what)  # the case is over, and only this task is left
        self.endless = what
        process.killed = True
        process.hold.begin()

    def finish(self, visit: Visit) -> None:
        """Record that the code of an execution has ended."""
        struck = self._visit
        if struck is not None and visit is not struck and visit.state_id == struck.state_id:
            self._ended_elsewhere.set()

    # -- faults

    def _strike(self, fault: Fault, visit: Visit, process: Process) -> None:
        if fault is Fault.ANSWER_LOST:
            process.wire.loses_answer_about = visit.state_id
            return
        if fault is Fault.STORED:
            visit.hold.begin()
            self._nursery.start_soon(self._kill_once_stored, visit, process)
            return
        self._nursery.start_soon(self._start)
        if fault is Fault.KILLED:
            process.killed = True
            process.hold.begin()
        elif fault is Fault.SUSPENDED:
            process.hold.begin()
            process.resumed = trio.Event()
            self._nursery.start_soon(self._resume, process)
        else:
            # The node is held until the runtime has told or cancelled it, which takes some steps.
            visit.hold.begin()
            self._nursery.start_soon(self._lift, visit.hold)
            process.runtime.stop(0 if fault is Fault.STOPPED else None)

    async def _kill_once_stored(self, visit: Visit, process: Process) -> None:
        try:
            with trio.move_on_after(MAX_SUSPENDED):
                while not visit.is_stored:  # noqa: ASYNC110  (a heartbeat confirms it, in the runtime)
                    await trio.sleep(MOMENT)
            process.killed = True
            process.hold.begin()
            self._nursery.start_soon(self._start)
        finally:
            visit.hold.lift()

    async def _send_early(self, run: str, hold: Hold) -> None:
        try:
            await self.events.send_early(self._manager, run)
        finally:
            hold.lift()

    async def _lift(self, hold: Hold) -> None:
        try:
            await trio.sleep(MOMENT)
        finally:
            hold.lift()  # held tasks do not end, even if they are cancelled

    async def _resume(self, process: Process) -> None:
        with trio.move_on_after(MAX_SUSPENDED):
            await self._ended_elsewhere.wait()
            await trio.sleep(MOMENT)  # the outcome is recorded meanwhile
        process.hold.lift()
        process.resumed.set()


@contextmanager
def _without_logs() -> Iterator[None]:
    """Log nothing: a killed process would not, but the end of its tasks here would be logged."""
    before = logging.root.manager.disable
    logging.disable()
    try:
        yield
    finally:
        logging.disable(before)
