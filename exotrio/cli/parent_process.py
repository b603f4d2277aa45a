"""The command that started this process to run a Runtime, seen from this process.

It sends orders. When it ends, even by ``kill -9``, the stream of orders ends: then this process drains by
itself, and exits even if its nodes do not. The end of a stream is seen on every system; PR_SET_PDEATHSIG
exists on Linux only, and is sent when the thread ends that started the process.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress

import trio

from exotrio._runtime.entry import run_blocking
from exotrio._runtime.lifecycle import Phase
from exotrio._runtime.runtime import Runtime
from exotrio._util import deadlines
from exotrio.cli.child_process import Order, Registered, encode
from exotrio.cli.exit_codes import ABANDONED, bare_errors

log = logging.getLogger("exotrio.cli")

MARGIN = 3.0
"""Seconds that a drain may take beyond its limits, on a busy machine; then the process exits."""


class ParentProcess:
    """The other end of a ``ChildProcess``.

    Args:
        descriptor: Number of the socket.
        name: What it is, for the log.
        answer: Called with each line that is not an order, in the thread that reads them.
    """

    def __init__(self, descriptor: int, name: str, answer: Callable[[str], None] = lambda line: None) -> None:
        os.set_inheritable(descriptor, False)  # processes that nodes start must not keep it open
        self.runtime: Runtime | None = None
        """Orders act on it; None while the code is loaded, and once it has ended."""
        self._stream = socket.socket(fileno=descriptor)
        self._name = name
        self._answer = answer
        self._sending = threading.Lock()
        self._grace = 0.0
        self._acting = threading.Lock()
        self._is_over = False

    def send(self, message: object) -> None:
        """Send a message. From any thread."""
        with self._sending, suppress(OSError):  # it has ended, which the listening thread handles
            self._stream.sendall(encode(message))

    def follow_orders(self) -> None:
        """Follow its orders from now on, in a thread; and Ctrl-C, which was blocked until now."""
        # A daemon, since it waits for ever and must not hold up the end of the process.
        threading.Thread(target=self._listen, name="exotrio parent", daemon=True).start()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})

    def run(self, runtime: Runtime, *beside: Callable[[], Awaitable[object]]) -> int:
        """Run a Runtime until an order or a signal ends it, and ``beside`` meanwhile; return its code."""
        self.runtime, self._grace = runtime, runtime.shutdown_grace

        async def main() -> int:
            with bare_errors():
                async with trio.open_nursery() as nursery:
                    for each in beside:
                        nursery.start_soon(each)
                    code = (await runtime.run(task_status=self)).exit_code
                    nursery.cancel_scope.cancel()
            return code

        try:
            return run_blocking(main, lambda grace, why: runtime.stop(grace, why=why), ends_process=True)
        finally:
            # The listening thread goes on until the process has ended. It is to hold nothing of the user's
            # code then, or Python would not write what that left open.
            with self._acting:
                self._is_over = True
                self.runtime, self._answer = None, lambda line: None

    def started(self, value: object = None) -> None:
        """Send that the nodes are registered, unless a stop came first. For the runtime, as a task status."""
        if self.runtime is not None and self.runtime.phase is Phase.RUNNING:
            self.send(Registered())

    def _listen(self) -> None:
        with suppress(OSError), self._stream.makefile("rb") as lines:
            for line in lines:
                word, _, why = line.decode().strip().partition(" ")
                if word in list(Order):
                    self._execute(Order(word), why)
                else:
                    with self._acting:
                        self._answer(word)
        log.warning("%s has ended: this runtime drains and ends", self._name)
        self._execute(Order.DRAIN, f"the end of {self._name}")
        time.sleep(deadlines.longest_stop(self._grace) + MARGIN)
        os._exit(ABANDONED)

    def _execute(self, order: Order, why: str) -> None:
        with self._acting:
            if self.runtime is not None:
                self.runtime.stop(None if order is Order.DRAIN else 0, why=why)
            elif not self._is_over:
                # Still loading: nothing is claimed yet. A real signal also interrupts a blocking call.
                os.kill(os.getpid(), signal.SIGINT)
