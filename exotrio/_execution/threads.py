"""Threads that nodes run in, none of which keeps the interpreter from exiting; and nodes that are stuck.

A thread cannot be interrupted. If its node timed out, or was abandoned by the shutdown, it continues to run,
but its worker no longer waits for it: that node is stuck.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, ParamSpec, TypeVar

import anyio
import anyio.to_thread
import trio

from exotrio._execution.forks import ends_forked_children
from exotrio._execution.handle import Execution
from exotrio._util.crossing import call_in_loop

P = ParamSpec("P")
T = TypeVar("T")

log = logging.getLogger("exotrio.worker")

MAX_STUCK_PER_WORKER = 4


@dataclass(slots=True, kw_only=True)
class StuckNodes:
    """Counts and logs stuck nodes of one kind. Used in the Trio thread only, except ``refusal_reason``.

    They occupy no worker, so a node that hangs does not stop the others. But they hold memory, and perhaps a
    connection; so their number is limited.

    Attributes:
        max_stuck: From this number on no other node of the kind is begun.
        kind: Names the kind in the log.
        where: Says in the log where they still run.
        changed: Called when one of them, or ``refusal_reason``, may have changed.
    """

    max_stuck: int
    kind: str
    where: str
    changed: Callable[[], None]
    _count: int = 0

    @property
    def refusal_reason(self) -> str:
        """Why no other node of the kind is begun; empty if others may be. From any thread."""
        return f"{self._count} {self.kind} are stuck" if self._count >= self.max_stuck else ""

    def add(self, execution: Execution) -> None:
        """Count an execution as stuck, and log it."""
        self._count += 1
        execution.is_stuck = True
        log.warning("%s is stuck: it goes on %s, and nothing waits for it any more", execution, self.where)
        if self._count == self.max_stuck:
            log.error("%s: no such node is begun until one of them ends", self.refusal_reason)
        self.changed()

    def ended(self, execution: Execution, did: str) -> None:
        """Log that an execution, stuck until now, has ended, and do not count it any longer."""
        self._count -= 1
        execution.is_stuck = False
        log.warning("%s, stuck until now, %s %s; its result is dropped", execution, did, self.where)
        if self._count == self.max_stuck - 1:
            log.info("%s are begun again", self.kind)
        self.changed()


async def call_in_thread(function: Callable[[], object], execution: Execution, stuck: StuckNodes) -> object:
    """Return what ``function``, of an execution, returns in a thread.

    Cancellation:
        The thread is stuck. What it returns or raises later is logged and dropped.
    """
    # The thread ends, or its caller is cancelled: the lock decides which of these came first.
    lock = threading.Lock()
    did = ""
    abandoned_in: trio.lowlevel.TrioToken | None = None

    def run() -> tuple[object, BaseException | None]:
        # In a tuple: Trio refuses a thread that returns a coroutine, as decorated methods may.
        nonlocal did
        value = error = None
        end = "returned"
        try:
            with ends_forked_children(execution.claim.node_name):
                value = function()
        except BaseException as raised:
            error = raised
            # The class only: the text may contain the secrets of the node.
            end = f"raised {type(raised).__name__}"
        with lock:
            did = end
        call_in_loop(abandoned_in, stuck.ended, execution, did)
        return value, error

    # A separate limiter: in a shared one, a stuck thread would count against the workers.
    limiter = anyio.CapacityLimiter(1)
    try:
        value, error = await anyio.to_thread.run_sync(run, abandon_on_cancel=True, limiter=limiter)
    finally:
        began = limiter.borrowed_tokens > 0
        with lock:
            # The caller was cancelled first: the thread will call ``ended``.
            if began and not did:
                abandoned_in = trio.lowlevel.current_trio_token()
        if abandoned_in is not None:
            stuck.add(execution)
    if error is not None:
        try:
            raise error
        finally:
            error = None  # its traceback refers to this frame: a cycle
    return value


class DaemonExecutor(ThreadPoolExecutor):
    """The default executor of an asyncio loop: calls functions in Trio's daemon threads.

    At its exit Python waits for the threads of a ThreadPoolExecutor, so one host name that does not resolve
    would keep a runtime from ending. As many calls run at once as in the base class.
    """

    # A ThreadPoolExecutor, since asyncio takes no other class as its default. The threads of the base
    # class begin with its ``submit``, which is never called.

    def __init__(self) -> None:
        super().__init__(thread_name_prefix="exotrio asyncio")
        self._lock = threading.Lock()
        self._waiting: deque[tuple[Future[Any], Callable[[], Any]]] = deque()
        self._busy = 0
        self._over = False

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Call ``fn`` in a thread, once one is free."""
        future: Future[T] = Future()
        with self._lock:
            if self._over:
                raise RuntimeError("the event loop of this executor is closed")
            self._waiting.append((future, partial(fn, *args, **kwargs)))
            if self._busy >= self._max_workers:
                return future
            self._busy += 1
        trio.lowlevel.start_thread_soon(self._work, lambda outcome: None, self._thread_name_prefix)
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Begin nothing more. Never waits for calls that run."""
        with self._lock:
            self._over = True
            waiting = list(self._waiting)
            self._waiting.clear()
        for future, _ in waiting:
            future.cancel()

    def _work(self) -> None:
        while True:
            with self._lock:
                if not self._waiting:
                    self._busy -= 1
                    return
                future, call = self._waiting.popleft()
            if not future.set_running_or_notify_cancel():
                continue
            try:
                # It would also begin the calls that wait here.
                with ends_forked_children("a thread of nodes in asyncio"):
                    result = call()
            except BaseException as error:
                future.set_exception(error)
            else:
                future.set_result(result)
            del future, call
