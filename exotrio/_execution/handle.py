"""One execution of a node: its claim, its report, and how the rest of the runtime observes and ends it.

``execution_context`` has the execution that a log line belongs to, also if a library writes the line that
node code calls.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar

import anyio
import trio

from exotrio._execution.output import Output
from exotrio._link.port import Claim
from exotrio._nodes.base import BaseNode, Stopping, StopView
from exotrio._nodes.checkpoint import CheckpointView
from exotrio._nodes.outcome import Released, Report
from exotrio._nodes.progress import ProgressView
from exotrio._shared import deadlines
from exotrio._util.tracing import Span

RELEASED = Released()


class Execution:
    """One execution of the node of a claim. Created and used in the runtime's loop.

    Attributes:
        claim: The state and its inputs.
        secrets: The values of the node's secrets by name, once they are fetched.
        span: Its span, if the program traces.
        report: What the node returned, as an outcome. ``Executor.report_of`` returns what is to be reported.
        error: What the node raised; None once it ended without an error. Until then it is the error for a
            node that gives its Trio task away.
        view: What the node sees of why and when it should stop.
        checkpoint: Its checkpoint; None if its class has none.
        began: Node code was entered: a release from then on counts as cancelled.
        on_begin: Called with it in the runtime's loop when node code is entered. Neither this nor the next
            one should hold what holds the execution: the garbage collector would have to find each cycle.
        on_execute: Called with it in any thread once ``begun_at`` is set.
        begun_at: When ``execute`` of the node was called, on Trio's clock; infinite before. In a process,
            when that had loaded the class.
        ended_at: When it was over; infinite before.
        elsewhere: Node code runs in another thread or process, where no Ctrl-C can arrive.
        timeout: Seconds that the node may take: by its class and the graph (``Claim.timeout_of``).
        on_drain: Called when the node is told to drain, or how long it may, by a backend that has to pass
            that on.
        output: What it logs and prints, if that is captured.
        is_stuck: Nothing waits for its code any more, which goes on in a thread or an asyncio loop.
    """

    def __init__(
        self,
        claim: Claim,
        *,
        captures: bool = False,
        span: Span | None = None,
        on_begin: Callable[[Execution], object] | None = None,
        on_execute: Callable[[Execution], object] | None = None,
    ) -> None:
        self.claim = claim
        self.on_begin = on_begin
        self.on_execute = on_execute
        self.secrets: Mapping[str, str] = {}
        self.span = span
        self.report: Report = RELEASED
        self.error: BaseException | None = RuntimeError("the node gave its Trio task away")
        self.view = StopView()
        self.checkpoint: CheckpointView | None = None
        self.progress = ProgressView()
        self.output = Output(self.progress) if captures else None
        self.scope = anyio.CancelScope()  # nodes run through anyio
        self.began = False
        self.begun_at = self.ended_at = math.inf
        self.elsewhere = self.is_stuck = False
        self.timeout = math.inf
        self.on_drain: Callable[[], None] | None = None
        self._in_thread = False

    def drain(self, ends_at: float) -> None:
        """Tell the node that the runtime stops, and when the grace is over, on Trio's clock."""
        if not self.cancelled:
            self._limit(ends_at)
            self.view.reason = Stopping.DRAINING
            if self.on_drain is not None:
                self.on_drain()

    def begin(self, timeout: float | None) -> None:
        """Start the timeout of the node: its code is entered. ``timeout`` is that of its class, if any."""
        self.began = True
        if self.on_begin is not None:
            self.on_begin(self)
        timeout = self.claim.timeout_of(timeout)
        if timeout is not None and not self.cancelled:
            self.timeout = timeout
            self._limit(self.view.ends_at)
            self.view.deadline = self.scope.deadline = trio.current_time() + self.timeout

    def execute_of(self, instance: BaseNode) -> Callable[[], object]:
        """Return a function that calls ``execute``, in any thread, and records when that was.

        A blocked asyncio loop may get to it late.
        """
        now = trio.lowlevel.current_clock().current_time

        def execute() -> object:
            self.note_execute(now())
            return instance.execute()

        return execute

    def note_execute(self, at: float) -> None:
        """Record when ``execute`` was called, on Trio's clock. From any thread."""
        self.begun_at = at
        if self.on_execute is not None:
            self.on_execute(self)

    def cancel(self, why: Stopping = Stopping.CANCELLING) -> None:
        """Cancel the node. One in a thread is only told: it has until ``give_up`` to return.

        The first reason stays. If the timeout is over by now, it is the reason, even if this call comes at
        that very moment; otherwise the timeout no longer applies.
        """
        if self.timed_out:
            return  # by the scope's own deadline
        self.view.deadline = self.scope.deadline = math.inf
        if not self.cancelled:
            self._limit(trio.current_time() + deadlines.CLEAN_UP)
            self.view.reason = why
        if not self._in_thread:
            self.scope.cancel()

    def give_up(self) -> None:
        """Stop waiting for it: a node in a thread is stuck."""
        self.cancel()
        self.scope.cancel()

    def _limit(self, ends_at: float) -> None:
        # Only now: looking the clock up takes time, and most states never have a limit.
        self.view.now = trio.lowlevel.current_clock().current_time
        self.view.ends_at = ends_at

    @property
    def trace(self) -> str | None:
        """Its trace context; None if it is not traced."""
        return None if self.span is None else self.span.context

    @property
    def draining(self) -> bool:
        """Whether the node was told to stop, for whatever reason."""
        return bool(self.view.reason)

    @property
    def cancelled(self) -> bool:
        """Whether ``cancel`` was called before the timeout was over."""
        return self.view.reason not in (Stopping.NO, Stopping.DRAINING)

    @property
    def timed_out(self) -> bool:
        """Whether the timeout was over first."""
        return self.view.why is Stopping.TIMED_OUT

    @contextmanager
    def in_thread(self) -> Iterator[None]:
        """While the body waits for the node's thread, ``cancel`` only tells the node to stop."""
        self._in_thread = True
        try:
            yield
        finally:
            self._in_thread = False
            if self.cancelled:
                # Only the thread could not be cancelled; code that follows it on the loop can.
                self.scope.cancel()

    def __str__(self) -> str:
        return f"state {self.claim.state_id} ({self.claim.node_name})"


# Tasks and threads that a node starts inherit these.
execution_context: ContextVar[Execution | None] = ContextVar("exotrio_execution", default=None)
phase_context: ContextVar[Callable[[], str] | None] = ContextVar("exotrio_phase", default=None)
"""Returns the phase of the runtime that the line comes from."""


def claim_fields(claim: Claim) -> dict[str, object]:
    """Return the fields of a state for a log record, without those that v0 does not have."""
    names = {
        "run": claim.run_id,
        "graph": claim.graph_name,
        "state": claim.state_id,
        "node": claim.node_name,
        "attempt": claim.attempt,
    }
    return {name: value for name, value in names.items() if value is not None}
