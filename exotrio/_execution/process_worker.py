"""A worker process: it runs one node after another for the runtime that started it, the other end of
``processes``.

The main thread runs the nodes. Another thread reads what the runtime sends; when that stream ends, the
process ends at once, whatever runs.

The runtime alone says when this process ends: SIGINT, SIGTERM and SIGHUP, which terminals and service
managers send to every process, do nothing here. They get a handler instead of being ignored, since a program
that a node starts would inherit that.
"""

from __future__ import annotations

import contextvars
import faulthandler
import inspect
import logging
import os
import pickle
import queue
import signal
import sys
import threading
import time
from contextlib import suppress
from dataclasses import replace
from typing import Any

import trio

from exotrio._children.parent_process import SIGNALS, ParentProcess, die_with_parent, unblock_signals
from exotrio._execution.capture import captured
from exotrio._execution.error_text import error_line, error_text
from exotrio._execution.messages import (
    CONNECTION_LOST,
    Began,
    Captured,
    Drain,
    Ended,
    Job,
    Logged,
    Progressed,
    Setup,
)
from exotrio._execution.output import Output, output_context
from exotrio._execution.results import Failure, failure_of, instance_of, returned
from exotrio._http.endpoint import ambient_endpoint
from exotrio._nodes.base import BaseNode, Stopping, StopView
from exotrio._nodes.importing import GUARD, MAIN, NotImportable, Target, be_worker_process, load
from exotrio._nodes.outcome import Errored, Outcome
from exotrio._nodes.progress import ProgressView
from exotrio._util import tracing
from exotrio._util.exceptions import single_leaf
from exotrio._util.redaction import Redactor, redactor_of
from exotrio.errors import LifecycleError

log = logging.getLogger("exotrio.worker")

PROGRESS_INTERVAL = 0.2
"""Seconds between two progresses that are sent, however often a node reports one."""
_SIGNALS = [number for number in sorted(signal.valid_signals()) if number < 32]  # none for real time

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
            self._running = None
            running.end_output()
            self._report(running, result)

    # -- in the listening thread

    def _listen(self) -> None:
        for message in self.messages(lambda: None if self._running is None else PROGRESS_INTERVAL):
            if message is not None:
                self._handle(message)
            elif (running := self._running) is not None:
                running.progress.send_last()
                running.send_output()
        if self._running is not None:
            os._exit(CONNECTION_LOST)
        self._jobs.put(None)

    def _handle(self, message: object) -> None:
        match message:
            case Setup():
                sys.argv[:] = message.argv
                for name, level in message.levels.items():
                    logging.getLogger(name or None).setLevel(level)
                logging.getLogger().addHandler(self._forwarder)
                logging.captureWarnings(True)
            case Job():
                self._running = _Running(message, self)
                self._jobs.put(self._running)
            case Drain():
                if self._running is not None:
                    self._running.view.reason = Stopping.DRAINING

    # -- in the main thread

    def _run(self, running: _Running) -> Outcome | Failure:
        job, redactor = running.job, running.progress.redactor
        _job.set(job.number)
        output_context.set(running.output)
        node = _load(job.target, redactor)
        if isinstance(node, Failure):
            return node
        if job.target not in self._loaded:
            # What the code sets while it is loaded is to stay.
            self._loaded.add(job.target)
            self._settings = _ProcessSettings()
        self.send(Began())
        try:
            instance = instance_of(node, job.inputs, job.secrets, running.view, running.progress)
            if isinstance(instance, Errored):
                return instance
            if running.output is not None:
                running.output.is_open = True
            with tracing.following(job.trace):
                value = instance.execute()
                if inspect.isawaitable(value):
                    value = trio.run(_await, value)
            return returned(node, value)
        except BaseException as error:
            failure = failure_of(node, error, redactor)
            if job.target.module != "__main__" or not isinstance(failure.outcome, Errored):
                return failure
            text = failure.outcome.error.replace(f"{MAIN}.", "")  # as its program would write it
            return Failure(replace(failure.outcome, error=text), failure.line.replace(f"{MAIN}.", ""))
        finally:
            self._restore(node.__name__)

    def _restore(self, node: str) -> None:
        """Restore the settings of the process for the next node."""
        assert self._settings is not None
        try:
            self._settings.restore()
        except OSError as error:
            self._reusable = False
            log.warning("the process of %s is replaced: its working directory is gone: %s", node, error)

    def _report(self, running: _Running, result: Outcome | Failure) -> None:
        try:
            self.send(Ended(result, self._reusable))
        except Exception as error:
            name = running.job.target.name
            text = f"what {name} ended with cannot leave its process: {type(error).__name__}: {error}"
            text = running.progress.redactor.redact(text)
            self.send(Ended(Failure(Errored(text), text), self._reusable))

    def _leave_to_parent(self) -> None:
        """Be no worker process in a child that a node forked."""
        if self._running is not None and self._running.output is not None:
            self._running.output.is_open = False  # its lock, too; and these lines would not be sent
        logging.getLogger().removeHandler(self._forwarder)
        for number in SIGNALS:
            signal.signal(number, signal.SIG_DFL)


def _load(target: Target, redactor: Redactor) -> type[BaseNode] | Failure:
    try:
        # As for the command line: a Runtime that the file builds needs no state manager, nor does it start.
        with ambient_endpoint(None):
            return load(target)
    except NotImportable as error:
        return Failure(Errored(str(error)), str(error))
    except BaseException as error:
        line = error_line(error, redactor)
        if isinstance(single_leaf(error), LifecycleError):
            line = f"{target.file} starts its Runtime while it is loaded, which each process has to: {GUARD}"
        return Failure(Errored(f"{line}\n\n{error_text(error, redactor)}"), line)


class _Running:
    """A job, and what its node sees of the runtime."""

    def __init__(self, job: Job, end: Worker) -> None:
        self.job = job
        self.view = StopView()
        self.view.reason = Stopping.DRAINING if job.draining else Stopping.NO
        self.progress = _SentProgress(job.number, end)
        self.progress.redactor = redactor_of(job.secrets.values())
        self.output = Output(self.progress) if job.captures else None
        self._end = end
        self._sending = threading.Lock()

    def send_output(self) -> None:
        """Send what it logged and printed, if there is more of it by now."""
        if self.output is not None:
            with self._sending:  # an older state of it is not to follow a newer one
                if (lines := self.output.news()) is not None:
                    self._end.send(Captured(self.job.number, lines))

    def end_output(self) -> None:
        """Take no more of it, and send what is left."""
        if self.output is not None:
            self.output.end_lines()
            self.send_output()


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


class _SentProgress(ProgressView):
    """Sends the progress of a job, now and then; the listening thread sends what is left."""

    __slots__ = ("_end", "_job", "_next", "_sent")

    def __init__(self, job: int, end: Worker) -> None:
        super().__init__()
        self._job = job
        self._end = end
        self._next = 0.0
        self._sent: object = None

    def say(self, fraction: object, text: object) -> None:
        super().say(fraction, text)
        if time.monotonic() >= self._next:
            self.send_last()

    def send_last(self) -> None:
        """Send what was not sent yet."""
        last = self.last
        if last is not None and last is not self._sent:
            self._sent = last
            self._next = time.monotonic() + PROGRESS_INTERVAL
            self._end.send(Progressed(self._job, last))


class _Forwarder(logging.Handler):
    """Sends log records to the runtime, whose handlers know where they go."""

    def __init__(self, end: Worker) -> None:
        super().__init__()
        self._end = end

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._end.send(Logged(_job.get(), _portable(record)))
        except Exception:
            self.handleError(record)


def _portable(record: logging.LogRecord) -> dict[str, Any]:
    """Return the attributes of a record, formatted where an object would have to cross."""
    attributes = record.__dict__ | {"msg": record.getMessage(), "args": None, "exc_info": None}
    if record.exc_info and not record.exc_text:
        attributes["exc_text"] = logging.Formatter().formatException(record.exc_info)
    for name, value in attributes.items():
        if not isinstance(value, str | int | float | None):
            try:
                pickle.dumps(value)
            except Exception:
                attributes[name] = repr(value)
    return attributes


async def _await(value: Any) -> object:
    return await value
