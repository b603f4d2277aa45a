"""How a run of a runtime went: what became of every state that it claimed."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Ending(Enum):
    """What became of one claimed state. The values are the fields of ``Summary``, which explains them."""

    COMPLETED = "completed"
    PRUNED = "pruned"
    REQUEUED = "requeued"
    ERRORED = "errored"
    RELEASED = "released"
    CANCELLED = "cancelled"
    DROPPED = "dropped"
    LOST_LEASES = "lost_leases"
    RUN_CANCELLED = "run_cancelled"
    UNKNOWN = "unknown"
    ABANDONED = "abandoned"
    KEPT = "kept"

    @property
    def is_left_behind(self) -> bool:
        """Whether the state manager may still hold the state as claimed."""
        return self in (Ending.UNKNOWN, Ending.ABANDONED, Ending.KEPT)


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """How a run of a runtime went, in states.

    Attributes:
        completed: Outputs delivered.
        pruned: Branches ended by ``PruneSignal``, delivered.
        requeued: Sent back by ``ReQueueAfterSignal``, delivered.
        errored: Errors delivered.
        released: Released without having been run.
        cancelled: Cancelled while running, then released.
        dropped: Finished, but no longer claimed by this runtime when that was reported.
        lost_leases: Given to another runtime before they were finished here.
        run_cancelled: Ended because their run was cancelled.
        unknown: Perhaps delivered: no response came, and sending it again could do harm.
        abandoned: Not delivered: still claimed at the state manager.
        kept: Not delivered yet, but in the outbox: sent at the next start.
        lost_claims: Most states that claims may have taken to which no response came.
        left_behind: Ids of the states counted under ``unknown``, ``abandoned`` and ``kept``.
    """

    completed: int = 0
    pruned: int = 0
    requeued: int = 0
    errored: int = 0
    released: int = 0
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
        always = ("completed", "errored", "released", "cancelled", "unknown", "abandoned")
        more = ("pruned", "requeued", "dropped", "lost_leases", "run_cancelled", "kept", "lost_claims")
        shown = [name for name in (*always, *more) if name in always or getattr(self, name)]
        return ", ".join(f"{name.replace('_', ' ')} {getattr(self, name)}" for name in shown)
