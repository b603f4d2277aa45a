"""Channel -> node -> outcome. A worker takes what is held, runs it, and passes it on; the reporter
does the reporting."""

from __future__ import annotations

import logging
from functools import partial

import trio

from exotrio._execution.executor import Executor
from exotrio._execution.handle import Execution
from exotrio._execution.log_context import StateContext, state_context
from exotrio._nodes.base import Stopping
from exotrio._nodes.outcome import Outcome
from exotrio._runtime.ledger import HeldClaim, Ledger, Stage
from exotrio._runtime.stop import Stop

log = logging.getLogger("exotrio.worker")

ALONE_PATIENCE = 60.0
"""Seconds that a state which is to run alone waits for what runs, and that others wait for it."""


async def work(
    claimed: trio.MemoryReceiveChannel[HeldClaim],
    done: trio.MemorySendChannel[HeldClaim],
    *,
    executor: Executor,
    ledger: Ledger,
    stop: Stop,
) -> None:
    """Run one state after another until ``claimed`` is closed and empty. Closes both channel ends.

    Args:
        claimed: States to run.
        done: Takes each of them once its outcome is known, or once it is to be handed back.
        executor: Runs a node.
        ledger: Keeps the stages and the outcomes.
        stop: Once it was asked for, nothing new is begun.

    Cancellation:
        Leaves what it was running in stage RUNNING, for the stop path to give up.
    """
    async with claimed, done:
        async for held in claimed:
            if held.claim.alone and held.stage is Stage.BUFFERED:
                ledger.alone.append(held)
                await _run_alone(done, executor, ledger, stop)
            else:
                await _run(held, done, executor, ledger, stop)


async def _run_alone(
    done: trio.MemorySendChannel[HeldClaim], executor: Executor, ledger: Ledger, stop: Stop
) -> None:
    """Run one after the other what is to run alone, unless another worker does: one is enough for that."""
    if ledger.runs_alone:
        return
    ledger.runs_alone = True
    try:
        while ledger.alone:
            await _run(ledger.alone[0], done, executor, ledger, stop)
    finally:
        ledger.runs_alone = False


async def _run(
    held: HeldClaim, done: trio.MemorySendChannel[HeldClaim], executor: Executor, ledger: Ledger, stop: Stop
) -> None:
    """Run a state, if it is still to be run, and pass it on."""
    if held.stage is not Stage.BUFFERED:
        # It was handed back, or taken from us, meanwhile. Its place in the channel is free now.
        ledger.notify()
        return
    if held.lapsed:
        # Somebody else may have it by now, and run it. The next heartbeat tells.
        log.warning("%s has to wait: its lease is over unless the state manager renews it", held)
        ledger.beat_now.set()
        await ledger.until(partial(_is_decided, held))
    await _turn(held, ledger)
    if held.stage is not Stage.BUFFERED:
        return
    if stop.requested:
        pass_on(held, None, done, ledger)
        return
    execution = Execution()
    state_context.set(StateContext(held.claim))
    ledger.run(held, execution)
    outcome: Outcome | None = None
    try:
        log.debug("%s begins", held)
        outcome = await executor.run(held.claim, execution, ours=partial(_until_held, held, ledger))
    except trio.Cancelled:
        raise
    except BaseException:
        # A defect, or Ctrl-C for the application: whichever, this state must not go under with it.
        pass_on(held, None, done, ledger)
        raise
    pass_on(held, outcome, done, ledger)
    state_context.set(None)


async def _turn(held: HeldClaim, ledger: Ledger) -> None:
    """Wait until a state may run beside what runs, or until it is not to be run any more.

    One that is to run alone waits until nothing runs, and what comes after it waits for its end. Neither
    waits for ever: a node that runs for hours must not hold up all others.
    """

    def is_gone() -> bool:
        return held.stage is not Stage.BUFFERED

    if held in ledger.alone:
        with trio.move_on_after(ALONE_PATIENCE):
            await ledger.until(lambda: is_gone() or not ledger.count(Stage.RUNNING))
    elif ledger.alone and trio.current_time() < ledger.alone[0].taken_at + ALONE_PATIENCE:
        with trio.move_on_after(ALONE_PATIENCE):
            await ledger.until(lambda: is_gone() or not ledger.alone)


async def _until_held(held: HeldClaim, ledger: Ledger) -> None:
    # A lease that ran out meanwhile is either renewed, or found lost, which cancels the execution. What is
    # to be announced waits for the answer to the heartbeat that announces it.
    await ledger.until(lambda: held.may_begin)


def _is_decided(held: HeldClaim) -> bool:
    return held.stage is not Stage.BUFFERED or not held.lapsed


def pass_on(
    held: HeldClaim, outcome: Outcome | None, done: trio.MemorySendChannel[HeldClaim], ledger: Ledger
) -> None:
    """Enter the outcome and give the state to the reporter, who always has room.

    A worker that waited here could be cancelled, and what its node did would be lost. A state that was
    taken from us is not handed back; what its node returned all the same is sent, since perhaps nobody
    else has begun it. If its run was cancelled nobody wants that.
    """
    if held.forfeited and (outcome is None or held.forfeited is Stopping.RUN_CANCELLED):
        ledger.forfeit(held)
        return
    if not ledger.done(held, outcome):
        # Without an outcome nothing is lost; a plain node goes on in its thread, and that is logged.
        if outcome is not None:
            log.warning("%s ended after it was given up; its outcome is not reported", held)
        return
    done.send_nowait(held)
