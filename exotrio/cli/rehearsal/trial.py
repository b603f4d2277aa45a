"""The values of a trial: its plan, the journal of its executions, and what broke. Pure."""

from __future__ import annotations

import json
import math
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from exotrio._util.words import listed, shortened
from exotrio.client import RunStatus
from exotrio.monitoring import StateBegan, StateEnded

MAX_SHOWN = 60
"""Characters of an output in a message."""
MAX_PAUSE = 0.5
"""Seconds between two SIGTERM."""
REQUEUED = "requeued"
CUT = frozenset({"cancelled", "lost_leases", "dropped"})
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """How a run ended.

    Attributes:
        outputs: Place to the outputs of its states that succeeded, in any order.
        seconds: From its trigger to its end.
        error: The first error, if it failed.
    """

    status: RunStatus
    outputs: Mapping[str, list[dict[str, Any]]]
    seconds: float
    error: str = ""


@dataclass(slots=True)
class Execution:
    """One execution of a node, by one process. Times are those of the monotonic clock.

    Attributes:
        outcome: As ``StateEnded`` names it; None if its process never said.
    """

    node: str
    state_id: str
    identifier: str
    began: float
    ended: float = math.inf
    outcome: str | None = None


class Journal:
    """The executions of one process, from its messages."""

    def __init__(self) -> None:
        self.executions: list[Execution] = []
        self._open: dict[str, Execution] = {}

    def add(self, at: float, event: StateBegan | StateEnded) -> None:
        """Add an event that a process reported."""
        match event:
            case StateBegan():
                execution = Execution(event.node, event.state_id, event.identifier, at)
                self.executions.append(execution)
                self._open[event.state_id] = execution
            case StateEnded() if (ended := self._open.pop(event.state_id, None)) is not None:
                ended.ended, ended.outcome = at, event.outcome

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
        cut: Executions whose work did not count.
        repeated: The states that ran again because of that.
        seconds_repeated: What those executions had worked.
        ran_again: How often nodes of each class did.
    """

    plan: Plan
    at: float
    exit_seconds: float | None = None
    problems: list[str] = field(default_factory=list)
    cut: int = 0
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
                self.cut += 1
                self.seconds_repeated += each.ended - each.began if ran_again else 0.0
        requeued = Counter(each.state_id for each in executions if each.outcome == REQUEUED)
        for each in last.values():
            if (more := times[each.state_id] - requeued[each.state_id] - 1) > 0:
                self.repeated += 1
                self.ran_again[each.node] += more

    def compare(self, usual: Result, result: Result, unsteady: frozenset[tuple[str, str]]) -> None:
        """Add a problem for each difference from the run without a fault, except in ``unsteady`` fields."""
        if result.status is not usual.status:
            why = f": {result.error}" if result.error else ""
            self.problems.append(f"the run ended as {result.status.value}{why}")
        for place, expected in usual.outputs.items():
            outputs = result.outputs.get(place, [])
            if (place, "") in unsteady:
                continue
            if len(outputs) != len(expected):
                self.problems.append(f"{place} has {len(outputs)} outputs instead of {len(expected)}")
                continue
            ignored = {name for of, name in unsteady if of == place}
            for name in [each for each in _names(expected + outputs) if each not in ignored]:
                came, gone = _changed([row.get(name) for row in expected], [row.get(name) for row in outputs])
                if came:
                    self.problems.append(f"{place}.{name} is {_shown(came)} instead of {_shown(gone)}")
                    break
            else:
                steady = [
                    [{name: value for name, value in row.items() if name not in ignored} for row in each]
                    for each in (expected, outputs)
                ]
                came, gone = _changed(*steady)
                if came:
                    self.problems.append(f"an output of {place} is {_shown(came)} instead of {_shown(gone)}")


def unsteady_fields(one: Result, other: Result) -> frozenset[tuple[str, str]]:
    """Return the fields of outputs, by place, that differ between two runs without a fault.

    A field without a name stands for all outputs of a place, whose number differs.
    """
    fields: set[tuple[str, str]] = set()
    for place, outputs in one.outputs.items():
        others = other.outputs.get(place, [])
        if len(others) != len(outputs):
            fields.add((place, ""))
        else:
            for name in _names(outputs + others):
                came, _ = _changed([row.get(name) for row in outputs], [row.get(name) for row in others])
                fields |= {(place, name)} if came else set()
    return frozenset(fields)


def shown_fields(fields: frozenset[tuple[str, str]]) -> str:
    """Return fields of outputs as a text."""
    return listed(sorted(f"{place}.{name}" if name else f"all of {place}" for place, name in fields))


def _names(outputs: Sequence[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(name for row in outputs for name in row))


def _changed(before: Sequence[Any], after: Sequence[Any]) -> tuple[list[Any], list[Any]]:
    """Return the first value that is only in ``after`` and the first only in ``before``, in any order."""
    ones, others = (
        Counter(json.dumps(each, sort_keys=True) for each in values) for values in (before, after)
    )
    return [json.loads(each) for each in others - ones][:1], [json.loads(each) for each in ones - others][:1]


def _shown(values: list[Any]) -> str:
    return shortened(repr(values[0]), MAX_SHOWN)
