"""A worker process: it runs one node after another for the runtime that started it, the other end of
``processes``.

The main thread runs the nodes, and another one reads what the runtime sends (rule 3 of ``_children``).

The runtime alone says when this process ends: SIGINT, SIGTERM and SIGHUP, which terminals and service
managers send to every process, do nothing here. They get a handler instead of being ignored, since a program
that a node starts would inherit that they are ignored.
"""

from __future__ import annotations

import contextvars
import faulthandler
import inspect
import io
import logging
import os
import pickle
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

import trio

from exotrio._children.parent_process import SIGNALS, ParentProcess, die_with_parent, unblock_signals
from exotrio._execution.capture import captured
from exotrio._execution.error_text import error_text
from exotrio._execution.forks import ends_forked_children
from exotrio._execution.messages import (
    CONNECTION_LOST,
    Began,
    Drain,
    Ended,
    Job,
    Logged,
    News,
    Setup,
    Stored,
)
from exotrio._execution.output import Output, output_context
from exotrio._execution.results import Failure, failure_of, instance_of, returned
from exotrio._http.endpoint import ambient_endpoint
from exotrio._nodes.base import BaseNode, Stopping, StopView, checkpoint_class_of
from exotrio._nodes.checkpoint import CheckpointView
from exotrio._nodes.importing import GUARD, MAIN, NotImportable, Target, be_worker_process, load
from exotrio._nodes.outcome import CheckpointText, Errored, Outcome
from exotrio._nodes.progress import Progress, ProgressView
from exotrio._util import tracing
from exotrio._util.exceptions import single_leaf
from exotrio._util.redaction import Redactor, redactor_of
from exotrio.errors import LifecycleError

log = logging.getLogger("exotrio.worker")

NEWS_INTERVAL = 0.2
"""Minimum seconds between two messages about the progress and the output of a node."""
_SIGNALS = [number for number in sorted(signal.valid_signals()) if number < 32]  # no real-time signals

_job: contextvars.ContextVar[int | None] = contextvars.ContextVar("exotrio_job", default=None)


class Worker(ParentProcess):
    """Runs the nodes that the runtime, the parent of this process, sends."""

    def __init__(self, descriptor: int) -> None:
        super().__init__(descriptor)
        self._jobs: queue.SimpleQueue[_Running | None] = queue.SimpleQueue()
        self._running: _Running | None = None
        self._loaded: set[Target] = set()
        self._settings: _ProcessSettings | None = None
        self._reusable = True
        self._forwarder = _Forwarder(self)

    def serve(self) -> None:
        """Run nodes until the runtime ends the stream."""
        for number in SIGNALS:
            signal.signal(number, lambda number, frame: None)
        os.register_at_fork(after_in_child=self._leave_to_parent)
        be_worker_process()
        die_with_parent()
        faulthandler.enable()  # a crash shows on standard error where it happened
        if sys.stdout is not None:
            sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
        # A daemon, since it ends with the stream only.
        threading.Thread(target=self._listen, daemon=True).start()
        unblock_signals()
        while (running := self._jobs.get()) is not None:
            # In a copy of this thread's context: what a node sets there ends with it.
            with captured(enabled=running.output is not None):
                result = contextvars.copy_context().run(self._run, running)
            ran = None if running.began_at is None else time.monotonic() - running.began_at
            self._running = None
            running.checkpoint.end()
            running.send_last_news()
            try:
                self.send(Ended(result, self._reusable, ran))
            except Exception as error:  # pickling may raise anything
                text = f"what {running.job.target.name} ended with cannot leave its process: "
                text = running.redactor.redact(f"{text}{type(error).__name__}: {error}")
                self.send(Ended(Failure(Errored(text)), self._reusable, ran))

    # -- in the listening thread

    def _listen(self) -> None:
        for message in self.messages(lambda: None if self._running is None else NEWS_INTERVAL):
            running = self._running
            match message:
                case None if running is not None:
                    running.send_news()
                case Drain() if running is not None:
                    running.drain(message)
                case Stored(job, number) if running is not None and job == running.job.number:
                    running.checkpoint.confirm(number)
                case Setup():
                    sys.argv[:] = message.argv
                    for name, level in message.levels.items():
                        logging.getLogger(name or None).setLevel(level)
                    logging.getLogger().addHandler(self._forwarder)
                    logging.captureWarnings(True)
                case Job():
                    self._running = _Running(message, self)
                    self._jobs.put(self._running)
        if self._running is not None:
            os._exit(CONNECTION_LOST)
        self._jobs.put(None)

    # -- in the main thread

    def _run(self, running: _Running) -> Outcome | Failure:
        job = running.job
        _job.set(job.number)
        output_context.set(running.output)
        node = _load(job.target, running.redactor)
        if isinstance(node, Failure):
            return node
        if job.target not in self._loaded:
            # What the code sets while it is loaded is kept.
            self._loaded.add(job.target)
            self._settings = _ProcessSettings()
        assert self._settings is not None
        self.send(Began())
        running.begin()
        has_checkpoint = job.claim.checkpoint is not None or checkpoint_class_of(node) is not None
        checkpoint = running.checkpoint if has_checkpoint else None
        try:
            instance = instance_of(node, job.claim, job.secrets, running.view, running, checkpoint)
            if isinstance(instance, Errored):
                return instance
            if running.output is not None:
                running.output.is_open = True
            with tracing.following(job.trace), ends_forked_children(node.__name__):
                value = instance.execute()
                if inspect.isawaitable(value):
                    value = trio.run(_await, value)
            return returned(instance, value)
        except BaseException as error:
            outcome = failure_of(node, error, running.redactor)
            if job.target.module == "__main__" and isinstance(outcome, Errored):
                # As its program would write it.
                outcome = replace(outcome, error=outcome.error.replace(f"{MAIN}.", ""))
            return Failure(outcome)
        finally:
            try:
                self._settings.restore()
            except OSError as error:
                self._reusable = False
                log.warning(
                    "the process of %s is replaced: its working directory is gone: %s", node.__name__, error
                )

    def _leave_to_parent(self) -> None:
        """Stop being a worker process, in a child that a node forked."""
        if self._running is not None and self._running.output is not None:
            self._running.output.is_open = False  # a thread may hold its lock
        logging.getLogger().removeHandler(self._forwarder)
        for number in SIGNALS:
            signal.signal(number, signal.SIG_DFL)


def _load(target: Target, redactor: Redactor) -> type[BaseNode] | Failure:
    try:
        # As for the command line: a Runtime that the file builds needs no state manager, nor does it start.
        with ambient_endpoint(None):
            return load(target)
    except NotImportable as error:
        return Failure(Errored(str(error)))
    except BaseException as error:
        text = error_text(error, redactor)
        if isinstance(single_leaf(error), LifecycleError):
            line = f"{target.file} starts its Runtime while it is loaded, which each process has to: {GUARD}"
            text = f"{line}\n\n{text}"
        return Failure(Errored(text))


class _Checkpoint(CheckpointView):
    """A checkpoint that is sent to the runtime, which has it stored."""

    __slots__ = ("_send_soon",)

    def __init__(
        self, stored: CheckpointText | None, send_soon: Callable[[], None], send: Callable[[], None]
    ) -> None:
        super().__init__(stored, is_stored=lambda: True, send=send)  # the runtime knows whether it is
        self._send_soon = send_soon

    def take(self, value: CheckpointText) -> None:
        super().take(value)
        self._send_soon()


class _Running(ProgressView):
    """A job, its progress, output and checkpoint: all are sent from time to time, and at the end."""

    def __init__(self, job: Job, worker: Worker) -> None:
        super().__init__()
        self.job = job
        self.began_at: float | None = None
        self.view = StopView(now=time.monotonic)
        if job.drain is not None:
            self.drain(job.drain)
        self.checkpoint = _Checkpoint(job.claim.checkpoint, self.send_soon, self._await_checkpoint)
        self.redactor = redactor_of(job.secrets.values())
        self.output = Output(self) if job.captures else None
        self._worker = worker
        # Reentrant: in the thread that holds it, a signal handler of the node may report progress.
        self._sending = threading.RLock()
        self._sent: Progress | None = None
        self._sent_checkpoint = job.claim.checkpoint
        self._next = 0.0
        self._waits = False

    def begin(self) -> None:
        self.began_at = time.monotonic()
        if self.job.timeout is not None:
            self.view.ends_at = min(self.view.ends_at, self.began_at + self.job.timeout)

    def drain(self, message: Drain) -> None:
        """Tell the node that the runtime stops."""
        self.view.ends_at = min(self.view.ends_at, time.monotonic() + message.seconds)
        self.view.reason = Stopping.DRAINING

    def say(self, fraction: object, text: object) -> None:
        super().say(fraction, text)
        self.send_soon()

    def send_soon(self) -> None:
        """Send what has changed, at once if possible: the node may go on to hold the interpreter's lock."""
        if time.monotonic() >= self._next:
            self.send_news()

    def send_news(self) -> None:
        """Send its progress, what it logged and printed, and its checkpoint, if these have changed."""
        with self._sending:  # older news must not follow newer ones
            last, value = self.last, self.checkpoint.last
            progress = last if last is not self._sent else None
            checkpoint = value if value is not self._sent_checkpoint else None
            lines = None if self.output is None else self.output.news()
            waits, self._waits = self._waits, False
            if progress is not None or lines is not None or checkpoint is not None or waits:
                self._sent, self._sent_checkpoint = last, value
                self._next = time.monotonic() + NEWS_INTERVAL
                self._worker.send(News(self.job.number, progress, lines, checkpoint, waits))

    def _await_checkpoint(self) -> None:
        self._waits = True
        self.send_news()

    def send_last_news(self) -> None:
        """Take no more output, and send what was not sent yet."""
        if self.output is not None:
            self.output.end_lines()
        self.send_news()


class _ProcessSettings:
    """Working directory, environment and signal handlers at the time of the call, to restore them after a
    node.

    For the main thread: only it may set signal handlers. Nothing else is restored: memory, umask, limits,
    timers, threads and child processes stay as the node left them.
    """

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


class _Forwarder(logging.Handler):
    """Sends log records to the runtime, whose handlers write them."""

    def __init__(self, worker: Worker) -> None:
        super().__init__()
        self._worker = worker

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._worker.send(Logged(_job.get(), _portable(record)))
        except Exception:
            self.handleError(record)


def _portable(record: logging.LogRecord) -> dict[str, Any]:
    """Return the attributes of a record, formatted where the runtime could not unpickle an object."""
    attributes = record.__dict__ | {"msg": record.getMessage(), "args": None, "exc_info": None}
    if record.exc_info and not record.exc_text:
        attributes["exc_text"] = logging.Formatter().formatException(record.exc_info)
    return {name: _portable_value(value) for name, value in attributes.items()}


def _portable_value(value: object) -> object:
    if value is None or isinstance(value, bool):
        return value
    for kind in (str, int, float):  # not a subclass, such as an enum of the user
        if isinstance(value, kind):
            return kind(value)
    try:
        return _Unpickler(io.BytesIO(pickle.dumps(value))).load()
    except Exception:
        return repr(value)


class _Unpickler(pickle.Unpickler):
    """Refuses classes that may not exist in the runtime, such as those of the program's main file."""

    def find_class(self, module: str, name: str) -> Any:
        if module.partition(".")[0] not in sys.stdlib_module_names:
            raise pickle.UnpicklingError(f"{module}.{name} is not in the standard library")
        return super().find_class(module, name)


async def _await(value: Any) -> object:
    return await value
