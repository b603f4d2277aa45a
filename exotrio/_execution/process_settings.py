"""Settings of a whole process, which a node in a worker process may change: the next one finds them as they
were.

Not what memory holds, which a node may keep for the next one on purpose, nor threads and processes that it
started: these go on.
"""

from __future__ import annotations

import os
import resource
import signal
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

_SIGNALS = [number for number in sorted(signal.valid_signals()) if number < 32]  # none for real time
_TIMERS = (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF)
_LIMITS = sorted({getattr(resource, name) for name in dir(resource) if name.startswith("RLIMIT_")})


class ProcessSettings:
    """The settings as they are now.

    Call it in the main thread, which alone may set handlers of signals.
    """

    def __init__(self) -> None:
        self._values = [setting.read() for setting in _SETTINGS]

    def restore(self) -> tuple[list[str], list[str]]:
        """Make them again what they were.

        Returns:
            The names of those that were changed and are restored, and of those that cannot be.
        """
        restored: list[str] = []
        lost: list[str] = []
        for setting, value in zip(_SETTINGS, self._values, strict=True):
            if setting.read() == value:
                continue
            try:
                setting.write(value)
            except (OSError, ValueError):  # the latter for a limit that can only be lowered
                lost.append(setting.name)
            else:
                restored.append(setting.name)
        return restored, lost


class _Setting(NamedTuple):
    name: str
    read: Callable[[], Any]
    write: Callable[[Any], object]


def _directory() -> str:
    try:
        return os.getcwd()
    except OSError:  # it was deleted
        return ""


def _umask() -> int:
    # It can only be read by setting it. Nobody else may read what another thread writes meanwhile.
    umask = os.umask(0o077)
    os.umask(umask)
    return umask


def _stop_timers(running: list[int]) -> None:
    for timer in _TIMERS:
        if timer not in running:
            signal.setitimer(timer, 0)


def _set_handlers(handlers: Mapping[int, Any]) -> None:
    for number, handler in handlers.items():
        if handler is not None and signal.getsignal(number) != handler:  # None: not one of Python's
            signal.signal(number, handler)


def _set_environment(environment: Mapping[str, str]) -> None:
    for name in os.environ.keys() - environment.keys():
        del os.environ[name]
    os.environ.update(environment)


def _set_limits(limits: Mapping[int, tuple[int, int]]) -> None:
    for limit, values in limits.items():
        if resource.getrlimit(limit) != values:
            resource.setrlimit(limit, values)


_SETTINGS = (
    # Those timers that run: the next node would get their signal. First, since a handler that is restored
    # later must not meet it.
    _Setting("timers", lambda: [each for each in _TIMERS if any(signal.getitimer(each))], _stop_timers),
    _Setting(
        "handlers of signals", lambda: {each: signal.getsignal(each) for each in _SIGNALS}, _set_handlers
    ),
    _Setting(
        "blocked signals",
        lambda: signal.pthread_sigmask(signal.SIG_BLOCK, ()),
        lambda blocked: signal.pthread_sigmask(signal.SIG_SETMASK, blocked),
    ),
    _Setting("working directory", _directory, os.chdir),
    _Setting("umask", _umask, os.umask),
    _Setting("environment", os.environ.copy, _set_environment),
    _Setting("resource limits", lambda: {each: resource.getrlimit(each) for each in _LIMITS}, _set_limits),
    _Setting(
        "priority",
        lambda: os.getpriority(os.PRIO_PROCESS, 0),
        lambda priority: os.setpriority(os.PRIO_PROCESS, 0, priority),
    ),
)
