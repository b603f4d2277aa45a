"""Nodes that run in separate processes, where a class that a test defines within itself is not found."""

from __future__ import annotations

import asyncio
import atexit
import contextvars
import ctypes
import fcntl
import functools
import gc
import logging
import os
import re
import signal
import subprocess
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any, cast
from unittest.mock import patch

import anyio
import anyio.lowlevel
import sniffio
import trio
import trio.lowlevel
from pydantic import BaseModel

from exotrio import BaseNode, ExotrioError, HandOver, PruneSignal, ReQueueAfterSignal, WaitForEvent
from exotrio._execution import output
from exotrio._link.port import Claim

log = logging.getLogger("tests.process_nodes")


class Text(BaseModel):
    text: str


class InProcess(BaseNode):
    runs_in = "process"

    class Outputs(Text):
        pass


class Traced(InProcess):
    """Says which span is the current one."""

    async def execute(self) -> Any:
        from opentelemetry import trace

        context = trace.get_current_span().get_span_context()
        return self.Outputs(text=f"{context.trace_id:032x} {context.span_id:016x}")


class Waits(InProcess):
    def execute(self) -> Any:
        if self.event is None or self.event.value is None:
            raise WaitForEvent("paid", timeout=timedelta(minutes=1))
        return self.Outputs(text=self.event.value["sum"])


class CallsInProcess(InProcess):
    class Inputs(BaseModel):
        cities: list[str]

    def execute(self) -> Any:
        children = [self.call("weather", {"city": city}) for city in self.inputs.cities]
        return self.Outputs(text=" ".join(child.outputs()["degrees"] for child in children))


class TellsItsRun(InProcess):
    def execute(self) -> Any:
        return self.Outputs(text=self.run_id)


class FindsClaims(InProcess):
    """Says which lease tokens its process has."""

    def execute(self) -> Any:
        claims = [each for each in gc.get_objects() if isinstance(each, Claim)]
        return self.Outputs(text=str([claim.token for claim in claims]))


class Sleeps(InProcess):
    def execute(self) -> None:
        time.sleep(0.05)


class Gated(InProcess):
    """Runs until there is a file."""

    class Inputs(BaseModel):
        path: str

    def execute(self) -> None:
        while not os.path.exists(self.inputs.path):
            time.sleep(0.01)


class Talks(InProcess):
    """Prints and logs; then hangs, if its input says so."""

    timeout = 2.0

    class Inputs(BaseModel):
        hangs: bool

    class Secrets(BaseModel):
        key: str

    def execute(self) -> Any:
        print("begun with", self.secrets.key)
        log.warning("it is %s", "late")
        print("no end", end="")
        time.sleep(60 * self.inputs.hangs)
        return self.Outputs(text="")


# -- which end as they would anywhere else


class Typed(InProcess):
    class Inputs(BaseModel):
        count: int

    class Outputs(BaseModel):
        squares: list[int]

    def execute(self) -> Any:
        return [self.Outputs(squares=[n * n]) for n in range(self.inputs.count)]


class OnLoop(InProcess):
    async def execute(self) -> Any:
        await anyio.lowlevel.checkpoint()
        await trio.lowlevel.checkpoint()
        return self.Outputs(text=f"{sniffio.current_async_library()} {self.stopping}")


def decorated(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    @functools.wraps(function)
    def inner(self: Any) -> Any:
        return function(self)

    return inner


class Decorated(InProcess):
    @decorated
    async def execute(self) -> Any:
        await trio.lowlevel.checkpoint()


class Secretive(InProcess):
    class Secrets(BaseModel):
        key: str

    async def execute(self) -> Any:
        async with trio.open_nursery():
            try:
                int(self.secrets.key)
            except ValueError as error:
                raise Locked(f"refused: {self.secrets.key}") from error


class Locked(Exception):
    """An exception that cannot be pickled."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.lock = threading.Lock()


class Exits(InProcess):
    def execute(self) -> Any:
        raise SystemExit(3)


class WrongType(InProcess):
    def execute(self) -> Any:
        return Text(text="of another class")


class Prunes(InProcess):
    async def execute(self) -> Any:
        class Reason(str):
            """No other process can import it."""

        async with trio.open_nursery():
            raise PruneSignal({"why": [Reason("nothing"), "to do"]})


class Requeues(InProcess):
    def execute(self) -> Any:
        raise ReQueueAfterSignal(timedelta(minutes=3))


class WithoutAsyncio(InProcess):
    async def execute(self) -> Any:
        await asyncio.sleep(1)


# -- which end as only a process can


class Leaves(InProcess):
    def execute(self) -> Any:
        atexit.register(print, "in order")
        return self.Outputs(text=str(os.getpid()))


class Changes(InProcess):
    """Changes the settings of its process; returns those that it found, and the process id."""

    class Inputs(BaseModel):
        folder: str
        remove: str

    class Outputs(BaseModel):
        settings: str
        pid: int

    def execute(self) -> Any:
        settings = (
            os.getcwd(),
            os.environ.get("LEFT"),
            "HOME" in os.environ,
            signal.getsignal(signal.SIGTERM) is signal.SIG_DFL,
        )
        os.chdir(self.inputs.folder)
        os.environ["LEFT"] = "behind"
        del os.environ["HOME"]
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        if self.inputs.remove:
            os.rmdir(self.inputs.remove)
        return self.Outputs(settings=repr(settings), pid=os.getpid())


class Stays(InProcess):
    """Leaves a thread that Python waits for at its exit."""

    def execute(self) -> Any:
        threading.Thread(target=time.sleep, args=(600,)).start()
        return self.Outputs(text=str(os.getpid()))


class Dies(InProcess):
    class Inputs(BaseModel):
        how: str

    def execute(self) -> Any:
        match self.inputs.how:
            case "crash":
                ctypes.string_at(0)
            case "exit":
                os._exit(3)
            case "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            case "close":
                os.closerange(3, 64)
                time.sleep(600)
            case "lock":
                return Holder(lock=threading.Lock())  # type: ignore[call-arg]
        return self.Outputs(text=str(os.getpid()))


class Holder(Dies.Outputs):
    """Outputs that cannot leave their process."""

    model_config = {"extra": "allow"}
    text: str = ""


class Hangs(InProcess):
    """Holds the interpreter's lock without end, in C. Its progress: its process, and one that it started."""

    def execute(self) -> Any:
        child = subprocess.Popen(["sleep", "600"])
        self.progress(0.5, f"{os.getpid()} {child.pid}")
        re.match("(a+)+$", "a" * 60 + "b")


class HangsBriefly(Hangs):
    timeout = 1


# -- which see something of the runtime


class Drains(InProcess):
    """Its progress is its process."""

    def execute(self) -> Any:
        self.progress(None, f"{os.getpid()}")
        while not self.stopping:
            time.sleep(0.002)
        return self.Outputs(text=self.stopping)


class Keeps(InProcess):
    """Saves a checkpoint, sets another one, and hands over with a third once the runtime stops."""

    class Checkpoint(BaseModel):
        step: int = 0

    def execute(self) -> Any:
        step = self.checkpoint.step
        self.save_checkpoint_sync(self.Checkpoint(step=step + 1))
        self.checkpoint = self.Checkpoint(step=step + 2)
        self.progress(None, f"{self.seconds_left:.2f}")
        while not self.stopping:
            time.sleep(0.002)
        self.progress(None, f"{self.seconds_left:.2f}")
        self.checkpoint = self.Checkpoint(step=step + 10)
        raise HandOver


class KeepsOnLoop(Keeps):
    timeout = 60

    async def execute(self) -> Any:
        await self.save_checkpoint(self.Checkpoint(step=1))
        self.progress(None, f"{self.seconds_left:.2f}")


class KeepsOn(Keeps):
    """Goes on, whatever the runtime does."""

    def execute(self) -> Any:
        while True:
            self.checkpoint = self.Checkpoint(step=self.checkpoint.step + 1)
            time.sleep(0.001)


class LeavesThread(InProcess):
    """Returns while a thread of it waits for a checkpoint, which then writes to ``file`` what it got."""

    class Inputs(BaseModel):
        file: str
        how: str = "sync"

    class Checkpoint(BaseModel):
        step: int = 0

    def execute(self) -> Any:
        thread = threading.Thread(target=self.save)
        thread.start()
        while self.checkpoint.step == 0:
            time.sleep(0.002)

    def save(self) -> None:
        inputs, value = cast(Any, self.inputs), self.Checkpoint(step=1)
        try:
            match inputs.how:
                case "sync":
                    self.save_checkpoint_sync(value)
                case "trio":
                    trio.run(self.save_checkpoint, value)
                case "asyncio":
                    asyncio.run(self.save_checkpoint(value))
            text = "saved"
        except ExotrioError as error:
            text = str(error)
        Path(inputs.file).write_text(text)


class LeavesThreadHere(LeavesThread):
    runs_in = "thread"  # type: ignore[assignment]


class Reports(InProcess):
    """Reports ten thousand progresses; the last one counts."""

    async def execute(self) -> Any:
        for n in range(10_001):
            self.progress(n / 10_000, f"step {n}")
        while not self.stopping:  # noqa: ASYNC110 - there is no event of it
            await trio.sleep(0.002)


class Logs(InProcess):
    class Secrets(BaseModel):
        key: str

    def execute(self) -> Any:
        print("printed")
        os.write(1, b"written to the descriptor\n")
        log.debug("not wanted")
        try:
            int("x")
        except ValueError:
            log.warning(
                "no number, but %s", self.secrets.key, exc_info=True, extra={"lock": threading.Lock()}
            )
        warnings.warn("a warning", stacklevel=1)
        threading.Thread(target=log.warning, args=("of a thread",)).start()


class Forks(InProcess):
    """Forks a child that logs, and is ended by a signal, as programs are."""

    def execute(self) -> Any:
        ready, written = os.pipe()
        child = os.fork()
        if child == 0:
            log.warning("of the child")
            os.write(written, b"x")
            signal.pause()
        os.read(ready, 1)
        os.kill(child, signal.SIGTERM)
        return self.Outputs(text=str(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])))


class ForksAmidALine(InProcess):
    """Forks a child that logs, while a thread that is not in the child adds a line."""

    timeout = 10.0

    def execute(self) -> Any:
        adding, forked = threading.Event(), threading.Event()

        def size(line: output.Line) -> int:
            adding.set()
            forked.wait()
            return len(line.text)

        context = contextvars.copy_context()
        with patch.object(output, "_size", size):
            thread = threading.Thread(target=context.run, args=(log.warning, "of a thread"))
            thread.start()
            adding.wait()
            child = os.fork()
            if child == 0:
                log.warning("of the child")
                os._exit(0)
            forked.set()
            thread.join()
        return self.Outputs(text=str(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])))


class Call(BaseModel):
    folder: str
    key: str
    seconds: float
    fails: bool


@contextmanager
def counted(call: Call) -> Iterator[None]:
    """Take one of two places of a service, and write down if there is none: too many calls run at once.

    The kernel frees it when the block or the process ends.
    """
    with ExitStack() as stack:
        for place in "12":
            file = stack.enter_context(Path(call.folder, f"{call.key} {place}").open("a"))
            with suppress(BlockingIOError):
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
        else:
            _note(call, "exceeded")
        _note(call, "calls")
        yield
    if call.fails:
        raise ValueError("on purpose")


def _note(call: Call, what: str) -> None:
    with Path(call.folder, what).open("a") as file:
        file.write(f"{call.key}\n")


class CountedInProcess(InProcess):
    class Inputs(Call):
        pass

    def execute(self) -> None:
        with counted(self.inputs):
            time.sleep(self.inputs.seconds)
