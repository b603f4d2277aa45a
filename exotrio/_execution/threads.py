"""Threads that nodes run in, none of which keeps the interpreter from exiting.

A thread cannot be interrupted: one whose node timed out, or was given up by the shutdown, runs on, and
its worker no longer waits for it.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any, ParamSpec, TypeVar

import anyio
import anyio.to_thread
import trio

from exotrio._execution.stuck import StuckNodes
from exotrio._util.crossing import call_in_loop

P = ParamSpec("P")
T = TypeVar("T")


async def call_in_thread(function: Callable[[], object], what: str, stuck: StuckNodes) -> object:
    """Return what ``function`` returns in a thread.

    Args:
        function: What to call.
        what: Names it in the log.
        stuck: Told of a thread that nothing waits for any more, and of its end.

    Cancellation:
        The thread is stuck. What it returns or raises later is logged and dropped.
    """
    call = _ThreadCall(function)
    # A limiter of its own: in a shared one, a stuck thread would keep a worker's place.
    limiter = anyio.CapacityLimiter(1)
    try:
        # In a list, since Trio refuses a thread that returns a coroutine, as decorated methods may.
        box = await anyio.to_thread.run_sync(call.run, abandon_on_cancel=True, limiter=limiter)
        return box[0]
    finally:
        began = limiter.borrowed_tokens > 0
        if began and call.give_up(lambda did: stuck.ended(what, did)):
            stuck.add(what)


class _ThreadCall:
    """One call. It has either ended or been given up first; a lock decides which."""

    def __init__(self, function: Callable[[], object]) -> None:
        self._function = function
        self._lock = threading.Lock()
        self._did = ""
        self._report: Callable[[], None] | None = None

    def run(self) -> list[object]:
        did = "returned"
        try:
            return [self._function()]
        except BaseException as error:
            # The kind only: the text may hold the node's secrets.
            did = f"raised {type(error).__name__}"
            raise
        finally:
            with self._lock:
                self._did = did
                report = self._report
            if report is not None:
                report()

    def give_up(self, ended: Callable[[str], None]) -> bool:
        """Have ``ended`` called in the loop when the call is over; False if it is over now."""
        token = trio.lowlevel.current_trio_token()

        with self._lock:
            if self._did:
                return False
            self._report = lambda: call_in_loop(token, ended, self._did)
            return True


class DaemonExecutor(ThreadPoolExecutor):
    """The default executor of an asyncio loop: calls functions in Trio's daemon threads.

    At its exit Python waits for the threads of its own executors, so one host name that does not resolve
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
                result = call()
            except BaseException as error:
                future.set_exception(error)
            else:
                future.set_result(result)
            del future, call
