"""Executions of nodes as a case observes them, and tasks that can be held where they are.

A killed process runs no ``finally`` and no ``except``. A Trio task can only be ended by an exception, which
would run both. So no task is ended. Instead, the coroutine of each task is wrapped in another one, which does
not resume it while the process is held. To Trio, such a task waits.
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
from pydantic import BaseModel

from exotrio._execution.handle import Execution, execution_context
from exotrio._link.port import Claim
from exotrio._nodes.base import BaseNode, Stopping, runs_in_of
from exotrio._nodes.outcome import Signal
from exotrio._util.exceptions import single_leaf
from exotrio.testing._nodes import derived
from exotrio.testing._points import NO_WORK, Moment, Place, Work

Coroutine = Any
"""Has ``send``, ``throw`` and ``close``; Trio's tasks have coroutines of more than one type."""
_ASYNCIO = os.path.join(os.path.dirname(os.__file__), "asyncio", "__init__.py")
_LIBRARIES = tuple(
    os.path.dirname(os.path.abspath(path)) + os.sep
    for path in (trio.__file__, anyio.__file__, _ASYNCIO, __file__)
)
"""Folders of code that the user did not write."""
MAX_CANCELLED_AWAITS = 1_000
"""Cancelled awaits of one execution, after which its code counts as endless: virtual time does not pass
meanwhile."""


class Endless(BaseException):
    """Ends a task of a node that continues although it is cancelled, even after its process was killed."""


class Observer(Protocol):
    """Observes executions: a ``Case``."""

    records: bool
    reads_stopping: set[str]
    begun: Counter[str]

    def begin(self, execution: Execution) -> Visit: ...
    def reach(self, visit: Visit, place: Place) -> None: ...
    def kill_endless(self, visit: Visit, what: str) -> None: ...
    def finish(self, visit: Visit) -> None: ...


class Visit:
    """One execution of a node.

    Args:
        observer: Called at each point that the execution reaches.
        task: The task that runs the node. It and every task that it starts belong to this execution.
        number: Its number among those of the node, from 1.

    Attributes:
        asked: It ended by a signal: the node asked for another execution, or for none.
    """

    def __init__(self, observer: Observer, task: TrackedTask, execution: Execution, number: int) -> None:
        self.hold = Hold()
        self.state_id = execution.claim.state_id
        self.process = task.process
        self.asked = False
        self._observer = observer
        self._node = execution.claim.identifier
        self._number = number
        self._checkpoint = execution.checkpoint
        self._newest = checkpoint_number(execution.claim)
        self._began = trio.current_time()
        self._done = NO_WORK
        """Until the last place that it reached."""
        self._set = {self._newest: NO_WORK}
        """The work that was done when a checkpoint was set, by its number."""
        self._awaits = 0
        self._cancelled_awaits = 0
        self._loop: str | None = None
        task.visit = self

    @contextmanager
    def in_node(self, loop: str) -> Iterator[None]:
        """Treat the body as the node's code, whose tasks run on ``loop``: ``trio`` or ``asyncio``."""
        self._loop = loop
        self._observer.begun[self._node] += 1
        try:
            yield
        finally:
            self._loop = None
            self._observer.finish(self)

    def awaits(self, coroutine: Coroutine, loop: str, *, cancelled: bool) -> None:
        """Record that a task of the execution yields to ``loop``. ``cancelled``: it is to end."""
        if self._loop == loop:
            self._awaits += 1
            self._cancelled_awaits += cancelled
            if self._cancelled_awaits > MAX_CANCELLED_AWAITS:
                self._cancelled_awaits = 0
                self._observer.kill_endless(
                    self,
                    f"{self._node} continues however often it is cancelled: {_line(coroutine)}",
                )
            line = _line(coroutine) if self._observer.records else ""
            self.reach(Moment.AWAIT, self._awaits, line, self._new_checkpoint())

    @property
    def is_on_asyncio(self) -> bool:
        """Whether the node's code runs on asyncio, and the Trio task of the execution waits for it."""
        return self._loop == "asyncio"

    def reach(self, moment: Moment, nth: int = 0, line: str = "", checkpoint: int = 0) -> None:
        """Tell the observer where the execution is."""
        self._done = Work(self._awaits, trio.current_time() - self._began)
        self._observer.reach(
            self,
            Place(
                node=self._node,
                execution=self._number,
                moment=moment,
                nth=nth,
                checkpoint=checkpoint,
                line=line,
            ),
        )

    @property
    def is_stored(self) -> bool:
        """Whether the state manager has its newest checkpoint."""
        return self._checkpoint is None or self._checkpoint.unconfirmed is None

    def work_after(self, checkpoint: int) -> Work:
        """Return what it did after it set the checkpoint of this number."""
        before = self._set.get(checkpoint, NO_WORK)
        return Work(self._done.awaits - before.awaits, self._done.seconds - before.seconds)

    def _new_checkpoint(self) -> int:
        """Return the number of the checkpoint that was set since the await before; 0 if none was."""
        last = None if self._checkpoint is None else self._checkpoint.last
        if last is None or last.number <= self._newest:
            return 0
        self._newest = last.number
        self._set[last.number] = Work(self._awaits - 1, trio.current_time() - self._began)
        return last.number


def observed(node: type[BaseNode], observer: Observer) -> type[BaseNode]:
    """Return a class that does what ``node`` does, in Trio's thread, and reports where it is.

    Nodes of threads and processes run there as well, since virtual time does not wait for those; so do those
    on asyncio, in a loop that a Trio task runs.
    """
    on_asyncio = runs_in_of(node) == "asyncio"

    async def execute(self: BaseNode) -> Any:
        execution = execution_context.get()
        assert execution is not None, "a node runs for a state"
        visit = observer.begin(execution)
        visit.reach(Moment.BEGIN)
        # Here it is held or cancelled if the fault strikes before it begins.
        await trio.lowlevel.checkpoint()
        try:
            with visit.in_node("asyncio" if on_asyncio else "trio"):
                if on_asyncio:
                    code = partial(node.execute, self)
                    value = await visit.process.asyncio.execute(code, execution, visit)
                else:
                    value = node.execute(self)
                    if inspect.isawaitable(value):
                        value = await value
        except BaseException as error:
            visit.asked = isinstance(single_leaf(error), Signal)
            await end(visit)
            raise
        await end(visit)
        return value

    async def end(visit: Visit) -> None:
        visit.reach(Moment.END)
        # Here it is held if the fault strikes before its report. It is not cancelled: it has ended.
        await trio.lowlevel.cancel_shielded_checkpoint()

    def stopping(self: BaseNode) -> Stopping:
        execution = execution_context.get()
        if execution is not None:
            observer.reads_stopping.add(execution.claim.identifier)
        return self._stop_view.why

    def set_checkpoint(self: Any, value: BaseModel) -> None:
        self.checkpoint = value  # it cannot wait: this is not a separate thread

    changed: dict[str, object] = {"runs_in": "trio", "execute": execute, "stopping": property(stopping)}
    if runs_in_of(node) in ("thread", "process"):
        changed["save_checkpoint_sync"] = set_checkpoint
    return derived(node, **changed)


def checkpoint_number(claim: Claim) -> int:
    """Return the number of the checkpoint that a state continues from; 0 without one."""
    return 0 if claim.checkpoint is None else claim.checkpoint.number


def _line(coroutine: Coroutine) -> str:
    """Return the line of the user's code where a coroutine is suspended; without such code, its name."""
    line = f"in {getattr(coroutine, '__qualname__', coroutine)}"
    while coroutine is not None:
        frame = getattr(coroutine, "cr_frame", None) or getattr(coroutine, "gi_frame", None)
        if frame is None:
            break
        code = frame.f_code
        if not code.co_filename.startswith(_LIBRARIES):
            line = f"{os.path.basename(code.co_filename)}:{frame.f_lineno}, in {code.co_name}"
        coroutine = getattr(coroutine, "cr_await", None) or getattr(coroutine, "gi_yieldfrom", None)
    return line


# -- tasks that can be held


class Hold:
    """Holds tasks where they are until it is lifted."""

    def __init__(self) -> None:
        self.active = False
        self._held: list[Callable[[], object]] = []

    def begin(self) -> None:
        """Hold every task that passes from now on."""
        self.active = True

    def lift(self) -> None:
        """Let all tasks continue."""
        self.active = False
        held, self._held = self._held, []
        for resume in held:
            resume()

    def on_lift(self, resume: Callable[[], object]) -> None:
        """Have ``resume`` called when the hold is lifted, to let a task continue."""
        self._held.append(resume)

    def passing(self) -> Generator[Any, Any, None]:
        """Return once the hold is lifted. Until then a cancellation has no effect, as in a dead process."""
        while self.active:
            self.on_lift(partial(trio.lowlevel.reschedule, trio.lowlevel.current_task()))
            yield from _until_rescheduled().__await__()


async def _until_rescheduled() -> None:
    await trio.lowlevel.wait_task_rescheduled(lambda _: trio.lowlevel.Abort.FAILED)


@dataclass(slots=True)
class TrackedTask:
    """A task of a process.

    Attributes:
        visit: The execution whose node code this task runs, and every task that it starts; None for a task
            of the runtime.
    """

    process: Any
    hold: Hold
    visit: Visit | None


@dataclass(eq=False)
class TaskTracker(trio.abc.Instrument):
    """Knows the tasks of each process, and wraps their coroutines."""

    _tracked: dict[trio.lowlevel.Task, TrackedTask] = field(default_factory=dict)
    _starting: TrackedTask | None = None

    @contextmanager
    def starting(self, process: object, hold: Hold) -> Iterator[None]:
        """Make each task that the body starts the first one of a process."""
        self._starting = TrackedTask(process, hold, None)
        try:
            yield
        finally:
            self._starting = None

    @property
    def current(self) -> TrackedTask:
        """The current task, which must belong to a process."""
        return self._tracked[trio.lowlevel.current_task()]

    def task_spawned(self, task: trio.lowlevel.Task) -> None:
        """Track a task that a process starts."""
        nursery = task.parent_nursery
        parent = None if nursery is None else self._tracked.get(nursery.parent_task)
        tracked = self._starting if parent is None else TrackedTask(parent.process, parent.hold, parent.visit)
        if tracked is not None:
            self._tracked[task] = tracked
            wrapped = _wrapped(task.coro, tracked)
            task.coro = cast("types.CoroutineType[Any, Any, Any]", wrapped)

    def task_exited(self, task: trio.lowlevel.Task) -> None:
        """Forget a task that has ended."""
        self._tracked.pop(task, None)


async def _wrapped(coroutine: Coroutine, tracked: TrackedTask) -> Any:
    def on_await() -> None:
        if tracked.visit is not None:
            cancelled = trio.current_effective_deadline() == -math.inf
            tracked.visit.awaits(coroutine, "trio", cancelled=cancelled)

    def passing() -> Generator[Any, Any, None]:
        # The visit first: the task that lifts its hold may belong to the process.
        if tracked.visit is not None and not tracked.visit.is_on_asyncio:
            yield from tracked.visit.hold.passing()
        yield from tracked.hold.passing()

    return await run_unless_held(coroutine, on_await, passing)  # Trio needs a coroutine of an async def


@types.coroutine
def run_unless_held(
    coroutine: Coroutine,
    on_await: Callable[[], None],
    passing: Callable[[], Generator[Any, Any, BaseException | None]],
) -> Generator[Any, Any, Any]:
    """Run a coroutine of a task, but do not resume it while it is held.

    Args:
        coroutine: On Trio or asyncio.
        on_await: Called each time it yields to the loop.
        passing: Returns once it is not held, with a cancellation that came meanwhile, if any.
    """
    resume: Callable[[], Any] = partial(coroutine.send, None)
    while True:
        try:
            trap = resume()
        except StopIteration as end:
            return end.value
        on_await()
        try:
            answer = yield trap
        except GeneratorExit:
            coroutine.close()
            raise
        except BaseException as error:  # a cancellation on asyncio; on Trio, it does not know the trap
            resume = partial(coroutine.throw, error)
        else:
            resume = partial(coroutine.send, answer)
        cancellation = yield from passing()
        if cancellation is not None:
            resume = partial(coroutine.throw, cancellation)
