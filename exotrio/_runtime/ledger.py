"""The ledger of a runtime: every claimed state from its claim until its report or release is settled. Pure
bookkeeping, in the loop's thread."""

from __future__ import annotations

import logging
import math
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import trio

from exotrio._execution.handle import RELEASED, Execution
from exotrio._link.port import Claim
from exotrio._nodes.base import Stopping
from exotrio._nodes.outcome import Errored, Executed, Outcome, Pruned, Released, Report
from exotrio._runtime.held_claim import DELIVERED, HeldClaim, Stage
from exotrio._runtime.lifecycle import Ending, Summary
from exotrio._shared.events import Events, LeaseLost, StateEnded
from exotrio._util.crossing import ThreadsafeEvent

log = logging.getLogger("exotrio.ledger")

MAX_BUFFERED = 10.0
"""Seconds for which a state waits for workers that all run nodes. With the next heartbeat it is released,
since another runtime may be idle."""
MIN_PAUSE = 1.0
"""Seconds until what failed is repeated because a heartbeat was answered. Those with checkpoints may come
often, and need not show that this will be accepted."""
STEPS_TO_END = 3
"""Steps of the loop from the end of a node to the end of its task, and to the next state of its worker."""


def seconds_asleep() -> float:
    """Return the seconds for which this machine was suspended since it was started; 0 if that is unknown."""
    boottime = getattr(time, "CLOCK_BOOTTIME", None)
    return 0.0 if boottime is None else time.clock_gettime(boottime) - time.monotonic()


async def let_others_finish() -> None:
    """Let nodes that end at this moment reach the ledger, so that one request covers all of them."""
    for _ in range(STEPS_TO_END):
        await trio.lowlevel.checkpoint()


@dataclass(slots=True, kw_only=True)
class Ledger:
    """Everything that is held, and the counts of what was held.

    Attributes:
        claiming: A claim of the poller is in flight: it may bring states.
        reported: Outcomes delivered so far; each may have made states claimable.
        overdue_at: When ``release_overdue`` last returned states, on the clock of ``now``.
        reported_by_then: How many outcomes were delivered by then; None if it never did.
        ttl: Seconds a lease lasts; None while that is not known, or if leases do not end.
        heartbeat_due: Set to have a heartbeat sent at once: for a claim whose lease needs it, and for a
            state that is to be announced.
        alone: States that are to run while nothing else does, the one whose turn it is first.
        stuck: The states that are STUCK. They are not held any more.
        deliver: Takes each state that is to be released. Set by the reporter.
        events: Receives a ``StateEnded`` for each state that is no longer held.
        asleep: Returns for how many seconds this machine was suspended so far.
    """

    claiming: bool = False
    reported: int = 0
    overdue_at: float = -math.inf
    reported_by_then: int | None = None
    ttl: float | None = None
    heartbeat_due: ThreadsafeEvent = field(default_factory=ThreadsafeEvent)
    events: Events = field(default_factory=Events)
    asleep: Callable[[], float] = seconds_asleep
    alone: list[HeldClaim] = field(default_factory=list)
    stuck: dict[HeldClaim, None] = field(default_factory=dict)
    deliver: Callable[[HeldClaim], None] = lambda held: None
    _held: dict[HeldClaim, None] = field(default_factory=dict)
    _by_state: dict[str, HeldClaim] = field(default_factory=dict)
    _stages: Counter[Stage] = field(default_factory=Counter)
    _active: Counter[str] = field(default_factory=Counter)
    _endings: Counter[Ending] = field(default_factory=Counter)
    _left_behind: list[str] = field(default_factory=list)
    _changed: trio.Event | None = None
    _pauses: dict[trio.CancelScope, float] = field(default_factory=dict)

    # -- time

    def now(self) -> float:
        """Return Trio's time plus the time of all suspends: then Trio's clock does not run, but leases do."""
        return trio.current_time() + self.asleep()

    def lapsed(self, held: HeldClaim) -> bool:
        """Whether its lease has ended as far as is known here."""
        # In process it has no end; to read two clocks for nothing took 2 us of each state.
        return held.lease_until < math.inf and self.now() >= held.lease_until

    def may_begin(self, held: HeldClaim) -> bool:
        """Whether its node may begin now that a worker has it."""
        return not self.lapsed(held) and (held.announced or not held.claim.announce)

    # -- entering, moving, removing

    def add(self, claim: Claim, sent_at: float = math.inf) -> HeldClaim | None:
        """Enter a claim whose request was sent at that time on the clock of ``now``; return the held claim.

        None if the same is held here already (its lease was lost, or a v0 claim repeated it). Then that one
        takes over the claim, so that nothing is begun a second time. If another state with this id is held,
        its lease is lost, and nothing is sent about it any more.
        """
        known = self._by_state.get(claim.state_id)
        is_new = known is None or not self.holds(claim)
        if known is None or is_new:
            held = HeldClaim(claim)
            self._hold(held)
            self._active[claim.node_name] += 1
            if known is not None:
                # Race: it is being released, and the claim overtook the answer; or another state has its id.
                self.lose(known, Stopping.LEASE_LOST)
        else:
            # Race: its lease was lost and claimed again here, before a heartbeat could say that it was lost.
            held = known
            held.claim = claim
            held.announced = False
            # If its execution was cancelled for the old lease, it is released under the new one.
            held.forfeited = Stopping.NO
            self._end_if_outdated(held)
        held.claimed_at = trio.current_time()
        held.lease_until = math.inf
        late = known is not None and claim.announce
        if claim.lease is not None:
            held.lease_until = sent_at + claim.lease
            # The first time, too: until then it is not known how often to send heartbeats.
            late = late or self.ttl is None or held.lease_until - self.now() < self.ttl * 2 / 3
            self.ttl = self.ttl or claim.lease
        self.notify()
        if late:
            self.heartbeat_due.set()
        return held if is_new else None

    def _end_if_outdated(self, held: HeldClaim) -> None:
        """End its execution if another runtime may have worked on it, and stored a checkpoint, meanwhile."""
        execution, stored = held.execution, held.claim.checkpoint
        if execution is None or execution.checkpoint is None or stored is None:
            return
        if stored.number != execution.checkpoint.confirmed:
            log.warning("%s is cancelled: another runtime had it, and stored a newer checkpoint", held)
            # Under the new token, an older one of this execution would replace it.
            execution.checkpoint = None
            execution.cancel(Stopping.LEASE_LOST)

    def holds(self, claim: Claim) -> bool:
        """Whether the state of ``claim`` is held here already, so that ``add`` would return None."""
        known = self._by_state.get(claim.state_id)
        return known is not None and not known.is_being_released and known.is_of(claim)

    def is_replaced(self, held: HeldClaim) -> bool:
        """Whether another claim of its state, or of a state with the same id, has taken its place."""
        return self._by_state.get(held.claim.state_id, held) is not held

    def lose(self, held: HeldClaim, why: Stopping, *, keeps_slots: bool = False) -> None:
        """End a state that this runtime no longer holds. A finished one is left to the reporter; one that
        ``keeps_slots`` is released once its node has stopped."""
        held.keeps_slots = keeps_slots
        if not keeps_slots:
            self.stuck.pop(held, None)
        if held.forfeited or held.stage in (Stage.DONE, Stage.STUCK):
            return  # Race: its node ended before the answer to the heartbeat came.
        what = "its lease is lost"
        if why is Stopping.RUN_CANCELLED:
            what = f"its run {held.claim.run_id} was cancelled, or a state before it was retried"
        elif self.events:
            self.events.emit(LeaseLost(held.claim.node_name))
        held.forfeited = why
        if held.execution is None:
            log.warning("%s is dropped before it was begun: %s", held, what)
            self.release(held)
        else:
            log.warning("%s is cancelled: %s", held, what)
            held.execution.cancel(why)

    def restore(self, claim: Claim, outcome: Outcome) -> HeldClaim:
        """Enter an outcome of an earlier process, which is only to be delivered."""
        held = HeldClaim(claim, stage=Stage.DONE, report=outcome)
        self._hold(held)
        self.notify()
        return held

    def run(self, held: HeldClaim, execution: Execution) -> None:
        """Record that a worker runs it from now on."""
        held.execution = execution
        held.taken_at = trio.current_time()
        self._move(held, Stage.RUNNING)
        if held.claim.announce:
            self.heartbeat_due.set()

    def release(self, held: HeldClaim, report: Released = RELEASED) -> None:
        """Release a state, unless its lease was lost, its run was cancelled, or it is done."""
        trace = None if held.execution is None else held.execution.trace
        if self.finish(held, replace(report, trace=trace)):
            self.deliver(held)

    def finish(self, held: HeldClaim, report: Report) -> bool:
        """Record the report of a state. Return whether that is to be delivered.

        A state whose lease was lost is not released; if its node returned a value all the same, that is
        sent, since perhaps no other runtime has begun it. Nothing is sent about a state that was replaced, or
        whose run was cancelled; but a state that keeps slots is released, once its node has stopped.
        """
        is_release = isinstance(report, Released)
        if held.forfeited:
            # Race: its lease was lost, its run cancelled, or its id claimed again, before its node ended.
            is_replaced = self.is_replaced(held)
            if is_release or is_replaced or held.forfeited is Stopping.RUN_CANCELLED:
                keeps_slots = held.keeps_slots and not is_replaced
                if held.goes_on or not keeps_slots:
                    self.end(held, held.forfeited_ending, keeps_slots=keeps_slots)
                    return False
                report, is_release = Released(), True
        if held not in self._held or held.stage is Stage.DONE:
            # Race: the shutdown gave it up and released it before its node ended.
            return False
        if not is_release:
            report.buffered, report.ran = held.buffered, held.ran(math.inf)
        if isinstance(report, Errored):
            report.is_stuck = held.goes_on
        if held.checkpoint is not None and not isinstance(report, Executed | Pruned):
            report = replace(report, checkpoint=held.checkpoint.unconfirmed)
        held.report = report
        self._move(held, Stage.DONE)
        return True

    def release_overdue(self, workers: int) -> None:
        """Release states that wait for workers which all run nodes, and note that."""
        # Else a worker may be about to begin one: it waits until a lease is renewed or it may run alone.
        if self.count(Stage.RUNNING) < workers:
            return
        since = trio.current_time() - MAX_BUFFERED
        for held in self.all(Stage.BUFFERED):
            # Suspects for which no worker waits would be claimed again by the next idle one, again and again.
            if held.claimed_at <= since and held.is_leased and held not in self.alone:
                log.debug("releasing %s: all workers run other nodes", held)
                self.overdue_at, self.reported_by_then = self.now(), self.reported
                self.release(held)

    def end(self, held: HeldClaim, ending: Ending, *, keeps_slots: bool = False) -> None:
        """Remove it. Does nothing if it was removed before, as by ``Reporter.write_off``.

        With ``keeps_slots``, heartbeats keep its slots while code of its node goes on; then it is released.
        """
        if held not in self._held:
            return
        del self._held[held]
        if self._by_state.get(held.claim.state_id) is held:
            del self._by_state[held.claim.state_id]
        if held.stage is not Stage.DONE:
            self._move(held, Stage.DONE)  # it may still be in the channel to the workers, which drop it then
        self._stages[Stage.DONE] -= 1
        held.ending = ending
        self._endings[ending] += 1
        self.reported += ending in DELIVERED.values()
        if ending.is_left_behind:
            self._left_behind.append(held.claim.state_id)
        if self.events:
            claim, now = held.claim, trio.current_time()
            ran = held.ran(now)
            at_risk = None if ran is None else held.seconds_at_risk(now)
            times = ran, claim.state_id, held.buffered, claim.waited, at_risk
            self.events.emit(StateEnded(claim.node_name, ending.value, *times))
        if keeps_slots:
            held.stage, held.report, held.keeps_slots = Stage.STUCK, None, True
            self.stuck[held] = None
            self.release_stopped()
        self.notify()

    def release_stopped(self) -> None:
        """Release the stuck states whose nodes have stopped. Called when one may have."""
        for held in [held for held in self.stuck if not held.goes_on]:
            del self.stuck[held]
            held.stage, held.report = Stage.DONE, RELEASED
            self.deliver(held)
        self.notify()

    # -- reading

    def all(self, *stages: Stage) -> list[HeldClaim]:
        """Return the held claims in these stages, oldest first."""
        return [held for held in self._held if held.stage in stages]

    def begun(self) -> list[HeldClaim]:
        """Return the held claims whose nodes run, oldest first: those that workers have, and were entered."""
        return [held for held in self.all(Stage.RUNNING) if held.begun]

    def leased(self) -> list[HeldClaim]:
        """Return the held claims with leases that are not being released, oldest first; then those that are
        stuck.

        From any thread, also while this one is in the middle of a change.
        """
        # Race: the loop may change the ledger at this moment. list() of a dict is atomic, so no change has to
        # take a lock for a reader that comes every 10 s.
        return [held for held in list(self._held) + list(self.stuck) if held.is_leased]

    def snapshot(self) -> list[HeldClaim]:
        """Return all that is held, oldest first. From any thread, as ``leased``."""
        return list(self._held)

    def count(self, *stages: Stage) -> int:
        """Return how many are held in these stages. From any thread."""
        number = 0
        for stage in stages:  # sum() takes twice as long, a dozen times for each claim
            number += self._stages[stage]
        return number

    def ended(self, ending: Ending) -> int:
        """Return how many states ended in this way. From any thread."""
        return self._endings[ending]

    def active(self, node_name: str) -> int:
        """Return how many states of one node wait for a worker or run."""
        return self._active[node_name]

    def __contains__(self, held: HeldClaim) -> bool:
        return held in self._held

    @property
    def quiet(self) -> bool:
        """Whether nothing waits or runs, and no claim of the poller is in flight.

        Deliveries may still bring states, which are released after a request to stop."""
        return not self.claiming and self.count(Stage.BUFFERED, Stage.RUNNING) == 0

    @property
    def empty(self) -> bool:
        """Whether nothing is held, and nothing can come."""
        return not self.claiming and not self._held

    # -- waiting

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until ``condition`` holds; it is checked again after every change of the ledger."""
        while not condition():
            if self._changed is None:
                self._changed = trio.Event()
            await self._changed.wait()

    def notify(self) -> None:
        """Have every ``until`` check its condition again."""
        if self._changed is not None:
            self._changed.set()
            self._changed = None

    @contextmanager
    def pausing(self, pause: trio.CancelScope) -> Iterator[None]:
        """Run the block in the pause before a request is repeated, which ``shorten_pauses`` shortens."""
        self._pauses[pause] = trio.current_time()
        try:
            with pause:
                yield
        finally:
            del self._pauses[pause]

    def shorten_pauses(self) -> None:
        """Have what failed in an outage repeated soon: the state manager answers again."""
        for pause, began in self._pauses.items():
            pause.deadline = min(pause.deadline, began + MIN_PAUSE)

    def summary(self, lost_claims: int) -> Summary:
        counts = {ending.value: count for ending, count in self._endings.items()}
        return Summary(**counts, lost_claims=lost_claims, left_behind=tuple(self._left_behind))

    def _hold(self, held: HeldClaim) -> None:
        self._held[held] = None
        self._by_state[held.claim.state_id] = held
        self._stages[held.stage] += 1

    def _move(self, held: HeldClaim, stage: Stage) -> None:
        self._stages[held.stage] -= 1
        held.stage = stage
        self._stages[stage] += 1
        if stage is Stage.DONE:
            self._active[held.claim.node_name] -= 1
            if held in self.alone:
                self.alone.remove(held)
        self.notify()
