"""The phases of a runtime from a request to stop to its end; see ``_runtime``."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable

import trio

from exotrio._execution.handle import Execution
from exotrio._link.port import Link
from exotrio._runtime.held_claim import HeldClaim, Stage
from exotrio._runtime.ledger import Ledger
from exotrio._runtime.lifecycle import Phase
from exotrio._runtime.reporter import Reporter
from exotrio._runtime.stop import Stop
from exotrio._shared import deadlines
from exotrio._util.times import format_duration
from exotrio._util.words import listed, plural

log = logging.getLogger("exotrio.runtime")

DRAIN_LOG_INTERVAL = 5.0
"""Seconds between two lines about what a drain waits for."""
MAX_NAMED = 5
"""States named in one line, the longest running first."""


async def run_shutdown(
    *, stop: Stop, ledger: Ledger, link: Link, reporter: Reporter, enter: Callable[[Phase], None]
) -> None:
    """Wait for a request to stop, then take the runtime through its phases, each within its time.

    In the end all that the ledger holds is delivered, or written off and logged. ``enter`` is called with
    each phase.

    Cancellation:
        Not meant to be cancelled: it runs within the runtime's shield.
    """
    await stop.arrived.wait()
    if not stop.skip_drain:
        enter(Phase.DRAINING)
        await _drain(stop, ledger, link)
    if stop.skip_drain or not ledger.quiet:
        # The drain was skipped, or the grace was over before the last node ended.
        enter(Phase.CANCELLING)
        await _cancel(stop, ledger, link)
    enter(Phase.FLUSHING)
    stop.polling.cancel()
    stop.flush_end = trio.current_time() + deadlines.FLUSH
    stop.flushing.set()
    with trio.move_on_at(stop.flush_end):
        await ledger.until(lambda: ledger.empty)
    reporter.write_off()


async def _drain(stop: Stop, ledger: Ledger, link: Link) -> None:
    """Let running nodes finish, until all is delivered or the grace is over."""
    running = len(ledger.begun())
    log.info(
        "asked to stop by %s: %d running, %d to be released unstarted, %d being delivered; %s at most",
        stop.why,
        running,
        ledger.count(Stage.BUFFERED, Stage.RUNNING) - running,
        ledger.count(Stage.DONE),
        format_duration(stop.draining.deadline - trio.current_time()),
    )
    _release_unbegun(ledger)
    with stop.draining:
        if math.isfinite(stop.draining.deadline):
            link.settle_by(stop.draining.deadline + deadlines.CLEAN_UP + deadlines.FLUSH)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_tell_nodes, stop, ledger)
            nursery.start_soon(_log_waiting, ledger)
            # For outcomes, too: a server that restarts meanwhile has the rest of the grace to come back.
            await ledger.until(lambda: ledger.empty)
            nursery.cancel_scope.cancel()


async def _cancel(stop: Stop, ledger: Ledger, link: Link) -> None:
    """Cancel running nodes and the claim in flight; give up nodes that do not end in time."""
    if stop.shortened_by:
        cause = f"the grace is over, shortened by {stop.shortened_by}"
    else:
        cause = f"no time to drain: {stop.why}" if stop.skip_drain else "the grace is over"
    # Cancelled nodes need a warning; a claim that has to be given up does not.
    level = logging.WARNING if ledger.begun() else logging.INFO
    log.log(level, "%s; %s", cause, waiting_for(ledger) or "nothing runs")
    link.settle_by(trio.current_time() + deadlines.CLEAN_UP + deadlines.FLUSH)
    for _, execution in _running(ledger):
        execution.cancel()
    _release_unbegun(ledger)
    with trio.move_on_after(deadlines.CLEAN_UP):
        stop.polling.cancel()
        await ledger.until(lambda: ledger.quiet)
    for held, execution in _running(ledger):
        log.warning(
            "releasing %s: its node did not end within %.0f s of being cancelled", held, deadlines.CLEAN_UP
        )
        execution.give_up()
        ledger.release(held)


def waiting_for(ledger: Ledger) -> str:
    """Return what a drain waits for, in one line; empty if it waits for nothing."""
    running = ledger.begun()
    if running:
        named = [f"{held}{held.running_for}" for held in sorted(running, key=lambda held: held.taken_at)]
        at_risk = sum(held.seconds_at_risk(trio.current_time()) for held in running)
        number = f"{plural(len(running), 'node')}, {format_duration(at_risk)} of work at risk"
        return f"waiting for {number}: {listed(named, MAX_NAMED, '; ')}"
    if left := ledger.count(Stage.DONE):
        return f"waiting for {left} deliveries"
    return "waiting for a claim in flight" if ledger.claiming else ""


async def _tell_nodes(stop: Stop, ledger: Ledger) -> None:
    """Tell running nodes how long they may run, again when that changes. Never returns unless cancelled."""
    while True:
        moved = stop.moved
        for _, execution in _running(ledger):
            execution.drain(stop.draining.deadline)
        await moved.wait()


async def _log_waiting(ledger: Ledger) -> None:
    """Log every few seconds what the drain waits for. Never returns unless cancelled."""
    if not ledger.begun():
        await trio.sleep(DRAIN_LOG_INTERVAL)  # deliveries usually take only a moment
    while True:
        if text := waiting_for(ledger):
            log.info("%s", text)
        await trio.sleep(DRAIN_LOG_INTERVAL)


def _release_unbegun(ledger: Ledger) -> None:
    # Race: workers may take them from the channel at this moment. They drop what is no longer buffered.
    for held in ledger.all(Stage.BUFFERED):
        ledger.release(held)
    # Its worker releases each whose process starts, or whose secrets are fetched. Race: the process may have
    # begun a moment ago, and be killed: the state runs again.
    for held, execution in _running(ledger):
        if not held.begun:
            execution.cancel()


def _running(ledger: Ledger) -> list[tuple[HeldClaim, Execution]]:
    return [(held, held.execution) for held in ledger.all(Stage.RUNNING) if held.execution is not None]
