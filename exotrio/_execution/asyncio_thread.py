"""The asyncio loop of a runtime, in a separate thread, and the calls of nodes in it.

Why not anyio's ``BlockingPortal``: it cancels by a cancel scope, which on asyncio raises CancelledError
again at every ``await`` until the scope is left, so that a ``finally: await connection.close()`` would
fail. Here a task is cancelled once, as asyncio does it. A SystemExit out of one call ends a portal and
every other call in it. And leaving a portal waits without a limit for its thread, which never ends if a node
blocks it.

The two loops communicate only by ``call_soon_threadsafe`` and ``run_sync_soon``. If the other loop has ended,
these do nothing. The asyncio thread sets what a call returns or raises; only the Trio thread decides whether
it is stuck.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import logging
import sys
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import TypeVarTuple

import trio

from exotrio._execution.forks import ends_forked_children
from exotrio._execution.handle import Execution
from exotrio._execution.loop_watch import LoopWatch
from exotrio._execution.threads import DaemonExecutor, StuckNodes
from exotrio._nodes.base import BaseNode
from exotrio._shared import deadlines
from exotrio._util.crossing import call_in_loop
from exotrio._util.exceptions import readable

Ts = TypeVarTuple("Ts")

log = logging.getLogger("exotrio.worker")


class AsyncioLoop:
    """Calls from Trio into an asyncio loop. Created and used in the Trio thread.

    Args:
        loop: Another thread, or a Trio task, runs it.
        stuck: Counts the calls that do not end when they are cancelled. Its ``changed`` is called when
            ``blocked`` changed, too.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, stuck: StuckNodes) -> None:
        self._stuck = stuck
        self._token = trio.lowlevel.current_trio_token()
        self._loop = loop
        self._loop.set_default_executor(DaemonExecutor())
        self._calls: set[_Call] = set()
        self._unreached: set[_Call] = set()

    @property
    def blocked(self) -> bool:
        """Whether the loop could not even be told to cancel a node."""
        return bool(self._unreached)

    async def call(self, function: Callable[[], object], execution: Execution) -> object:
        """Return what ``function`` returns in the loop; if that is awaitable, its result.

        ``function`` is of an execution, and sees the context variables of the caller.

        Cancellation:
            Cancels the asyncio task, and waits up to 5 s for it to end. A value that it returns, or another
            error that it raises, is the result. A task that does not end is stuck: what it returns or raises
            later is logged and dropped.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        call = _Call(function, execution, self)
        self.call_soon(call.begin)
        self._calls.add(call)
        try:
            await call.over.wait()
        except trio.Cancelled:
            if not await self._cancelled(call):
                raise
        return call.result()

    def call_soon(self, function: Callable[[*Ts], object], *args: *Ts) -> None:
        """Call ``function`` in the asyncio thread. Raises RuntimeError once the loop is closed."""
        self._loop.call_soon_threadsafe(function, *args)

    def call_back(self, function: Callable[[*Ts], object], *args: *Ts) -> None:
        """Call ``function`` in the Trio thread, unless Trio's loop is over."""
        call_in_loop(self._token, function, *args)

    # -- in the Trio thread

    def forget(self, call: _Call) -> None:
        """Remove ``call``, which is over: it need not be ended with the loop."""
        self._calls.discard(call)

    async def _cancelled(self, call: _Call) -> bool:
        """Cancel ``call``; return whether it ended with something other than its cancellation."""
        if call.revoke():
            # The cancellation came before the loop had begun the task.
            self.forget(call)
            return False
        with suppress(RuntimeError):  # the loop is closed, and its calls are over
            self.call_soon(call.cancel, self._reached)
        with trio.move_on_after(deadlines.CLEAN_UP, shield=True):
            await call.over.wait()
        if call.over.is_set():
            # The task may have ended by itself before the cancellation reached it.
            return not isinstance(call.error, asyncio.CancelledError)
        if not call.reached:
            # The loop has not even run ``call.cancel``.
            self._unreached.add(call)
            log.error(
                "the asyncio loop is blocked, by %s or another node: none is begun in it until it runs again",
                call.execution,
            )
            self._stuck.changed()
        call.abandon(self._stuck)
        return False

    def _reached(self, call: _Call) -> None:
        call.reached = True
        if call in self._unreached:
            self._unreached.discard(call)
            if not self._unreached:
                log.info("the asyncio loop runs again")
            self._stuck.changed()


class AsyncioThread(AsyncioLoop):
    """One asyncio loop in one daemon thread. Created, used and closed in the Trio thread.

    If one of ``nodes`` blocks the loop, that is logged.
    """

    def __init__(self, stuck: StuckNodes, nodes: Iterable[type[BaseNode]]) -> None:
        super().__init__(asyncio.new_event_loop(), stuck)
        self._watch = LoopWatch(
            nodes,
            "the asyncio loop",
            "no other asyncio node goes on meanwhile; await in it, or call what blocks by asyncio.to_thread",
        )
        self._closing = False
        self._thread_over = trio.Event()
        self.ended = False
        # A daemon: node code that blocks must not keep the interpreter from exiting.
        self._thread = threading.Thread(target=self._serve, name="exotrio asyncio", daemon=True)
        self._thread.start()

    async def aclose(self) -> None:
        """Cancel the tasks that nodes left in the loop, and end it. Shielded, for up to
        ``deadlines.CLOSE``."""
        self._closing = True
        with suppress(RuntimeError):  # it is closed
            self.call_soon(self._loop.stop)
        with trio.move_on_after(deadlines.CLOSE, shield=True):
            await self._thread_over.wait()
        if self._thread_over.is_set():
            self._thread.join()
        else:
            log.error("the asyncio loop does not end, since a node blocks it: its thread is left running")

    def _over(self) -> None:
        self.ended = True
        self._unreached.clear()
        for call in list(self._calls):
            call.end_with_loop()
        self._thread_over.set()
        self._stuck.changed()

    # -- in the asyncio thread

    def _serve(self) -> None:
        try:
            with self._watch.watched(self._loop.call_soon_threadsafe):
                while not self._closing:
                    try:
                        self._loop.run_forever()
                    except (SystemExit, KeyboardInterrupt):
                        # From a task that a node started: asyncio raises it in it and out of this loop.
                        continue
            self._loop.run_until_complete(self._end_tasks())
        except BaseException:
            log.critical("the asyncio loop failed", exc_info=True)
        finally:
            try:
                self._loop.close()
            finally:
                self.call_back(self._over)

    async def _end_tasks(self) -> None:
        tasks = asyncio.all_tasks(self._loop) - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        if tasks:
            # Not gathered: a task that does not end must not keep the thread.
            await asyncio.wait(tasks, timeout=deadlines.ASYNCIO_TASKS)
        with suppress(TimeoutError):
            async with asyncio.timeout(deadlines.ASYNCIO_TASKS):
                await self._loop.shutdown_asyncgens()


class _Call:
    """One call. It is begun or revoked: the first to do so acquires ``_first``, which is never released.

    ``reached``: the loop has run its cancellation.
    """

    def __init__(self, function: Callable[[], object], execution: Execution, loop: AsyncioLoop) -> None:
        self._function = function
        self.execution = execution
        self._asyncio = loop
        self._context = contextvars.copy_context()
        sniffio = sys.modules.get("sniffio")
        if sniffio is not None:
            # The context may name Trio as the running library; in this loop asyncio runs.
            self._context.run(sniffio.current_async_library_cvar.set, None)
        self._first = threading.Lock()
        self._task: asyncio.Task[None] | None = None
        self._value: object = None
        self.error: BaseException | None = None
        self._stuck: StuckNodes | None = None
        self.over = trio.Event()
        self.reached = False

    # -- in the asyncio thread

    def begin(self) -> None:
        """Start the task, unless it was revoked."""
        if not self._first.acquire(blocking=False):
            return
        # Not create_task: a node may have set a task factory.
        self._task = asyncio.Task(self._main(), name=str(self.execution), context=self._context)
        self._task.add_done_callback(self._done)

    def cancel(self, reached: Callable[[_Call], None]) -> None:
        """Cancel the task, and have ``reached`` called in the Trio thread."""
        assert self._task is not None, "only what was begun is cancelled"
        self._task.cancel()
        self._asyncio.call_back(reached, self)

    async def _main(self) -> None:
        try:
            with ends_forked_children(self.execution.claim.node_name):
                value = self._function()
                self._value = await value if inspect.isawaitable(value) else value
        except BaseException as error:
            # Any error: a SystemExit that left a task would stop the loop of all nodes.
            self.error = readable(error)

    def _done(self, task: asyncio.Task[None]) -> None:
        if task.cancelled():  # before its first step
            self.error = asyncio.CancelledError()
        # The class only: the text may contain the secrets of the node.
        did = "returned" if self.error is None else f"raised {type(self.error).__name__}"
        self._asyncio.call_back(self._end, did)

    # -- in the Trio thread

    def revoke(self) -> bool:
        """Keep it from being begun; False if it has begun."""
        return self._first.acquire(blocking=False)

    def abandon(self, stuck: StuckNodes) -> None:
        """Count it as stuck: nothing waits for its end any more."""
        self._stuck = stuck
        stuck.add(self.execution)

    def end_with_loop(self) -> None:
        self.error = RuntimeError("the asyncio loop ended while the node ran")
        self._end("was ended with its loop")

    def result(self) -> object:
        if self.error is not None:
            try:
                raise self.error
            finally:
                self.error = None  # its traceback refers to this frame: a cycle
        return self._value

    def _end(self, did: str) -> None:
        self.over.set()
        self._asyncio.forget(self)
        if self._stuck is not None:
            self._stuck.ended(self.execution, did)
