"""The settings of a worker process that are restored after each node: working directory, environment and
signal handlers.

Nothing else is: memory, umask, limits, timers, threads and child processes stay as the node left them.
"""

from __future__ import annotations

import os
import signal
from contextlib import suppress

_SIGNALS = [number for number in sorted(signal.valid_signals()) if number < 32]  # none for real time


class ProcessSettings:
    """The settings at the time of the call. For the main thread: only it may set signal handlers."""

    def __init__(self) -> None:
        self._directory: str | None = None
        with suppress(OSError):  # already gone: then there is none to restore
            self._directory = os.getcwd()
        self._environment = os.environ.copy()
        self._handlers = {number: signal.getsignal(number) for number in _SIGNALS}

    def restore(self) -> None:
        """Restore what was changed since. Raises OSError if the working directory is gone."""
        for number, handler in self._handlers.items():
            # None is a handler that Python did not set; Python cannot set it again.
            if handler is not None and signal.getsignal(number) != handler:
                signal.signal(number, handler)
        if os.environ != self._environment:
            os.environ.clear()
            os.environ.update(self._environment)
        if self._directory is not None:
            os.chdir(self._directory)
