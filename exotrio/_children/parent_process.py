"""The parent process, as its child sees it; and the format of messages in both directions."""

from __future__ import annotations

import os
import pickle
import select
import signal
import socket
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Blocked when a child starts, until it calls ``unblock_signals``."""
_LENGTH = 8
"""Bytes before a message."""
_PR_SET_PDEATHSIG = 1


def pack(message: object) -> bytes:
    data = pickle.dumps(message, protocol=pickle.HIGHEST_PROTOCOL)
    return len(data).to_bytes(_LENGTH, "big") + data


def unpack(buffer: bytearray) -> Any:
    """Take the first message out of ``buffer``; None if it is not complete yet."""
    end = _LENGTH + int.from_bytes(buffer[:_LENGTH], "big")
    if len(buffer) < _LENGTH or len(buffer) < end:
        return None
    with memoryview(buffer) as view:
        message = pickle.loads(view[_LENGTH:end])
    del buffer[:end]
    return message


class ParentProcess:
    """The other end of a ``ChildProcess``.

    Args:
        descriptor: Number of the socket.
    """

    def __init__(self, descriptor: int) -> None:
        os.set_inheritable(descriptor, False)  # processes that the child starts must not keep it open
        self._socket: socket.socket | None = socket.socket(fileno=descriptor)
        self._socket.setblocking(True)  # a parent with ``socket.setdefaulttimeout`` passes one on that is not
        # Reentrant: in the thread that holds it, a signal handler or the deletion of an object may log.
        self._sending = threading.RLock()
        self._unsent: deque[bytes] = deque()
        self._is_sending = False
        os.register_at_fork(after_in_child=self._disconnect)

    def send(self, message: object) -> None:
        """Send a message. From any thread; it waits while the parent does not read."""
        data = pack(message)
        with self._sending:
            self._unsent.append(data)
            if self._is_sending:
                return  # this interrupts another call in this thread, which sends the message, too
            # Race: a signal handler may add a message after the last one was sent, before the flag is reset.
            while self._unsent:
                self._is_sending = True
                try:
                    while self._unsent:
                        data = self._unsent.popleft()
                        if self._socket is not None:
                            with suppress(OSError):  # the parent has ended, which the reading thread handles
                                self._socket.sendall(data)
                finally:
                    self._is_sending = False

    def messages(self, interval: Callable[[], float | None] = lambda: None) -> Iterator[Any]:
        """Yield each message until the parent has ended. For a thread.

        Args:
            interval: Returns after how many seconds without a message None is yielded; None for never.
        """
        connection, buffer = self._socket, bytearray()
        assert connection is not None, "not in a forked child"
        poll = select.poll()  # select() takes no number above 1,023, which a parent with many files passes on
        poll.register(connection, select.POLLIN)
        while True:
            seconds = interval()
            if not poll.poll(None if seconds is None else seconds * 1000):
                yield None
                continue
            try:
                data = connection.recv(65536)
            except OSError:
                return
            if not data:
                return
            buffer += data
            while (message := unpack(buffer)) is not None:
                yield message

    def _disconnect(self) -> None:
        """In a child that this process forked: give up the connection, which belongs to this process."""
        if self._socket is not None:
            self._socket.close()
        self._socket = None
        # A thread that is not in the child may have been sending.
        self._sending, self._unsent, self._is_sending = threading.RLock(), deque(), False


def unblock_signals() -> None:
    """Let signals arrive in this thread, the main one. Threads that began before leave them to it."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


def die_with_parent() -> None:
    """Have the kernel kill this process when the thread that started it ends. On Linux only."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
