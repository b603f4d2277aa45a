"""Workers take claimed states, run their nodes, and pass the outcomes on to the reporter."""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial

import trio

from exotrio._execution.executor import Executor
from exotrio._execution.handle import RELEASED, Execution, execution_context
from exotrio._execution.node_task import NodeTask
from exotrio._execution.spans import begin_execution, end_execution
from exotrio._nodes.base import Stopping
from exotrio._nodes.outcome import HandedOver, Outcome, Released, Report
from exotrio._runtime.held_claim import HeldClaim, Stage
from exotrio._runtime.ledger import Ledger
from exotrio._runtime.stop import Stop
from exotrio._shared.events import StateBegan

log = logging.getLogger("exotrio.worker")

TURN = 0.002
"""Seconds for which all workers together may run short states without a step of the loop, in which other
tasks run. Such a step for each state took a seventh of its processor time."""
MAX_ALONE_WAIT = 60.0
"""Seconds that a state which is to run alone waits for the states that run or are being reported, and that
others wait for it."""


MIN_HAND_OVER = 1.0
"""Seconds from the begin of an execution until its state is handed over, unless the runtime stops."""


async def work(claimed: trio.MemoryReceiveChannel[HeldClaim], *, workers: Workers) -> None:
    """Run one state after another until ``claimed`` is closed and empty. Closes that.

    Cancellation:
        Leaves the state that it was running in stage RUNNING, for the shutdown to give up.
    """
    async with claimed:
        while not await workers.run_in_one_task(claimed):
            pass


async def _next(claimed: trio.MemoryReceiveChannel[HeldClaim], *, at_once: bool) -> HeldClaim:
    """Return the next state; ``at_once``: without a step of the loop, if there is one."""
    if at_once:
        try:
            return claimed.receive_nowait()
        except trio.WouldBlock:
            pass
    return await claimed.receive()


@dataclass(slots=True, kw_only=True)
class Workers:
    """Runs states, for all workers of a runtime.

    Attributes:
        deliver: Takes each state whose outcome is known; it may wait.
        turn: Seconds of one worker's states after which it lets other tasks run.
        captures: Send what nodes log and print with their outcomes, where the state manager takes it.
    """

    namespace: str
    captures: bool
    deliver: Callable[[HeldClaim], Awaitable[None]]
    turn: float
    executor: Executor
    ledger: Ledger
    stop: Stop
    _runs_alone: bool = False
    _running: dict[Execution, HeldClaim] = field(default_factory=dict)

    async def run_in_one_task(self, claimed: trio.MemoryReceiveChannel[HeldClaim]) -> bool:
        """Run states in one task until ``claimed`` ends. False if a node made that task unusable."""
        task = NodeTask()
        await task.run(partial(self._run_each, claimed))
        if task.unfinished is None:
            return True
        await self._finish(task.unfinished)
        return False

    async def _run_each(self, claimed: trio.MemoryReceiveChannel[HeldClaim], task: NodeTask) -> None:
        if self.ledger.alone:
            await self._run_alone(task)
        took = self.turn
        while True:
            try:
                held = await _next(claimed, at_once=took < self.turn)
            except trio.EndOfChannel:
                return
            took = 0.0 if took >= self.turn else took
            if held.claim.alone and held.stage is Stage.BUFFERED:
                self.ledger.alone.append(held)
                await self._run_alone(task)
            else:
                await self._run(held, task)
            took += held.ran(math.inf) or 0.0

    async def _run_alone(self, task: NodeTask) -> None:
        """Run the states that are to run alone, one after the other, unless another task does so."""
        if self._runs_alone:
            return
        self._runs_alone = True
        try:
            # If the first of these is RUNNING, its node has ended this task; the next task runs the others.
            while self.ledger.alone and self.ledger.alone[0].stage is Stage.BUFFERED:
                await self._run(self.ledger.alone[0], task)
        finally:
            self._runs_alone = False

    async def _run(self, held: HeldClaim, task: NodeTask) -> None:
        """Run a state, if it is still to be run, and pass it on."""
        ledger = self.ledger
        if held.stage is not Stage.BUFFERED:
            # Race: it was released, or its lease was lost, while it was in the channel. Its slot there is
            # free now.
            ledger.notify()
            return
        if ledger.lapsed(held):
            # Race: another runtime may have claimed it by now. The answer to a heartbeat says so.
            log.warning("%s waits for a heartbeat: its lease ended before it was begun", held)
            ledger.heartbeat_due.set()
            await ledger.until(lambda: held.stage is not Stage.BUFFERED or not ledger.lapsed(held))
        if ledger.alone:
            await self._wait_for_turn(held)
        if held.stage is not Stage.BUFFERED:
            return
        if self.stop.requested:
            # Race: the stop was requested after this state left the channel, or while it waited here.
            ledger.release(held)
            return
        span = begin_execution(held.claim, self.namespace)
        if span is not None:
            span.enter()
        # Over v0 its output would not be sent.
        captures = self.captures and held.claim.token is not None
        execution = Execution(
            held.claim,
            captures=captures,
            span=span,
            on_begin=self._note_begin,
            on_execute=self._note_execute,
        )
        self._running[execution] = held
        ledger.run(held, execution)
        await self.executor.run_in(execution, task, confirm=partial(self._until_held, held))
        if span is not None:
            span.leave()  # without it only if a node ended the task, and its context variables with it
        await self._finish(execution)

    async def _finish(self, execution: Execution) -> None:
        held = self._running.pop(execution)
        execution_context.set(execution)  # in another task than its node's, perhaps
        report: Report = RELEASED
        try:
            report = self.executor.report_of(execution)
        except trio.Cancelled:
            raise
        except BaseException:
            # A defect, or a Ctrl-C for the application. This state must not be lost because of it.
            self.ledger.release(held)
            raise
        finally:
            if execution.span is not None:
                end_execution(execution.span, report, execution, held.buffered)
        if isinstance(report, Released):
            if isinstance(report, HandedOver):
                await self._hold_briefly(held)
            self.ledger.release(held, report)
        else:
            await self._pass_on(held, report)
        execution_context.set(None)

    async def _hold_briefly(self, held: HeldClaim) -> None:
        """Wait with a state that its node handed over at once, although nothing stops.

        Else a node that always does so would be claimed and released without a pause.
        """
        early = MIN_HAND_OVER - (held.ran(trio.current_time()) or 0.0)
        if early > 0 and not self.stop.requested:
            log.warning("%s was handed over at once, though nothing stops: released in %.1f s", held, early)
            with trio.move_on_after(early):
                await self.stop.arrived.wait()

    async def _pass_on(self, held: HeldClaim, outcome: Outcome) -> None:
        # Into the ledger first: if this is cancelled afterwards, the outcome is not lost unnoticed.
        if self.ledger.finish(held, outcome):
            await self.deliver(held)
        elif held.forfeited is not Stopping.RUN_CANCELLED:
            # Race: its lease was lost, or the shutdown gave it up, before its node returned.
            log.warning("%s ended after it was given up; its outcome is not reported", held)

    async def _wait_for_turn(self, held: HeldClaim) -> None:
        """Wait until a state may run together with those that run, or is not to be run any more.

        A state that is to run alone waits until nothing runs and every outcome is recorded: it may end the
        process, and the states held then would count as lost once more. The others wait until it has ended.
        Neither waits without a limit: a node that runs for hours must not hold up all others.
        """
        ledger = self.ledger

        def is_gone() -> bool:
            return held.stage is not Stage.BUFFERED

        if held in ledger.alone:
            with trio.move_on_after(MAX_ALONE_WAIT):
                await ledger.until(lambda: is_gone() or not ledger.count(Stage.RUNNING, Stage.DONE))
        elif trio.current_time() < ledger.alone[0].taken_at + MAX_ALONE_WAIT:
            with trio.move_on_after(MAX_ALONE_WAIT):
                await ledger.until(lambda: is_gone() or not ledger.alone)

    async def _until_held(self, held: HeldClaim) -> None:
        # Race: the lease may have ended while the secrets were fetched. It is then renewed, or lost, which
        # cancels the execution. A state that is to be announced waits for the answer to the heartbeat that
        # announces it.
        if not self.ledger.may_begin(held):
            await self.ledger.until(lambda: self.ledger.may_begin(held))

    def _note_begin(self, execution: Execution) -> None:
        held = self._running[execution]
        log.debug("%s begins", held)
        if self.ledger.events:
            claim = held.claim
            self.ledger.events.emit(StateBegan(claim.node_name, claim.state_id, claim.identifier))

    def _note_execute(self, execution: Execution) -> None:
        # In any thread. A heartbeat sets this before it reads whether execute has begun, so one of the two
        # notices the other.
        held = self._running.get(execution)  # None if it was given up
        if held is not None and held.sent_unbegun:
            self.ledger.heartbeat_due.set()
