"""The handle of one run of a node: what the rest of the runtime may see of it, and do to it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import anyio
import trio

from exotrio._nodes.base import Stopping, StopView
from exotrio._nodes.progress import ProgressView


class Execution:
    """The handle of one run of a node: to tell it, to cancel it, and to give it up.

    Made inside the loop. Attributes:
        began: Node code was entered: what is released from here on was cancelled, not unstarted.
        elsewhere: Node code runs in a thread of its own, where no Ctrl-C can arrive.
        timeout: Seconds it may take.
        progress: What the node says of how far it is.
    """

    def __init__(self) -> None:
        self.view = StopView()
        self.progress = ProgressView()
        self.scope = anyio.CancelScope()
        self.began = False
        self.elsewhere = False
        self.timeout = math.inf
        self._in_thread = False

    def drain(self) -> None:
        """Tell the node that the runtime stops."""
        if not self.view.told:
            self.view.told = Stopping.DRAINING

    def begin(self, timeout: float | None) -> None:
        """Node code is entered: from here on its time runs."""
        self.began = True
        if timeout is not None and not self.cancelled:
            self.timeout = timeout
            self.view.now = trio.lowlevel.current_clock().current_time
            self.view.deadline = self.scope.deadline = trio.current_time() + timeout

    def cancel(self, why: Stopping = Stopping.CANCELLING) -> None:
        """Cancel the node. One in a thread is only told: it has until ``give_up`` to come back.

        The first reason stays. Against the timeout the clock decides: one that is over by now is the
        reason, even if this call comes in the very same moment; one that is not does not count any more.
        """
        if self.timed_out:
            return  # by the scope's own deadline
        self.view.deadline = self.scope.deadline = math.inf
        if not self.cancelled:
            self.view.told = why
        if not self._in_thread:
            self.scope.cancel()

    def give_up(self) -> None:
        """Wait no longer; a thread is left to itself."""
        self.cancel()
        self.scope.cancel()

    @property
    def draining(self) -> bool:
        return bool(self.view.told)

    @property
    def cancelled(self) -> bool:
        return self.view.told not in (Stopping.NO, Stopping.DRAINING)

    @property
    def timed_out(self) -> bool:
        return self.view.why is Stopping.TIMED_OUT

    @contextmanager
    def in_thread(self) -> Iterator[None]:
        """Let ``cancel`` only tell the node while the body waits for its thread."""
        self._in_thread = True
        try:
            yield
        finally:
            self._in_thread = False
            if self.cancelled:
                # The thread only had to be told. Whatever follows it on the loop is cancelled as usual.
                self.scope.cancel()
