"""An asyncio loop that a Trio task runs, on Trio's clock.

``explore`` holds the tasks of nodes where they are, and their steps have to come in the same order each time:
neither is possible in another thread.
"""

from __future__ import annotations

import asyncio
import contextvars
import heapq
import inspect
import math
import selectors
from collections.abc import Callable, Coroutine, Generator
from contextlib import suppress
from functools import partial
from typing import Any, TypeVarTuple

import sniffio
import trio

from exotrio._execution.asyncio_thread import AsyncioLoop
from exotrio._execution.handle import Execution
from exotrio._execution.threads import StuckNodes
from exotrio.testing._visits import Visit, run_unless_held

Ts = TypeVarTuple("Ts")

MAX_CLEAN_UP = 60.0
"""Seconds that tasks may take to end when their runtime has ended."""

_visit: contextvars.ContextVar[Visit] = contextvars.ContextVar("exotrio_visit")
"""The execution that a task of the loop belongs to: that of the task which started it."""


class _Loop(asyncio.SelectorEventLoop):
    """Its time is Trio's, and it says when it has something to do.

    Attributes:
        awake: Set once there is something to do.
        due: When timers are due, cancelled ones included; a heap.
    """

    def __init__(self) -> None:
        self.awake = trio.Event()
        self.due: list[float] = []
        self._clock = trio.lowlevel.current_clock()
        self.selector = selectors.DefaultSelector()
        super().__init__(self.selector)
        self.set_task_factory(_task)

    def time(self) -> float:
        return self._clock.current_time()

    def call_soon(
        self,
        callback: Callable[[*Ts], object],
        *args: *Ts,
        context: contextvars.Context | None = None,
    ) -> asyncio.Handle:
        self.awake.set()
        return super().call_soon(callback, *args, context=context)

    def call_at(
        self,
        when: float,
        callback: Callable[[*Ts], object],
        *args: *Ts,
        context: contextvars.Context | None = None,
    ) -> asyncio.TimerHandle:
        heapq.heappush(self.due, when)
        self.awake.set()
        return super().call_at(when, callback, *args, context=context)


def _task(loop: asyncio.AbstractEventLoop, coroutine: Any, **more: Any) -> Any:
    visit = _visit.get(None)
    if visit is None:
        return asyncio.Task(coroutine, loop=loop, **more)
    task = asyncio.Task(_wrapped(coroutine, visit), loop=loop, **more)
    # If the task is cancelled before its first step, nothing has begun the coroutine.
    task.add_done_callback(lambda _: coroutine.close())
    return task


async def _wrapped(coroutine: Coroutine[Any, Any, Any], visit: Visit) -> Any:
    """Run a coroutine of a task of a node, but do not resume it while it is held."""
    task = asyncio.current_task()
    assert task is not None, "a coroutine runs in a task"

    def passing() -> Generator[Any, Any, BaseException | None]:
        cancellation = None
        while visit.hold.active or visit.process.hold.active:
            lifted = asyncio.get_running_loop().create_future()
            hold = visit.hold if visit.hold.active else visit.process.hold
            hold.on_lift(partial(_lift, lifted))
            try:
                yield from lifted
            except asyncio.CancelledError as error:
                cancellation = error  # the code sees it once it continues
        return cancellation

    def on_await() -> None:
        visit.awaits(coroutine, "asyncio", cancelled=task.cancelling() > 0)

    return await run_unless_held(coroutine, on_await, passing)


def _lift(lifted: asyncio.Future[None]) -> None:
    if not lifted.done():
        lifted.set_result(None)


class TrioHostedLoop(AsyncioLoop):
    """The asyncio loop of one runtime, which ``serve`` runs."""

    def __init__(self) -> None:
        self._hosted = _Loop()
        stuck = StuckNodes(
            max_stuck=10**9, kind="asyncio nodes", where="in the asyncio loop", changed=lambda: None
        )
        super().__init__(self._hosted, stuck)
        self._stepped = trio.Event()

    def call_soon(self, function: Callable[[*Ts], object], *args: *Ts) -> None:
        self._hosted.call_soon(function, *args)

    def call_back(self, function: Callable[[*Ts], object], *args: *Ts) -> None:
        """Call ``function``: the loop runs in Trio's thread."""
        function(*args)

    async def execute(self, function: Callable[[], object], execution: Execution, visit: Visit) -> object:
        """Return what the node's code returns in the loop.

        Cancellation:
            As in a runtime: the task is cancelled once, and has 5 s to end.
        """

        async def run() -> object:
            value = function()
            return await value if inspect.isawaitable(value) else value

        token = _visit.set(visit)
        try:
            return await self.call(lambda: _wrapped(run(), visit), execution)
        finally:
            _visit.reset(token)

    async def serve(self) -> None:
        """Run the loop. Never returns unless cancelled.

        Cancellation:
            Cancels all tasks, and waits for their end.
        """
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._wake_for_io)
                while True:
                    await self._step()
        finally:
            with trio.move_on_after(MAX_CLEAN_UP, shield=True):
                await self._end()
            self._hosted.close()

    async def _step(self) -> None:
        """Wait until there is something to do, and do it."""
        loop = self._hosted
        with trio.CancelScope(deadline=loop.due[0] if loop.due else math.inf):
            await loop.awake.wait()
        loop.awake = trio.Event()
        now = loop.time()
        while loop.due and loop.due[0] <= now:
            heapq.heappop(loop.due)
        # Code in it has to see asyncio, and not Trio, as the running library.
        before, sniffio.thread_local.name = sniffio.thread_local.name, None
        try:
            loop.stop()  # it then runs what is due now, and returns
            with suppress(SystemExit):  # it is also raised in the task that it comes from
                loop.run_forever()
        finally:
            sniffio.thread_local.name = before
        self._stepped.set()

    async def _wake_for_io(self) -> None:
        while True:
            await trio.lowlevel.wait_readable(self._hosted.selector.fileno())
            self._stepped = trio.Event()
            self._hosted.awake.set()
            await self._stepped.wait()

    async def _end(self) -> None:
        loop = self._hosted
        begun = set[asyncio.Task[Any]]()
        cancelled = set[asyncio.Task[Any]]()
        while (tasks := asyncio.all_tasks(loop)) or loop.awake.is_set():
            # A task that is cancelled before its first step would leave coroutines that nothing awaits.
            for task in (tasks & begun) - cancelled:
                task.cancel()
            cancelled |= tasks & begun
            begun |= tasks
            if tasks - cancelled:
                loop.awake.set()
            await self._step()
        generators = loop.create_task(loop.shutdown_asyncgens())
        while not generators.done():
            await self._step()
