"""A child process that runs a user's Runtime, seen from the command that started it.

Both ends talk over a pair of sockets that no other process has: the command sends orders, the child reports,
one JSON line each, which may contain secrets of graphs. The child never outlives the command: see
``parent_process``, the other end.
"""

from __future__ import annotations

import json
import math
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing, suppress
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

import trio

from exotrio._util import deadlines
from exotrio._util.child_python import child_python
from exotrio.errors import ConfigurationError

MARGIN = 5.0
"""Seconds that a process gets beyond the limits of its drain, for a busy machine; then it is killed."""
LAST_MESSAGES_TIMEOUT = 1.0
"""Seconds for reading the last messages of a process that ended: one that it started may keep the stream
open."""
SOCKET = "{socket}"
"""Stands for the number of the child's socket in its arguments."""


class Order(StrEnum):
    """What a child process is ordered to do."""

    DRAIN = "drain"
    CANCEL = "cancel"


@dataclass(frozen=True, slots=True)
class Registered:
    """The message that the nodes are registered; the Runtime claims states."""


def encode(message: Any) -> bytes:
    """Return a message, a dataclass, as a line."""
    return json.dumps([type(message).__name__, asdict(message)]).encode() + b"\n"


class ChildProcess:
    """A process that is started with this object, which takes milliseconds.

    Args:
        kinds: Classes of the messages that it sends, beside ``Registered``.
        arguments: Of the interpreter of this process; ``SOCKET`` in them becomes the socket's number.
        env: Variables beside those of this process.
        alone: In a process group of its own, without standard input. A Ctrl-C at the terminal goes to every
            process of the foreground group; alone, the child gets only the order that follows from it, and
            counts it once. Reading from the terminal would suspend it there.

    Attributes:
        grace: Seconds that its running nodes may go on in a drain; 0 until that is known.
        registered: Its nodes are registered.
        was_killed: It did not end in time.

    Raises:
        ConfigurationError: no process can be started.
    """

    def __init__(
        self,
        kinds: Sequence[type],
        arguments: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        alone: bool = False,
    ) -> None:
        self.grace = 0.0
        self.registered = trio.Event()
        self.was_killed = False
        self._kinds = {kind.__name__: kind for kind in (*kinds, Registered)}
        ours, theirs = socket.socketpair()
        with theirs:
            number = theirs.fileno()
            command = child_python(*(str(number) if each == SOCKET else each for each in arguments))
            # The new process inherits the mask, and unblocks Ctrl-C once it can handle it.
            before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
            try:
                self._process = subprocess.Popen(
                    command,
                    pass_fds=(number,),
                    env={**os.environ, **(env or {})},
                    stdin=subprocess.DEVNULL if alone else None,
                    process_group=0 if alone else None,
                )
            except OSError as error:
                ours.close()
                raise ConfigurationError(
                    f"no process can be started for the runtime: {error.strerror}",
                    where=f"as {sys.executable}",
                ) from error
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)
        self._socket = ours
        self._stream = trio.SocketStream(trio.socket.from_stdlib_socket(ours))
        self._ends_by = math.inf
        self._waiting = trio.CancelScope()

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def code(self) -> int:
        """Its exit code, as ``wait`` returns it, once it has ended."""
        return self._process.returncode

    def send(self, order: Order, why: str) -> None:
        """Send an order; from then on it has a limited time to end. ``why`` is for its log."""
        self.send_line(f"{order} {why}")
        grace = self.grace if order is Order.DRAIN else 0.0
        bound = deadlines.longest_stop(grace) + MARGIN
        self._waiting.deadline = self._ends_by = min(self._ends_by, trio.current_time() + bound)

    def send_line(self, line: str) -> None:
        """Send a line, if the process has not ended."""
        with suppress(OSError):
            self._socket.send(f"{line}\n".encode())

    async def run(
        self, take: Callable[[Any], Awaitable[None]], *beside: Callable[[], Awaitable[object]]
    ) -> None:
        """Hand its messages to ``take`` until it has ended; run ``beside`` meanwhile.

        Cancellation:
            The process is drained first, in limited time.
        """
        all_read = trio.Event()

        async def listen() -> None:
            async with aclosing(self._messages()) as messages:
                async for message in messages:
                    if isinstance(message, Registered):
                        self.registered.set()
                    await take(message)
            all_read.set()

        try:
            async with trio.open_nursery() as nursery:
                for each in (listen, *beside):
                    nursery.start_soon(each)
                await self.wait()
                with trio.move_on_after(LAST_MESSAGES_TIMEOUT):
                    await all_read.wait()
                nursery.cancel_scope.cancel()
        finally:
            await self.aclose()

    async def _messages(self) -> AsyncGenerator[Any]:
        rest = b""
        with suppress(trio.BrokenResourceError):
            while data := await self._stream.receive_some():
                *lines, rest = (rest + data).split(b"\n")
                for kind, fields in map(json.loads, lines):
                    yield self._kinds[kind](**fields)

    async def wait(self) -> int:
        """Wait until it has ended and return its exit code; below zero, the signal that killed it.

        Cancellation:
            Safe; the process continues.
        """
        with trio.CancelScope(deadline=self._ends_by) as self._waiting:
            return await self._ended()
        self.was_killed = True
        self.kill()
        return await self._ended()

    async def _ended(self) -> int:
        # With a limiter of its own: there may be more processes than threads of the default one.
        limiter = trio.CapacityLimiter(1)
        return await trio.to_thread.run_sync(self._process.wait, abandon_on_cancel=True, limiter=limiter)

    async def aclose(self) -> None:
        """End it, if it has not ended yet, and close the stream. Takes as long as its drain may."""
        if self._process.poll() is None:
            self.send(Order.DRAIN, "an error")
            with trio.CancelScope(shield=True):  # its deadline was set by the order
                await self.wait()
        await trio.aclose_forcefully(self._stream)

    def kill(self) -> None:
        """End it at once. Also from a signal handler."""
        with suppress(ProcessLookupError):
            self._process.kill()
