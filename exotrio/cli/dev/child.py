"""The child process that runs the user's code, seen from ``dev``: start it, send it orders, end it."""

from __future__ import annotations

import math
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncGenerator
from contextlib import suppress
from typing import Self

import trio

from exotrio._util import deadlines
from exotrio._util.settings import KEY_VARIABLE, URI_VARIABLE
from exotrio.cli.dev.protocol import Failed, Loaded, Message, Order, decode
from exotrio.cli.exit_codes import ABANDONED, SUCCESS
from exotrio.cli.program import interpreter
from exotrio.errors import ConfigurationError

MARGIN = 5.0
"""Seconds that a process gets beyond the limits of its drain, for a busy machine; then it is killed."""


class Child:
    """A process that runs the user's code, and what it has reported."""

    def __init__(self, process: subprocess.Popen[bytes], ours: socket.socket) -> None:
        self.loaded: Loaded | None = None
        self.failed: Failed | None = None
        self.is_registered = False
        self.was_killed = False
        """It did not end in time."""
        self.was_replaced = False
        self._process = process
        self._socket = ours
        self._stream = trio.SocketStream(trio.socket.from_stdlib_socket(ours))
        self._ends_by = math.inf
        self._waiting = trio.CancelScope()

    @classmethod
    def start(cls, target: str, *, uri: str, key: str, verbose: int) -> Self:
        """Start one, which takes milliseconds. The state manager is for its Runtime and for its nodes.

        Raises:
            ConfigurationError: no process can be started.
        """
        ours, theirs = socket.socketpair()
        with theirs:
            number = theirs.fileno()
            command = [*interpreter(), "-m", "exotrio.cli.dev.child_main", str(number), target, str(verbose)]
            # Not as an argument, which other users of the machine can read.
            env = {**os.environ, URI_VARIABLE: uri, KEY_VARIABLE: key}
            # The new process inherits the mask, and unblocks Ctrl-C once it can handle it.
            before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
            try:
                process = subprocess.Popen(command, pass_fds=(number,), env=env)
            except OSError as error:
                ours.close()
                raise ConfigurationError(
                    f"no process can be started for the runtime: {error.strerror}",
                    where=f"as {sys.executable}",
                ) from error
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return cls(process, ours)

    def send(self, order: Order) -> None:
        """Send an order; from then on it has a limited time to end."""
        with suppress(OSError):  # it has ended
            self._socket.send(f"{order}\n".encode())
        grace = self.loaded.grace if self.loaded is not None and order is Order.DRAIN else 0.0
        bound = deadlines.longest_stop(grace) + MARGIN
        self._waiting.deadline = self._ends_by = min(self._ends_by, trio.current_time() + bound)

    async def messages(self) -> AsyncGenerator[Message]:
        """Yield its messages until it closes the stream."""
        rest = b""
        with suppress(trio.BrokenResourceError):
            while data := await self._stream.receive_some():
                *lines, rest = (rest + data).split(b"\n")
                for line in lines:
                    yield decode(line)

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
        return await trio.to_thread.run_sync(self._process.wait, abandon_on_cancel=True)

    async def aclose(self) -> None:
        """End it, if it has not ended yet, and close the stream. Takes as long as its drain may."""
        if self._process.poll() is None:
            self.send(Order.DRAIN)
            with trio.CancelScope(shield=True):  # its deadline was set by the order
                await self.wait()
        await trio.aclose_forcefully(self._stream)

    def kill(self) -> None:
        """End it at once. Also from a signal handler."""
        with suppress(ProcessLookupError):
            self._process.kill()

    @property
    def code(self) -> int:
        """Its exit code, as ``wait`` returns it, once it has ended."""
        return self._process.returncode

    @property
    def exit_code(self) -> int:
        """The exit code of the command if this end was asked for."""
        if self.code == ABANDONED or self.was_killed:
            return ABANDONED
        # What ended before its nodes were registered held no claim.
        return ABANDONED if self.is_registered and self.code != SUCCESS else SUCCESS
