"""The phases of a runtime, in their order, and the endings of the states that it claimed.

A runtime only moves forward, and may skip phases: a cancelled scope goes from RUNNING straight to CANCELLING,
a failed registration from STARTING to STOPPED.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Phase(Enum):
    """The phase of a runtime.

    NEW: built, not started.
    STARTING: connecting and registering.
    RUNNING: claiming, executing, reporting.
    DRAINING: no new claims; buffered states are released; running nodes may finish.
    CANCELLING: running nodes are cancelled, cleaned up and their states released.
    FLUSHING: the last outcomes and releases are delivered.
    STOPPED: nothing is left to do.
    """

    NEW = "new"
    STARTING = "starting"
    RUNNING = "running"
    DRAINING = "draining"
    CANCELLING = "cancelling"
    FLUSHING = "flushing"
    STOPPED = "stopped"


def advance(current: Phase, target: Phase) -> Phase:
    """Return ``target``; raise RuntimeError, a defect, unless it is a later phase than ``current``."""
    phases = list(Phase)
    if phases.index(target) <= phases.index(current):
        raise RuntimeError(f"a runtime cannot go from {current.value} to {target.value}")
    return target


class Ending(Enum):
    """How one claimed state ended. The values are the fields of ``Summary``, which explains them."""

    COMPLETED = "completed"
    PRUNED = "pruned"
    REQUEUED = "requeued"
    WAITING = "waiting"
    ERRORED = "errored"
    RELEASED = "released"
    HANDED_OVER = "handed_over"
    CANCELLED = "cancelled"
    DROPPED = "dropped"
    LOST_LEASES = "lost_leases"
    RUN_CANCELLED = "run_cancelled"
    UNKNOWN = "unknown"
    ABANDONED = "abandoned"
    KEPT = "kept"

    __hash__ = object.__hash__  # as in Stage

    @property
    def is_left_behind(self) -> bool:
        """Whether the state manager may still hold the state as claimed."""
        return self in (Ending.UNKNOWN, Ending.ABANDONED, Ending.KEPT)


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """The number of states that ended in each way.

    Attributes:
        completed: Outputs delivered.
        pruned: Branches ended by ``PruneSignal``, delivered.
        requeued: Sent back by ``ReQueueAfterSignal``, delivered.
        waiting: Sent back by ``WaitForEvent``, delivered.
        errored: Errors delivered.
        released: Released without having been run.
        handed_over: Given back by their nodes, by ``HandOver``.
        cancelled: Cancelled while running, then released.
        dropped: Finished, but no longer claimed by this runtime when that was reported.
        lost_leases: Given to another runtime before they were finished here.
        run_cancelled: Ended because their run was cancelled, or a state before them was retried.
        unknown: Perhaps delivered: no response came, and sending it again could do harm.
        abandoned: Not delivered: still claimed at the state manager.
        kept: Not delivered yet, but in the outbox: sent at the next start.
        lost_claims: Maximum number of states taken by claims to which no response came.
        left_behind: Ids of the states counted under ``unknown``, ``abandoned`` and ``kept``.
    """

    completed: int = 0
    pruned: int = 0
    requeued: int = 0
    waiting: int = 0
    errored: int = 0
    released: int = 0
    handed_over: int = 0
    cancelled: int = 0
    dropped: int = 0
    lost_leases: int = 0
    run_cancelled: int = 0
    unknown: int = 0
    abandoned: int = 0
    kept: int = 0
    lost_claims: int = 0
    left_behind: tuple[str, ...] = ()

    @property
    def exit_code(self) -> int:
        """0 if everything was delivered or released; 75 if something is abandoned, kept or unknown."""
        return 75 if self.unknown or self.abandoned or self.kept or self.lost_claims else 0

    def __str__(self) -> str:
        words = {"errored": "errored attempts"}  # most of them are retried
        always = ("completed", "errored", "released", "cancelled", "unknown", "abandoned")
        more = ("handed_over", "pruned", "requeued", "waiting", "dropped", "lost_leases", "run_cancelled")
        shown = [
            name for name in (*always, *more, "kept", "lost_claims") if name in always or getattr(self, name)
        ]
        return ", ".join(f"{words.get(name, name.replace('_', ' '))} {getattr(self, name)}" for name in shown)
