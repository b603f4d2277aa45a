"""Worker processes, for nodes with ``runs_in = "process"``: the fourth backend.

Why not ``anyio.to_process``: it does not report how a process ended; a Ctrl-C at the terminal reaches its
processes; nothing is sent while a function runs, neither ``stopping`` nor progress nor log lines; output is
lost; an exception loses its traceback, and has to be picklable; a file that was loaded by its path is not
found; and a process that computes in C outlives a program that is killed.

A process is started when a node needs one and none is idle, so there are at most as many as ``workers``. Idle
ones are kept until the stop. To end a node early, its process is killed, with what it started in the same
process group: no code of the node runs any more, neither ``except`` nor ``finally``. So it is never stuck.

After a node the settings of its process are restored, or the process is replaced.
"""

from __future__ import annotations

import contextvars
import json
import logging
import signal
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import trio

from exotrio._children.child_process import MAX_KILL, SOCKET, ChildProcess
from exotrio._execution.backends import ExecutionBackend
from exotrio._execution.handle import Execution
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
from exotrio._execution.results import Failure
from exotrio._nodes.base import BaseNode
from exotrio._nodes.importing import GUARD, Target, is_worker_process, target_of
from exotrio._nodes.outcome import Errored, Outcome
from exotrio._shared import deadlines
from exotrio._shared.deadlines import join_at_exit
from exotrio._util.crossing import call_in_loop

log = logging.getLogger("exotrio.worker")

BEGIN = """import json, sys
sys.path[:] = json.loads(sys.argv[2])
from exotrio._execution.process_worker import Worker
Worker(int(sys.argv[1])).serve()"""
"""The code of a worker process. With the import path of the runtime it is sure to find exotrio."""
MAX_START = 120.0
"""Seconds in which a process has to start and to load the code of its node."""
MAX_BEGIN = 10.0
"""Seconds in which a process has to begin a node whose code it has loaded; then the node gets another one."""


class ProcessBackend(ExecutionBackend):
    """Runs each node in a worker process, which runs one node after the other."""

    def __init__(self, send_heartbeat: Callable[[], object]) -> None:
        self._idle: list[WorkerProcess] = []
        self._send_heartbeat = send_heartbeat

    async def run(self, node: type[BaseNode], execution: Execution) -> Outcome:
        execution.elsewhere = True
        if is_worker_process():
            raise _failed(node, f"this is a worker process, which starts no others: {GUARD}")
        process = self._idle.pop() if self._idle else None
        while True:
            try:
                if process is None:
                    process = WorkerProcess()
                    # It takes a while to start. Until a heartbeat says that the node has not begun, its state
                    # counts as running.
                    self._send_heartbeat()
            except OSError as error:
                raise _failed(node, f"no process can be started: {error.strerror}") from error
            try:
                result = await process.run(node, execution)
                break
            except _NotBegun as error:
                log.warning("%s gets another process: %s", execution, error)
                await process.end()
                process = None  # not another idle one: each could take as long
            except BaseException:
                await process.end()
                raise
        if process.reusable:
            self._idle.append(process)
        else:
            process.end_later()
        if isinstance(result, Failure):
            raise result
        return result

    async def aclose(self) -> None:
        for process in self._idle:
            process.hang_up()
        with trio.move_on_after(deadlines.WORKER_PROCESSES, shield=True):
            for process in self._idle:
                await process.ended.wait()
        while self._idle:
            self._idle.pop().end_later()


class _NotBegun(Exception):
    """A process that was idle does not begin a node: what an earlier one left has ended or stopped it."""


class WorkerProcess(ChildProcess):
    """One process.

    Attributes:
        reusable: It may run another node.
    """

    def __init__(self) -> None:
        # What a node prints is not a result of the runtime's program.
        super().__init__(["-c", BEGIN, SOCKET, json.dumps(sys.path)], prints_to_stderr=True)
        self.reusable = True
        self._jobs = 0
        self._loaded = set[Target]()

    async def run(self, node: type[BaseNode], execution: Execution) -> Outcome | Failure:
        """Run a node and return its outcome.

        Raises:
            Failure: the process ended. ``end`` it.
            _NotBegun: it had run another node. ``end`` it, and run this one in another process.

        Cancellation:
            Not safe: then ``end`` it.
        """
        self._jobs += 1

        def drain() -> Drain:
            return Drain(execution.view.seconds_left)

        job = Job(
            number=self._jobs,
            target=target_of(node),
            claim=replace(execution.claim, token=None),  # the code of a node needs no lease
            secrets=dict(execution.secrets),
            trace=execution.trace,
            timeout=execution.claim.timeout_of(node.timeout),
            drain=drain() if execution.draining else None,
            captures=execution.output is not None,
        )
        limit = MAX_BEGIN if job.target in self._loaded else MAX_START
        what = "begin it" if job.target in self._loaded else "load its code"
        why = f"its process did not {what} within {limit:g} s"
        begun = False
        try:
            with trio.move_on_after(limit):
                if job.number == 1:
                    await self.send(_setup())
                await self.send(job)
                execution.on_drain = lambda: self.send_now(drain())
                # The runtime may have begun to drain, or moved the end of the grace, while the job was sent.
                if execution.draining:
                    execution.on_drain()
                while not isinstance(message := await self.receive(), Began | Ended):
                    self._handle(message, execution)
                begun = True
            # Not in the limit: a busy loop may read ``Began`` when that is over.
            if begun:
                while not isinstance(message, Ended):
                    if isinstance(message, Began):
                        self._loaded.add(job.target)
                        execution.begin(node.timeout)
                        execution.note_execute(trio.current_time())
                    self._handle(message, execution)
                    message = await self.receive()
                if message.ran is not None:
                    # A busy loop read ``Began`` late.
                    execution.begun_at = min(execution.begun_at, trio.current_time() - message.ran)
                self.reusable = message.reusable
                return message.result
        except EOFError:
            with trio.move_on_after(MAX_KILL):
                await self.ended.wait()
            why = f"its process {self.ending}"
            if not self.ended.is_set() or self.code == CONNECTION_LOST:
                why = "its process closed the connection to the runtime"
            elif self.code == -signal.SIGKILL:
                why += ", perhaps by the kernel for want of memory"
        finally:
            execution.on_drain = None
        if job.number > 1 and not begun:
            raise _NotBegun(why)
        raise _failed(node, why)

    def end_later(self) -> None:
        """Let it end by itself, so that files which its code left open are flushed.

        It is killed if that takes longer than ``deadlines.IDLE_PROCESSES``. This process does not end before.
        """
        self.hang_up()
        self.close()
        if not self.ended.is_set():
            kill = partial(self.wait_or_kill, deadlines.IDLE_PROCESSES)
            thread = threading.Thread(target=kill, name="exotrio process end", daemon=True)
            thread.start()
            join_at_exit(thread)

    def _handle(self, message: object, execution: Execution) -> None:
        match message:
            case Logged(job, record):
                if job == self._jobs:
                    _log(record)
                else:  # of a thread that a node left, perhaps an earlier one
                    contextvars.Context().run(_log, record)
            case News(job, progress, lines, value, waits) if job == self._jobs:
                if progress is not None:
                    execution.progress.say(progress.fraction, progress.text)
                if lines is not None and execution.output is not None:
                    execution.output.take(lines)
                if (checkpoint := execution.checkpoint) is not None:
                    if value is not None:
                        checkpoint.take(value)
                    if waits and checkpoint.last is not None:
                        number, token = checkpoint.last.number, trio.lowlevel.current_trio_token()
                        # Another thread calls it.
                        wake = partial(call_in_loop, token, self.send_now, Stored(job, number))
                        checkpoint.when_stored(number, wake)


def _setup() -> Setup:
    loggers = list(logging.Logger.manager.loggerDict.items())  # other threads may create more meanwhile
    levels = {name: each.level for name, each in loggers if isinstance(each, logging.Logger) and each.level}
    levels[""] = logging.getLogger().level
    # As int: of a member of an enum, the process would have to load the user's code before this arrives.
    return Setup(sys.argv, {name: int(level) for name, level in levels.items()})


def _log(attributes: dict[str, object]) -> None:
    record = logging.makeLogRecord(attributes)
    logger = logging.getLogger(record.name)
    if logger.isEnabledFor(record.levelno):
        logger.handle(record)


def _failed(node: type[BaseNode], why: str) -> Failure:
    text = f"{node.__name__}: {why}"
    return Failure(Errored(text))
