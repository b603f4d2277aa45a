"""Threads that the end of the process waits for.

By ``atexit`` alone, each that has ended long ago would be kept until then.
"""

from __future__ import annotations

import atexit
import time
from threading import Thread
from weakref import WeakSet

from exotrio._util import deadlines

_threads: WeakSet[Thread] = WeakSet()


def join_at_exit(thread: Thread) -> None:
    """Wait for a daemon thread at the end of the process, if it runs then.

    ``deadlines.EXIT`` is for all such threads together.
    """
    _threads.add(thread)


@atexit.register
def _join() -> None:
    deadline = time.monotonic() + deadlines.EXIT
    for thread in list(_threads):
        thread.join(max(0.0, deadline - time.monotonic()))
