"""Tasks that can be held: how a process that is killed, or suspended, is played within one Trio loop.

A killed process does not go on: no ``finally``, no ``except``. A Trio task can only be ended by an exception,
which both would see. So nothing is ended: each task of the process has a coroutine around its own one, which
does not resume that one any more while the process is held. Trio sees a task that waits.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol, cast

import trio

Coroutine = Any
"""With ``send``, ``throw`` and ``close``: Trio's tasks have these of more than one type."""


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


class Visit(Protocol):
    """One execution of a node."""

    hold: Hold

    def awaits(self, coroutine: Coroutine) -> None:
        """Called each time that a task of the node yields to Trio."""


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
