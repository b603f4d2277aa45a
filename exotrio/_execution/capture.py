"""Captures what is logged and printed in this process, for the execution that it comes from. All of it also
goes where it would go without a capture.

Standard output and error are replaced, since there is no other way to capture what is printed. Log records
are captured where loggers pass them to handlers. So levels and filters of loggers apply, and each logger is
captured. No handler is added: a logger without one would behave in another way then. All of this is done only
while a runtime runs.

If other code replaces a stream meanwhile, and has not restored it at the end, its stream is left in place:
our stream behind it then only passes texts on.
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
"""Its loggers are not captured: they log what the runtime does with a state, not what the node does."""


class _Thread(threading.local):
    """Whether this thread is in a stream or in a handler, whose own lines are not captured again."""

    busy = False


_thread = _Thread()
_lock = threading.Lock()
_runtimes = 0
_restore: list[Callable[[], None]] = []


@contextmanager
def captured(*, enabled: bool = True) -> Iterator[None]:
    """Capture what is logged and printed while the body runs, if ``enabled``. Bodies may run at the same
    time."""
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


def capture_streams_again() -> None:
    """Capture the standard streams, after other code replaced them by streams that write to the captured
    ones."""
    with _lock:
        if _runtimes:
            _restore.extend(map(_replace_stream, ("stdout", "stderr")))


def _open_output() -> Output | None:
    """Return the output that a line of this thread belongs to, if any."""
    output = output_context.get()
    return output if output is not None and output.is_open and not _thread.busy else None


def _in_node_code() -> bool:
    return execution_context.get() is not None or output_context.get() is not None


class _Stream:
    """A standard stream that is captured. Everything except writing is done by the stream itself."""

    def __init__(self, name: str, stream: Any) -> None:
        self._name = name
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        if name == "_stream":  # of a copy that is not initialized yet
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
            if not _in_node_code():
                raise

    def _pass_on(self, text: str) -> Any:
        try:
            return self._stream.write(text)
        except OSError:
            # The terminal was closed, the reader of the pipe has ended, or the disk is full: a node, which
            # may be draining, must not fail because of it.
            if not _in_node_code():
                raise
            return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)


def _replace_stream(name: str) -> Callable[[], None]:
    """Replace a standard stream, if there is one, by a captured one; return a function that restores it."""
    stream = getattr(sys, name)
    captured_stream = stream if stream is None or isinstance(stream, _Stream) else _Stream(name, stream)

    def restore() -> None:
        if getattr(sys, name) is captured_stream:
            setattr(sys, name, stream)

    setattr(sys, name, captured_stream)
    return restore


def _replace_method() -> Callable[[], None]:
    """Capture log records; return a function that ends that."""
    call_handlers = logging.Logger.callHandlers

    def capture(logger: logging.Logger, record: logging.LogRecord) -> None:
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
        if logging.Logger.callHandlers is capture:
            logging.Logger.callHandlers = call_handlers  # type: ignore[method-assign]

    logging.Logger.callHandlers = capture  # type: ignore[method-assign, assignment]
    return restore
