"""What a rehearsal found: its trials added up, for people and for programs. Pure."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from exotrio._util.words import listed, plural
from exotrio.cli.rehearsal.trial import Fault, Trial
from exotrio.cli.terminal.output import table
from exotrio.graph.breaking import BreakingChange
from exotrio.testing._comparison import Usual, Version, shown_fields


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The result of a rehearsal.

    Attributes:
        usual: How runs end without a fault.
        seconds: How long they take.
        changes: What the successor breaks; None without one.
        trials: By number.
        bound: Seconds that a process may take to end after SIGTERM.
        replay: The command that makes one trial again; its number has to be added.
    """

    graph: str
    seed: int
    usual: Usual
    seconds: float
    changes: Sequence[BreakingChange] | None
    trials: Sequence[Trial]
    bound: float
    replay: str

    @property
    def broken(self) -> list[Trial]:
        """The trials in which something broke."""
        return [trial for trial in self.trials if trial.problems]

    @property
    def failed(self) -> bool:
        """Whether something broke, or a change of the successor breaks every run."""
        return bool(self.broken) or any(change.certain for change in self.changes or ())

    def lines(self) -> Iterator[str]:
        if self.trials:
            headings = ("signal", "runs", "as undisturbed", "exit", "cut", "repeated")
            yield from table(headings, map(self._row, self._faults()))
        if cut := sum((trial.cut for trial in self.trials), Counter[str]()):
            yield f"cut: {_counted(cut)}"
        if ran_again := sum((trial.ran_again for trial in self.trials), Counter[str]()):
            yield f"ran again after a fault: {_counted(ran_again)}"
        if self.usual.unsteady:
            yield f"outputs that were not compared: {shown_fields(self.usual.unsteady)}"
        yield from self._lines_of_update()
        if self.broken:
            yield f"{plural(len(self.broken), 'run')} of {len(self.trials)} broke:"
            yield from table(
                ("number", "signal", "after", "what broke"),
                (
                    (str(trial.plan.number), trial.plan.fault, f"{trial.at:.2f} s", problem)
                    for trial in self.broken
                    for problem in trial.problems
                ),
            )
            yield "make one of them again with:"
            yield f"  {self.replay} --only {self.broken[0].plan.number}"
        elif self.trials:
            runs = "the run" if len(self.trials) == 1 else f"all {len(self.trials)} runs"
            yield f"{runs} ended as without a fault"

    def _lines_of_update(self) -> Iterator[str]:
        if self.usual.changed:
            yield f"outputs that the new code changes: {shown_fields(self.usual.changed)}"
            versions = Counter(trial.version for trial in self.trials)
            counts = [f"{versions[version]} {version.outputs}" for version in Version]
            yield f"runs that ended with outputs of the {listed(counts)}"
        if self.changes:
            yield "breaking changes:"
            yield from (f"  {change}" for change in self.changes)

    def body(self) -> dict[str, Any]:
        body: dict[str, Any] = {
            "graph": self.graph,
            "seed": self.seed,
            "seconds": round(self.seconds, 3),
            "max_exit_seconds": self.bound,
            "not_compared": sorted(".".join(each).rstrip(".") for each in self.usual.unsteady),
            "trials": [
                {
                    "number": trial.plan.number,
                    "signal": trial.plan.fault.value,
                    "at": round(trial.at, 3),
                    "exit_seconds": None if trial.exit_seconds is None else round(trial.exit_seconds, 3),
                    "cut": trial.cut.total(),
                    "cut_nodes": dict(trial.cut),
                    "states_repeated": trial.repeated,
                    "seconds_repeated": round(trial.seconds_repeated, 3),
                    "ran_again": dict(trial.ran_again),
                    "problems": trial.problems,
                    **({} if self.changes is None else {"version": trial.version}),
                }
                for trial in self.trials
            ],
        }
        if self.changes is not None:
            body["changed_outputs"] = sorted(".".join(each).rstrip(".") for each in self.usual.changed)
            body["breaking_changes"] = [asdict(change) for change in self.changes]
        return body

    def _faults(self) -> Iterator[tuple[Fault, list[Trial]]]:
        for fault in Fault:
            if trials := [trial for trial in self.trials if trial.plan.fault is fault]:
                yield fault, trials

    def _row(self, of_fault: tuple[Fault, list[Trial]]) -> tuple[str, ...]:
        fault, trials = of_fault
        exits = [trial.exit_seconds for trial in trials if trial.exit_seconds is not None]
        exit_seconds = "-"
        if exits:
            exit_seconds = f"{statistics.median(exits):.1f} s, at most {max(exits):.1f} of {self.bound:.1f} s"
        states, seconds = sum(each.repeated for each in trials), sum(each.seconds_repeated for each in trials)
        return (
            fault.value,
            str(len(trials)),
            str(sum(not each.problems for each in trials)),
            exit_seconds,
            str(sum(each.cut.total() for each in trials)),
            f"{plural(states, 'state')}, {seconds:.1f} s" if states else "-",
        )


def _counted(nodes: Counter[str]) -> str:
    return listed(f"{node} {'once' if n == 1 else f'{n} times'}" for node, n in nodes.most_common())
