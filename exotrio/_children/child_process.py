"""A child process, as its parent sees it."""

from __future__ import annotations

import errno
import logging
import math
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import trio

from exotrio._children.parent_process import SIGNALS, pack, unpack
from exotrio._util.crossing import call_in_loop
from exotrio._util.words import signal_name

log = logging.getLogger("exotrio.worker")

SOCKET = "{socket}"
"""Stands for the number of the child's socket in its arguments."""
MAX_KILL = 1.0
"""Seconds to wait for the end of a process that was killed."""


class ChildProcess:
    """A process. Creating this object starts it, which takes milliseconds. Used in one Trio loop.

    Args:
        arguments: Of the interpreter of this process; ``SOCKET`` in them becomes the socket's number.
        env: Its environment. Defaults to that of this process.
        foreground: Whether it stays in the process group of this process, with its standard input. A Ctrl-C
            at the terminal goes to every process of the foreground group, and reading from the terminal
            suspends a process of any other group.
        prints_to_stderr: Whether its standard output is the standard error of this process.

    Attributes:
        was_killed: It did not end in time.

    Raises:
        OSError: no process can be started.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        foreground: bool = False,
        prints_to_stderr: bool = False,
    ) -> None:
        self.ended: trio.Event = trio.Event()
        self.was_killed: bool = False
        self._foreground = foreground
        self._received = bytearray()
        self._deadline = math.inf
        self._waiting = trio.CancelScope()
        _open_standard_streams()
        self._socket, theirs = socket.socketpair()
        with theirs:
            number = theirs.fileno()
            command = child_python(*(str(number) if each == SOCKET else each for each in arguments))
            # The new process inherits the mask; a signal that comes before it can handle it would end it.
            before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
            # If this process began without one, another file may have its number by now.
            stderr = subprocess.DEVNULL if sys.__stderr__ is None else 2
            stdout = subprocess.DEVNULL if sys.__stdout__ is None else None
            try:
                # In this thread: ``die_with_parent`` ends the process with the thread that starts it, and the
                # threads in which Trio would do this end when they are idle.
                self._process = subprocess.Popen(
                    command,
                    pass_fds=(number,),
                    env=env,
                    stdin=None if foreground else subprocess.DEVNULL,
                    stdout=stderr if prints_to_stderr else stdout,
                    stderr=stderr,
                    process_group=None if foreground else 0,
                )
            except OSError:
                self._socket.close()
                raise
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)
        self._stream = trio.SocketStream(trio.socket.from_stdlib_socket(self._socket))
        token = trio.lowlevel.current_trio_token()
        try:
            trio.lowlevel.start_thread_soon(
                self._process.wait, lambda code: call_in_loop(token, self.ended.set), "exotrio process"
            )
        except RuntimeError as error:  # the process has used up all threads
            self.close()
            self.kill()
            self._process.wait()
            raise OSError(errno.EAGAIN, str(error)) from error

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def code(self) -> int:
        """Its exit code once it has ended; below zero, the signal that killed it."""
        code = self._process.returncode
        return -signal.SIGKILL if code is None else code  # it was killed, but the kernel holds it

    @property
    def ending(self) -> str:
        """How it ended: ``ended with exit code 1``, ``was killed by SIGSEGV``."""
        code = self.code
        return f"ended with exit code {code}" if code >= 0 else f"was killed by {signal_name(code)}"

    # -- messages

    async def send(self, message: object) -> None:
        """Send a message, of any size.

        Raises:
            EOFError: the stream has ended.

        Cancellation:
            Not safe: a part of the message may have been sent.
        """
        try:
            await self._stream.send_all(pack(message))
        except trio.BrokenResourceError as error:
            raise EOFError from error

    def send_now(self, message: object) -> None:
        """Send a small message. It is lost if the process has ended, or has not read for a long time."""
        with suppress(OSError):
            self._socket.send(pack(message))

    async def receive(self) -> Any:
        """Return the next message.

        Raises:
            EOFError: the stream has ended.
            Exception: the message cannot be unpickled, which may raise anything.

        Cancellation:
            Safe.
        """
        while (message := unpack(self._received)) is None:
            try:
                data = await self._stream.receive_some()
            except trio.BrokenResourceError as error:
                raise EOFError from error
            if not data:
                raise EOFError
            self._received += data
        return message

    # -- the end

    def hang_up(self) -> None:
        """End the stream, in both directions."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def end_within(self, seconds: float) -> None:
        """Have ``wait`` kill it unless it ends within this time. The first of several deadlines counts."""
        self._deadline = min(self._deadline, trio.current_time() + seconds)
        self._waiting.deadline = self._deadline

    async def wait(self) -> None:
        """Wait until it has ended.

        Cancellation:
            Safe; the process continues.
        """
        with trio.CancelScope(deadline=self._deadline) as self._waiting:
            await self.ended.wait()
            return
        self.was_killed = True
        await self._kill_and_wait()

    def wait_or_kill(self, seconds: float) -> None:
        """Wait for its end, and kill it after ``seconds``. Blocks: call it in another thread."""
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()

    async def end(self) -> None:
        """Kill it, and wait for its end, shielded, for up to 1 s. Close the connection."""
        if not self.ended.is_set():
            await self._kill_and_wait()
        self.close()

    def close(self) -> None:
        self._stream.socket.close()

    def kill(self) -> None:
        """Kill it, and what it started in its process group. Also from a signal handler."""
        with suppress(ProcessLookupError, PermissionError):
            if self._foreground:
                self._process.kill()
            elif self._process.poll() is None:
                os.killpg(self._process.pid, signal.SIGKILL)

    async def _kill_and_wait(self) -> None:
        self.kill()
        with trio.move_on_after(MAX_KILL, shield=True):
            await self.ended.wait()
        if not self.ended.is_set():
            log.error("process %d was killed, but does not end: the kernel holds it", self.pid)


def _open_standard_streams() -> None:
    """Open those that a node has closed: the socket would get the number, and the child something else."""
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(number, True)
    os.close(number)


def child_python(*arguments: str) -> list[str]:
    """Return the command of a Python with the options of this one, such as ``-W error`` and ``-u``.

    With ``-m`` or ``-c`` Python looks for modules in the working directory first, before its own. In a folder
    that others may write to, their ``json.py`` would run. So the child does that only if this process does.
    """
    options = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]
    if getattr(sys.__stdout__, "write_through", False):
        options.append("-u")  # it leaves no flag
    if not _imports_from_working_directory():
        options.append("-P")
    return [sys.executable, *options, *arguments]


def _imports_from_working_directory() -> bool:
    try:
        here = os.getcwd()
        return any(os.path.abspath(folder) == here for folder in sys.path)
    except FileNotFoundError:  # it was deleted
        return False
