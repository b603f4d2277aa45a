"""An executor that lets the interpreter exit. Python waits at its exit for the threads of its own
executors, so one host name that does not resolve would hold up a worker that was told to stop."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any, ParamSpec, TypeVar

import trio

P = ParamSpec("P")
T = TypeVar("T")


class DaemonExecutor(ThreadPoolExecutor):
    """Calls functions in Trio's daemon threads, as many at once as its base class would."""

    # From ThreadPoolExecutor, since asyncio takes no other class as its default; its own threads,
    # which begin with the first submit, never do.

    def __init__(self) -> None:
        super().__init__(thread_name_prefix="exotrio asyncio")
        self._guard = threading.Lock()
        self._waiting: deque[tuple[Future[Any], Callable[[], Any]]] = deque()
        self._busy = 0
        self._over = False

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        future: Future[T] = Future()
        with self._guard:
            if self._over:
                raise RuntimeError("the event loop of this executor is closed")
            self._waiting.append((future, partial(fn, *args, **kwargs)))
            if self._busy >= self._max_workers:
                return future
            self._busy += 1
        trio.lowlevel.start_thread_soon(self._work, lambda outcome: None, self._thread_name_prefix)
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Begin nothing more. Never waits for what runs."""
        with self._guard:
            self._over = True
            waiting = list(self._waiting)
            self._waiting.clear()
        for future, _ in waiting:
            future.cancel()

    def _work(self) -> None:
        while True:
            with self._guard:
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
