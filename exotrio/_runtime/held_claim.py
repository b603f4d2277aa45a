"""One claimed state that a runtime holds. It only moves forward, and each event is one method of the ledger::

    event                                        method            stage
    -------------------------------------------  ----------------  ---------------------------------
    a claim brings it                            add               BUFFERED
    a worker takes it                            run               BUFFERED -> RUNNING
    it is not to be run now, or a stop has come  release           BUFFERED, RUNNING -> DONE
    its node has ended                           finish            RUNNING -> DONE
    its outcome or release is answered           end               DONE -> removed, with an Ending
    its lease is lost, or its run cancelled:     lose
        its node was not begun                                     BUFFERED -> removed (1)
        its node runs, and is cancelled                            RUNNING
        then its node has ended                  finish            RUNNING -> removed (1)
    code of its node is stuck when it ends       end, keeps_slots  RUNNING, DONE -> STUCK (2)
    that code has stopped                        release_stopped   STUCK -> DONE

(1) If it keeps slots of limits, it is released: DONE. (2) Only if it keeps slots. It counts as ended, and no
stop waits for it, but heartbeats keep its slots.
"""

from __future__ import annotations

import math
from dataclasses import KW_ONLY, dataclass
from enum import Enum

import trio

from exotrio._execution.handle import Execution
from exotrio._link.port import Claim
from exotrio._nodes.base import Stopping
from exotrio._nodes.checkpoint import CheckpointView
from exotrio._nodes.outcome import (
    Calling,
    Errored,
    Executed,
    HandedOver,
    Outcome,
    Pruned,
    Released,
    Report,
    Requeued,
    Waiting,
)
from exotrio._nodes.progress import Progress
from exotrio._runtime.lifecycle import Ending
from exotrio._util.error_message import message_line
from exotrio._util.times import format_duration

DELIVERED: dict[type[Report], Ending] = {
    Executed: Ending.COMPLETED,
    Errored: Ending.ERRORED,
    Pruned: Ending.PRUNED,
    Requeued: Ending.REQUEUED,
    Waiting: Ending.WAITING,
    Calling: Ending.WAITING,
    HandedOver: Ending.HANDED_OVER,
}

NOT_DELIVERED = frozenset({Ending.DROPPED, Ending.LOST_LEASES, Ending.ABANDONED})
"""Endings of which the state manager has stored nothing."""


class Stage(Enum):
    BUFFERED = "buffered"
    """Claimed, waiting for a worker."""
    RUNNING = "running"
    """A worker has it."""
    DONE = "done"
    """Its outcome, or its release, is with the reporter."""
    STUCK = "stuck"
    """It has ended, but keeps slots until code of its node has stopped. Then it is released."""

    # Members are compared by identity. The hash of Enum is Python code, called twenty times for each state.
    __hash__ = object.__hash__


@dataclass(eq=False, slots=True)
class HeldClaim:
    """One claimed state. Compared by identity: a state that is released and claimed again is another one.

    Attributes:
        claimed_at: When the answer to its claim arrived, on Trio's clock.
        lease_until: When its lease ends as far as is known here, on the clock of ``Ledger.now``. After
            that its node is not begun; one that runs goes on, since perhaps no other runtime has it yet.
        forfeited: LEASE_LOST or RUN_CANCELLED once the state manager says so.
        keeps_slots: Whether it keeps slots of limits although it has ended there, until it is released.
        execution: The run of its node, while and after there is one.
        taken_at: When a worker took it, on Trio's clock.
        report: What to send, once DONE: its outcome or its release.
        in_flight: Whether the report is being sent.
        was_refused: The report is an error instead of the outcome, which the state manager refused.
        announced: The state manager knows that its node runs.
        sent_unbegun: A heartbeat said, or is about to say, that a worker has it, perhaps before ``execute``.
        ending: How it ended; None while it is held.
    """

    claim: Claim
    _: KW_ONLY
    stage: Stage = Stage.BUFFERED
    claimed_at: float = math.inf
    lease_until: float = math.inf
    forfeited: Stopping = Stopping.NO
    keeps_slots: bool = False
    execution: Execution | None = None
    taken_at: float = math.inf
    report: Report | None = None
    in_flight: bool = False
    was_refused: bool = False
    announced: bool = False
    sent_unbegun: bool = False
    ending: Ending | None = None

    @property
    def is_leased(self) -> bool:
        """Whether its lease is to be renewed, or that of the slots that it keeps."""
        is_held = self.keeps_slots or not self.forfeited
        return self.claim.token is not None and is_held and not self.is_release

    @property
    def is_release(self) -> bool:
        return isinstance(self.report, Released)

    @property
    def goes_on(self) -> bool:
        """Whether code of its node may go on: it has not ended, or is stuck."""
        execution = self.execution
        return execution is not None and (
            execution.is_stuck or (execution.began and execution.ended_at == math.inf)
        )

    @property
    def begun(self) -> bool:
        """Whether its node was entered; a worker has it before, while its process starts."""
        return self.execution is not None and self.execution.began

    @property
    def is_unrepeatable(self) -> bool:
        """Whether sending the outcome twice could run a state again that has already ended."""
        return isinstance(self.report, Requeued) and self.claim.token is None

    @property
    def is_being_released(self) -> bool:
        """Whether it is being released, so that a claim may bring it again before the response comes."""
        return self.in_flight and isinstance(self.report, Released | Requeued | Waiting | Calling)

    def is_of(self, claim: Claim) -> bool:
        """Whether ``claim`` is of this state, and not of another one that got the same id.

        A state manager whose database went back in time may assign an id again. Of one run, the states of a
        fan-out differ only in their inputs. A field that one of the claims lacks is not compared: v0 does not
        say run and attempt, and an outcome of an earlier process has no inputs.
        """
        kept = self.claim
        is_restored = self.execution is None and isinstance(self.report, Outcome)
        return (
            (kept.node_name, kept.identifier) == (claim.node_name, claim.identifier)
            and (None in (kept.run_id, claim.run_id) or kept.run_id == claim.run_id)
            and (None in (kept.attempt, claim.attempt) or kept.attempt == claim.attempt)
            and (is_restored or kept.inputs == claim.inputs)
        )

    @property
    def report_name(self) -> str:
        """What its report is called in the log; without one, it is still to be released."""
        if not isinstance(self.report, Outcome):
            return "release"
        error = f" ({message_line(self.report.error)})" if isinstance(self.report, Errored) else ""
        return f"outcome {type(self.report).__name__}{error}"

    @property
    def delivered_ending(self) -> Ending:
        """How it ends if its outcome or its release is delivered."""
        if self.report is not None and (ending := DELIVERED.get(type(self.report))) is not None:
            return ending
        if self.forfeited:
            return self.forfeited_ending
        return Ending.CANCELLED if self.begun else Ending.RELEASED

    @property
    def forfeited_ending(self) -> Ending:
        """How it ends if nothing is sent about it, or only that its node has stopped."""
        cancelled = self.forfeited is Stopping.RUN_CANCELLED
        return Ending.RUN_CANCELLED if cancelled else Ending.LOST_LEASES

    @property
    def buffered(self) -> float | None:
        """Seconds from its claim until ``execute`` began; None before that. From any thread."""
        execution = self.execution
        if execution is None or execution.begun_at == math.inf:
            return None
        # Race: a state that runs may be claimed again here (``Ledger.add``).
        return max(0.0, execution.begun_at - self.claimed_at)

    def ran(self, now: float) -> float | None:
        """Return how many seconds ``execute`` took, or has taken by ``now``; None before it began."""
        execution = self.execution
        if execution is None or execution.begun_at == math.inf:
            return None
        return max(0.0, min(execution.ended_at, now) - execution.begun_at)

    @property
    def checkpoint(self) -> CheckpointView | None:
        """Its checkpoint, if its node has one and was begun. From any thread."""
        return None if self.execution is None else self.execution.checkpoint

    @property
    def checkpoint_to_store(self) -> CheckpointView | None:
        """The same, as long as the state manager stores it. From any thread."""
        return None if self.forfeited or self.stage is Stage.STUCK else self.checkpoint

    def seconds_at_risk(self, now: float) -> float:
        """Return the seconds of work that are repeated if its execution ends without an outcome.

        That is since ``execute`` began, or since the newest checkpoint: it is stored with the release, unless
        that was not delivered. An execution that has ended has worked until then, so ``now`` may be any later
        time.
        """
        ran, checkpoint = self.ran(now) or 0.0, self.checkpoint
        if checkpoint is None or not checkpoint.is_stored():
            return ran
        assert self.execution is not None
        since = checkpoint.confirmed_at if self.ending in NOT_DELIVERED else checkpoint.set_at
        return max(0.0, min(ran, min(self.execution.ended_at, now) - since))

    @property
    def progress(self) -> Progress | None:
        """The last progress of its node, if it gave any. From any thread."""
        return None if self.execution is None else self.execution.progress.last

    @property
    def running_for(self) -> str:
        """What follows its name in a log line: how long it has been running, and its progress."""
        running = f" running {format_duration(self.ran(trio.current_time()) or 0.0)}"
        return running if self.progress is None else f"{running}, {self.progress}"

    @property
    def run_and_graph(self) -> str:
        """What follows its name in a log line about its run; empty on v0, which does not say."""
        claim = self.claim
        return f" of run {claim.run_id} of graph {claim.graph_name}" if claim.run_id else ""

    def __str__(self) -> str:
        return f"state {self.claim.state_id} ({self.claim.node_name} as {self.claim.identifier})"
