"""The seconds that each step of a runtime's stop may take: the one table. Read as ``deadlines.FLUSH``.

One step after the other::

    GRACE     running nodes may finish; the runtime or a request may set another time
    CLEAN_UP  cancelled nodes clean up
    FLUSH     the last outcomes and releases are delivered
    HANG_UP   requests that the end of the flush cancels close their connections; so does every other
              request that is cancelled
    CLOSE     connections, asyncio thread, outbox and heartbeat end, all at the same time
    EXIT      the process ends, after it has waited for threads and worker processes that did not end in
              CLOSE. If it belongs to the runtime and still runs then, the watchdog ends it

Together they are less than the 30 s after which Kubernetes, for example, kills a process. All other time
limits within a step are parts of it.
"""

from __future__ import annotations

import atexit
import time
from threading import Thread
from weakref import WeakSet

GRACE = 20.0
CLEAN_UP = 5.0
FLUSH = 3.0
HANG_UP = 0.1
CLOSE = 0.4
EXIT = 1.0

LAST_HEARTBEAT = 0.8 * CLOSE
"""The rest is for its thread to end."""
WORKER_PROCESSES = 0.5 * CLOSE
"""For idle worker processes to end by themselves."""
ASYNCIO_TASKS = 0.4 * CLOSE
"""For the tasks that nodes left in the asyncio loop, and again for their async generators."""
IDLE_PROCESSES = 0.8 * EXIT
"""For idle worker processes that did not end in WORKER_PROCESSES; then they are killed."""
LAST_LINES = 0.5 * EXIT
"""For the last lines of the log of a process that is ended."""


def max_stop(grace: float = GRACE) -> float:
    """Return how many seconds a stop takes at most with this grace."""
    return grace + CLEAN_UP + FLUSH + HANG_UP + CLOSE


def max_exit(grace: float = GRACE) -> float:
    """Return how many seconds pass at most until the process has ended, too."""
    return max_stop(grace) + EXIT


_threads: WeakSet[Thread] = WeakSet()
"""For ``_join``. Registered with ``atexit``, each thread would be kept in memory after its end."""


def join_at_exit(thread: Thread) -> None:
    """Wait for a daemon thread at the end of the process, for at most ``EXIT`` for all such threads."""
    _threads.add(thread)


@atexit.register
def _join() -> None:
    deadline = time.monotonic() + EXIT
    for thread in list(_threads):
        thread.join(max(0.0, deadline - time.monotonic()))
