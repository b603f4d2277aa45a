"""The values of a trial: its plan, the journal of its executions, and what broke. Pure."""

from __future__ import annotations

import math
import random
from collections import Counter
from dataclasses import dataclass, field
from enum import StrEnum

from exotrio.monitoring import CheckpointStored, StateBegan, StateEnded
from exotrio.testing._comparison import Version

MAX_PAUSE = 0.5
"""Seconds between two SIGTERM."""
CANCELLED = "cancelled"
"""The outcome of those whose newest checkpoint was stored with their release."""
RUNS_AGAIN = frozenset({"requeued", "waiting", "handed_over"})
"""Outcomes of executions whose node asked for another one."""
CUT = frozenset({CANCELLED, "lost_leases", "dropped"})
"""Outcomes of executions whose work did not count."""
UNSURE = frozenset({None, "unknown", "abandoned", "kept"})
"""Those whose work counted if the outcome arrived, perhaps by an outbox. Otherwise the state ran again,
or the run did not end."""


class Fault(StrEnum):
    """What happens to a process."""

    TERM = "SIGTERM"
    """It drains, as when a pod is deleted."""
    TERM_TWICE = "SIGTERM twice"
    """The second one cancels running nodes."""
    KILL = "SIGKILL"
    """As when memory runs out."""
    STOP = "SIGSTOP"
    """For longer than its leases last, as when a laptop sleeps; then it goes on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What happens in a trial.

    Attributes:
        number: From 1.
        moment: When, as a part of the time that the run takes without a fault.
        pause: Seconds between two signals, if there are two.
    """

    number: int
    fault: Fault
    moment: float
    pause: float

    @classmethod
    def of(cls, seed: int, number: int) -> Plan:
        """Return the plan of a trial: the faults take turns, everything else is random."""
        chance = random.Random(f"{seed} {number}")
        faults = list(Fault)
        return cls(
            number=number,
            fault=faults[(number - 1) % len(faults)],
            moment=chance.random(),
            pause=chance.uniform(0.0, MAX_PAUSE),
        )


@dataclass(slots=True)
class Execution:
    """One execution of a node, by one process. Times are those of the monotonic clock.

    Attributes:
        saved: When its newest checkpoint that was stored while it ran was set.
        outcome: As ``StateEnded`` names it; None if its process never said.
        at_risk: As ``StateEnded`` has it.
    """

    node: str
    state_id: str
    identifier: str
    began: float
    ended: float = math.inf
    saved: float = -math.inf
    outcome: str | None = None
    at_risk: float | None = None

    @property
    def repeated(self) -> float:
        """Seconds of its work that the next execution of its state repeats, if it was cut."""
        if self.outcome == CANCELLED and self.at_risk is not None:
            return self.at_risk
        return max(0.0, self.ended - max(self.began, self.saved))


class Journal:
    """The executions of one process, from its messages."""

    def __init__(self) -> None:
        self.executions: list[Execution] = []
        self._open: dict[str, Execution] = {}

    def add(self, at: float, event: StateBegan | StateEnded | CheckpointStored) -> None:
        match event:
            case StateBegan():
                execution = Execution(event.node, event.state_id, event.identifier, at)
                self.executions.append(execution)
                self._open[event.state_id] = execution
            case StateEnded() if (ended := self._open.pop(event.state_id, None)) is not None:
                ended.ended, ended.outcome, ended.at_risk = at, event.outcome, event.at_risk
            case CheckpointStored() if (running := self._open.get(event.state_id)) is not None:
                running.saved = at - event.age

    def stopped(self, at: float) -> None:
        """Note that its process did nothing useful from then on: it was killed, or suspended for too long."""
        for execution in self.executions:
            execution.ended = min(execution.ended, max(execution.began, at))


@dataclass(slots=True, kw_only=True)
class Trial:
    """What happened in a trial.

    Attributes:
        at: When the fault came, in seconds from the trigger.
        exit_seconds: From SIGTERM to the end of the process; None if there was no SIGTERM.
        problems: What broke, one line each.
        version: Whose results the run has; None if those of no code.
        cut: Executions of each class whose work did not count.
        repeated: The states that ran again because of that.
        seconds_repeated: What those executions had worked, since their last stored checkpoint if any.
        ran_again: How often nodes of each class did.
    """

    plan: Plan
    at: float
    exit_seconds: float | None = None
    problems: list[str] = field(default_factory=list)
    version: Version | None = None
    cut: Counter[str] = field(default_factory=Counter)
    repeated: int = 0
    seconds_repeated: float = 0.0
    ran_again: Counter[str] = field(default_factory=Counter)

    def count(self, first: Journal, second: Journal, *, run_ended: bool = True) -> None:
        """Add what the journals say of the process that got the signals, and of the one that took over."""
        executions = [*first.executions, *second.executions]
        times = Counter(each.state_id for each in executions)
        last = {each.state_id: each for each in executions}
        for each in first.executions:
            ran_again = last[each.state_id] is not each
            if each.outcome in CUT or (each.outcome in UNSURE and (ran_again or not run_ended)):
                self.cut[each.node] += 1
                self.seconds_repeated += each.repeated if ran_again else 0.0
        asked = Counter(each.state_id for each in executions if each.outcome in RUNS_AGAIN)
        for each in last.values():
            if (more := times[each.state_id] - asked[each.state_id] - 1) > 0:
                self.repeated += 1
                self.ran_again[each.node] += more
