"""Points at which a fault can strike while a graph runs."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum


class Fault(StrEnum):
    """A fault that strikes at a point; ``explore`` says where each does, and what happens."""

    KILLED = "killed"
    STORED = "stored"
    STOPPED = "stopped"
    DRAINED = "drained"
    SUSPENDED = "suspended"
    ANSWER_LOST = "answer lost"
    EVENT_EARLY = "event early"
    EVENT_LATE = "event late"
    EVENT_REPEATED = "event repeated"
    EVENT_LOST = "event lost"


class Moment(StrEnum):
    """Where an execution is."""

    BEGIN = "before it began"
    AWAIT = "at its await"
    END = "after it ended, before its report"
    EVENT = "when all that is left waits for it"


FAULTS = {
    Moment.BEGIN: (Fault.KILLED, Fault.STOPPED),
    Moment.AWAIT: (Fault.KILLED, Fault.STORED, Fault.STOPPED, Fault.DRAINED, Fault.SUSPENDED),
    Moment.END: (Fault.KILLED, Fault.STOPPED, Fault.ANSWER_LOST),
    Moment.EVENT: (Fault.EVENT_EARLY, Fault.EVENT_LATE, Fault.EVENT_REPEATED, Fault.EVENT_LOST),
}
_SENTENCES = {
    Fault.KILLED: "was killed",
    Fault.STORED: "was killed",
    Fault.STOPPED: "was stopped",
    Fault.DRAINED: "was asked to stop",
    Fault.SUSPENDED: "lost its lease",
    Fault.EVENT_EARLY: "was sent before anything waited for it",
    Fault.EVENT_LATE: "was sent just before its deadline",
    Fault.EVENT_REPEATED: "was sent twice",
    Fault.EVENT_LOST: "was not sent",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Somewhere in an execution of a node, or when an event is sent.

    Attributes:
        node: Identifier of the graph's node, or name of the event.
        execution: Number of the execution among those of the node, from 1. For an event, number of the run:
            1, or that of a child in the order in which they began.
        moment: Where in the execution.
        nth: Number of the await, from 1; 0 for other moments.
        checkpoint: Number of the checkpoint that was set since the await before; 0 if none was.
        line: Line of the node's code; empty for other moments.
    """

    node: str
    execution: int
    moment: Moment
    nth: int = 0
    checkpoint: int = 0
    line: str = field(default="", compare=False)

    @property
    def execution_name(self) -> str:
        """``charge``, or ``execution 2 of charge``."""
        return self.node if self.execution == 1 else f"execution {self.execution} of {self.node}"

    def __str__(self) -> str:
        return self.moment.value if not self.nth else f"{self.moment.value} {self.nth} ({self.line})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """A fault at a place: one case of an exploration.

    Attributes:
        number: Number of the point, from 1; ``explore(..., only=number)`` replays it.
    """

    number: int
    fault: Fault
    place: Place

    def __str__(self) -> str:
        who = self.place.execution_name
        if self.fault is Fault.ANSWER_LOST:
            return f"the answer to the report of {who} was lost"
        if self.place.moment is Moment.EVENT:
            of_run = f" of run {self.place.execution}" if self.place.execution > 1 else ""
            return f"the event {self.place.node}{of_run} {_SENTENCES[self.fault]}"
        what = f"{who} {_SENTENCES[self.fault]} {self.place}"
        if not (number := self.place.checkpoint):
            return what
        return f"{what}, its checkpoint {number} {'stored' if self.fault is Fault.STORED else 'not sent'}"


@dataclass(frozen=True, slots=True)
class Work:
    """Work of nodes that was repeated, from the last stored checkpoints on.

    Attributes:
        awaits: Number of awaits of their code.
        seconds: On Trio's clock.
    """

    awaits: int = 0
    seconds: float = 0.0


NO_WORK = Work()
