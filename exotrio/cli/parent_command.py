"""In the process of a Runtime: the connection to the command that started it (``file_process``).

The command sends orders. When it ends, even by ``kill -9``, the stream of orders ends: then this process
drains by itself, and exits even if its nodes do not end.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Awaitable, Callable

import trio

from exotrio import Phase, Runtime
from exotrio._children.parent_process import ParentProcess, unblock_signals
from exotrio._runtime.entry import run_blocking
from exotrio._shared import deadlines
from exotrio.cli.exit_codes import ABANDONED, bare_errors, exit_code_after
from exotrio.cli.file_process import Order, Registered

log = logging.getLogger("exotrio.cli")

MARGIN = 3.0
"""Seconds added to the limits of a drain, for a busy machine, before the process exits."""


class ParentCommand(ParentProcess):
    """The other end of a ``FileProcess``.

    Args:
        descriptor: Number of the socket.

    Attributes:
        runtime: Orders act on it; None while the code is loaded, and once it has ended.
    """

    def __init__(self, descriptor: int) -> None:
        super().__init__(descriptor)
        self.runtime: Runtime | None = None
        self._grace = 0.0
        self._acting = threading.Lock()
        self._is_over = False

    def follow_orders(self) -> None:
        """Follow its orders from now on, in a thread; and signals, which were blocked until now."""
        # A daemon, since it must not hold up the end of the process.
        threading.Thread(target=self._listen, name="exotrio parent", daemon=True).start()
        unblock_signals()

    def run(self, runtime: Runtime, *background: Callable[[], Awaitable[object]]) -> int:
        """Run a Runtime until an order or a signal ends it, and ``background`` meanwhile; return its code."""
        runtime.adjust(exit_code=exit_code_after)
        self.runtime, self._grace = runtime, runtime.shutdown_grace

        async def main() -> int:
            with bare_errors():
                async with trio.open_nursery() as nursery:
                    for each in background:
                        nursery.start_soon(each)
                    code = (await runtime.run(task_status=self)).exit_code
                    nursery.cancel_scope.cancel()
            return code

        try:
            return run_blocking(main, lambda grace, why: runtime.stop(grace, why=why), ends_process=True)
        finally:
            # The listening thread runs until the process has ended. If it still referred to objects of the
            # user's code then, Python would not flush files that they left open.
            with self._acting:
                self._is_over = True
                self.runtime = None

    def started(self, value: object = None) -> None:
        """Send that the nodes are registered, unless a stop came first. For the runtime, as a task status."""
        # An order may have started the drain before the registration was complete.
        if self.runtime is not None and self.runtime.phase is Phase.RUNNING:
            self.send(Registered())

    def _listen(self) -> None:
        for order in self.messages():
            self._execute(order)
        log.warning("the command that started it has ended: this runtime drains and ends")
        self._execute(Order("drain", "the end of the command that started it"))
        time.sleep(deadlines.max_stop(self._grace) + MARGIN)
        os._exit(ABANDONED)

    def _execute(self, order: Order) -> None:
        with self._acting:
            if self.runtime is not None:
                self.runtime.stop(None if order.action == "drain" else 0, why=order.why)
            elif not self._is_over:  # an order that arrives after the end of the Runtime has no effect
                # Still loading: nothing is claimed yet. A real signal also interrupts a blocking call.
                os.kill(os.getpid(), signal.SIGINT)
