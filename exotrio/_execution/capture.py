"""Hears what is logged and printed in this process, for the execution that it comes from. All of it goes
where it went before, too.

Standard output and error are replaced, since there is no other way to hear what is printed. Log records are
heard where loggers give them to handlers: so levels and filters of loggers count, each logger is heard, and
one that has no handler behaves as before, which a handler of ours would change. Neither is done but while a
runtime runs.

Whoever replaces a stream meanwhile, and has not put it back at the end, keeps it: what is ours behind it then
only passes things on.
"""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from exotrio._execution.handle import execution_context
from exotrio._execution.output import Output, output_context

OURS = "exotrio"
"""Its loggers say what the runtime does with a state, not what the node does."""


class _Thread(threading.local):
    """Whether this thread is in a stream or in a handler: what these write, such as a log line, is known."""

    busy = False


_thread = _Thread()
_lock = threading.Lock()
_runtimes = 0
_restore: list[Callable[[], None]] = []


@contextmanager
def captured(*, enabled: bool = True) -> Iterator[None]:
    """Hear what is logged and printed while the body runs, if ``enabled``. Several may be in it, in any
    threads."""
    if not enabled:
        yield
        return
    global _runtimes
    with _lock:
        _runtimes += 1
        if _runtimes == 1:
            _restore[:] = [*map(_replace_stream, ("stdout", "stderr")), _replace_method()]
    try:
        yield
    finally:
        with _lock:
            _runtimes -= 1
            if _runtimes == 0:
                while _restore:
                    _restore.pop()()


def hear_streams() -> None:
    """Hear the standard streams again, after somebody replaced them by ones that write to those that were."""
    with _lock:
        if _runtimes:
            _restore.extend(map(_replace_stream, ("stdout", "stderr")))


def _open_output() -> Output | None:
    """Return the output to which a line belongs that this thread writes now, if any."""
    output = output_context.get()
    return output if output is not None and output.is_open and not _thread.busy else None


def _is_of_a_state() -> bool:
    return execution_context.get() is not None or output_context.get() is not None


class _Stream:
    """A standard stream, heard. Anything but writing is done by the stream itself."""

    def __init__(self, name: str, stream: Any) -> None:
        self._name = name
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        if name == "_stream":  # of a copy, to which nothing was given yet
            raise AttributeError(name)
        return getattr(self._stream, name)

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stream.__exit__(*exc_info)

    def __iter__(self) -> Iterator[str]:
        return iter(self._stream)

    def write(self, text: str) -> Any:
        output = _open_output()
        if output is None:
            return self._pass_on(text)
        _thread.busy = True
        try:
            written = self._pass_on(text)
        finally:
            _thread.busy = False
        output.print(self._name, str.__str__(text))
        return written

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError:
            if not _is_of_a_state():
                raise

    def _pass_on(self, text: str) -> Any:
        try:
            return self._stream.write(text)
        except OSError:
            # The terminal was closed, whoever read it has ended, or the disk is full: a node, which drains
            # then, is not to fail by it.
            if not _is_of_a_state():
                raise
            return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)


def _replace_stream(name: str) -> Callable[[], None]:
    """Put a heard stream in place of a standard one, if there is one, and return what takes it back."""
    stream = getattr(sys, name)
    heard = stream if stream is None or isinstance(stream, _Stream) else _Stream(name, stream)

    def restore() -> None:
        if getattr(sys, name) is heard:
            setattr(sys, name, stream)

    setattr(sys, name, heard)
    return restore


def _replace_method() -> Callable[[], None]:
    """Hear log records, and return what ends that."""
    call_handlers = logging.Logger.callHandlers

    def heard(logger: logging.Logger, record: logging.LogRecord) -> None:
        output = _open_output()
        if output is None:
            return call_handlers(logger, record)
        if record.name.partition(".")[0] != OURS:
            output.log(record)
        _thread.busy = True
        try:
            call_handlers(logger, record)
        finally:
            _thread.busy = False

    def restore() -> None:
        if logging.Logger.callHandlers is heard:
            logging.Logger.callHandlers = call_handlers  # type: ignore[method-assign]

    logging.Logger.callHandlers = heard  # type: ignore[method-assign, assignment]
    return restore
