"""Threads that the end of the process waits for.

By ``atexit`` alone, each that has ended long ago would be kept until then.
"""

from __future__ import annotations

import atexit
from threading import Thread
from weakref import WeakKeyDictionary

_threads: WeakKeyDictionary[Thread, float] = WeakKeyDictionary()


def join_at_exit(thread: Thread, seconds: float) -> None:
    """Wait for a daemon thread at the end of the process, if it runs then, for so many seconds at most."""
    _threads[thread] = seconds


@atexit.register
def _join() -> None:
    for thread, seconds in list(_threads.items()):
        thread.join(seconds)
