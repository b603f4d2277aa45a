"""Executions of nodes, as a case sees them: where they are, and their code that can be held there.

A killed process does not go on: no ``finally``, no ``except``. A Trio task can only be ended by an exception,
which both would see. So nothing is ended: each task of the process has a coroutine around its own one, which
does not resume that one any more while the process is held. Trio sees a task that waits.
"""

from __future__ import annotations

import inspect
import math
import os
import types
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol, cast

import anyio
import trio

from exotrio._execution.handle import execution_context
from exotrio._link.port import Claim
from exotrio._nodes.base import BaseNode, Stopping
from exotrio.testing._points import Moment, Place

Coroutine = Any
"""With ``send``, ``throw`` and ``close``: Trio's tasks have these of more than one type."""
_OTHERS = tuple(
    os.path.dirname(os.path.abspath(path)) + os.sep
    for path in (trio.__file__, anyio.__file__, os.path.dirname(__file__))
)
"""Folders of code that is not the user's."""
MAX_CANCELLED_AWAITS = 1_000
"""Of one execution. Each raises Cancelled at once: code that goes on after so many does not end, and virtual
time stands still with it."""


class Endless(BaseException):
    """Ends a task of a node that goes on however often it is cancelled, even once its process was killed."""


class Observer(Protocol):
    """Who sees the executions."""

    records: bool
    reads_stopping: set[str]
    begun: Counter[str]

    def begin(self, claim: Claim) -> Visit: ...
    def reach(self, visit: Visit, place: Place) -> None: ...
    def note_endless(self, visit: Visit, what: str) -> None: ...
    def finish(self, visit: Visit) -> None: ...


class Visit:
    """One execution of a node.

    Args:
        observer: Who sees where it is.
        task: The task that runs the node. It, and every task that it starts, belong to this execution.
        claim: Its state.
        execution: Which of the node's executions it is, from 1.
    """

    def __init__(self, observer: Observer, task: TrackedTask, claim: Claim, execution: int) -> None:
        self.hold = Hold()
        self.state_id = claim.state_id
        self.process = task.process
        self._observer = observer
        self._node = claim.identifier
        self._execution = execution
        self._awaits = 0
        self._cancelled_awaits = 0
        self._in_node = False
        task.visit = self

    @contextmanager
    def in_node(self) -> Iterator[None]:
        """What runs in the body is the node's code."""
        self._in_node = True
        self._observer.begun[self._node] += 1
        try:
            yield
        finally:
            self._in_node = False
            self._observer.finish(self)

    def awaits(self, coroutine: Coroutine) -> None:
        """A task of the execution yields to Trio."""
        if self._in_node:
            self._awaits += 1
            self._cancelled_awaits += trio.current_effective_deadline() == -math.inf
            if self._cancelled_awaits > MAX_CANCELLED_AWAITS:
                self._cancelled_awaits = 0
                self._observer.note_endless(
                    self, f"{self._node} goes on however often it is cancelled: {_line(coroutine)}"
                )
            self.reach(Moment.AWAIT, self._awaits, _line(coroutine) if self._observer.records else "")

    def reach(self, moment: Moment, nth: int = 0, line: str = "") -> None:
        """Say where the execution is."""
        place = Place(node=self._node, execution=self._execution, moment=moment, nth=nth, line=line)
        self._observer.reach(self, place)


def observed(node: type[BaseNode], observer: Observer) -> type[BaseNode]:
    """Return a class that does what ``node`` does, on the Trio loop, and says where it is.

    Nodes of threads and processes run there as well: virtual time does not wait for those.
    """

    async def execute(self: BaseNode) -> Any:
        execution = execution_context.get()
        assert execution is not None, "a node runs for a state"
        visit = observer.begin(execution.claim)
        visit.reach(Moment.BEGIN)
        # Where it is held, or cancelled, if that is to happen before it begins.
        await trio.lowlevel.checkpoint()
        try:
            with visit.in_node():
                value = node.execute(self)
                if inspect.isawaitable(value):
                    value = await value
        except BaseException:
            await end(visit)
            raise
        await end(visit)
        return value

    async def end(visit: Visit) -> None:
        visit.reach(Moment.END)
        # Where it is held, if that is to happen before its report. Not cancelled: it has ended.
        await trio.lowlevel.cancel_shielded_checkpoint()

    def stopping(self: BaseNode) -> Stopping:
        execution = execution_context.get()
        if execution is not None:
            observer.reads_stopping.add(execution.claim.identifier)
        return self._stop_view.why

    body: dict[str, Any] = {
        "__module__": node.__module__,
        "__qualname__": node.__qualname__,
        "__doc__": node.__doc__,
        "runs_in": "trio",
        "execute": execute,
        "stopping": property(stopping),
    }
    fill: Callable[[dict[str, Any]], None] = lambda namespace: namespace.update(body)  # noqa: E731
    return types.new_class(node.__name__, (node,), exec_body=fill)


def _line(coroutine: Coroutine) -> str:
    """Return where in the user's code a suspended coroutine is; if there is none in it, its name."""
    line = f"in {getattr(coroutine, '__qualname__', coroutine)}"
    while coroutine is not None:
        frame = getattr(coroutine, "cr_frame", None) or getattr(coroutine, "gi_frame", None)
        if frame is None:
            break
        code = frame.f_code
        if not code.co_filename.startswith(_OTHERS):
            line = f"{os.path.basename(code.co_filename)}:{frame.f_lineno}, in {code.co_name}"
        coroutine = getattr(coroutine, "cr_await", None) or getattr(coroutine, "gi_yieldfrom", None)
    return line


# -- tasks that can be held


class Hold:
    """Holds tasks where they are, until it is lifted."""

    def __init__(self) -> None:
        self.active = False
        self._held: list[trio.lowlevel.Task] = []

    def begin(self) -> None:
        """Hold every task that comes by from now on."""
        self.active = True

    def lift(self) -> None:
        """Let all tasks go on."""
        self.active = False
        held, self._held = self._held, []
        for task in held:
            trio.lowlevel.reschedule(task)

    def passing(self) -> Generator[Any, Any, None]:
        """Return once the hold is lifted. A cancellation waits as long, as it would for a dead process."""
        while self.active:
            self._held.append(trio.lowlevel.current_task())
            yield from _until_rescheduled().__await__()


async def _until_rescheduled() -> None:
    await trio.lowlevel.wait_task_rescheduled(lambda _: trio.lowlevel.Abort.FAILED)


@dataclass(slots=True)
class TrackedTask:
    """A task of a process.

    Attributes:
        process: What it belongs to; a task has the one of the task that started it.
        hold: Of the process.
        visit: The execution whose node's code it runs, and with it every task that it starts; None in code
            of the runtime.
    """

    process: Any
    hold: Hold
    visit: Visit | None


@dataclass(eq=False)
class TaskTracker(trio.abc.Instrument):
    """Knows the tasks of each process, and puts the coroutine around theirs."""

    _tracked: dict[trio.lowlevel.Task, TrackedTask] = field(default_factory=dict)
    _starting: TrackedTask | None = None

    @contextmanager
    def starting(self, process: object, hold: Hold) -> Iterator[None]:
        """Have each task that the body starts be the first one of a process."""
        self._starting = TrackedTask(process, hold, None)
        try:
            yield
        finally:
            self._starting = None

    @property
    def current(self) -> TrackedTask:
        """The task that runs, which must be one of a process."""
        return self._tracked[trio.lowlevel.current_task()]

    def task_spawned(self, task: trio.lowlevel.Task) -> None:
        """Take in a task that a process starts."""
        nursery = task.parent_nursery
        parent = None if nursery is None else self._tracked.get(nursery.parent_task)
        tracked = self._starting if parent is None else TrackedTask(parent.process, parent.hold, parent.visit)
        if tracked is not None:
            self._tracked[task] = tracked
            around = _around(task.coro, tracked)
            task.coro = cast("types.CoroutineType[Any, Any, Any]", around)

    def task_exited(self, task: trio.lowlevel.Task) -> None:
        """Forget a task that has ended."""
        self._tracked.pop(task, None)


async def _around(coroutine: Coroutine, tracked: TrackedTask) -> Any:
    return await _held_when_asked(coroutine, tracked)  # Trio asks for what only such a coroutine has


@types.coroutine
def _held_when_asked(coroutine: Coroutine, tracked: TrackedTask) -> Generator[Any, Any, Any]:
    """Run a coroutine, which is not resumed while its process, or its visit, is held."""
    resume: Callable[[], Any] = partial(coroutine.send, None)
    while True:
        try:
            trap = resume()
        except StopIteration as end:
            return end.value
        if tracked.visit is not None:
            tracked.visit.awaits(coroutine)
        try:
            answer = yield trap
        except GeneratorExit:
            coroutine.close()
            raise
        except BaseException as error:  # Trio does not know the trap: it is one of another library
            resume = partial(coroutine.throw, error)
        else:
            resume = partial(coroutine.send, answer)
        # The visit first: what lifts that can be a task of the process.
        if tracked.visit is not None:
            yield from tracked.visit.hold.passing()
        yield from tracked.hold.passing()
