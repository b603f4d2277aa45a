"""What a rehearsal found: its trials added up, for people and for programs. Pure."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from exotrio._util.words import listed, plural
from exotrio.cli.rehearsal.trial import Fault, Result, Trial, shown_fields
from exotrio.cli.terminal.output import table


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The result of a rehearsal.

    Attributes:
        usual: The run without a fault.
        unsteady: Fields of outputs that were not compared.
        trials: By number.
        bound: Seconds that a process may take to end after SIGTERM.
        replay: The command that makes one trial again; its number has to be added.
    """

    graph: str
    seed: int
    usual: Result
    unsteady: frozenset[tuple[str, str]]
    trials: Sequence[Trial]
    bound: float
    replay: str

    @property
    def broken(self) -> list[Trial]:
        """The trials in which something broke."""
        return [trial for trial in self.trials if trial.problems]

    def lines(self) -> Iterator[str]:
        """Yield the report for people."""
        yield from table(
            ("signal", "runs", "as undisturbed", "exit", "cut", "repeated"), map(self._row, self._faults())
        )
        if ran_again := self._ran_again():
            again = [f"{node} {'once' if n == 1 else f'{n} times'}" for node, n in ran_again.most_common()]
            yield f"ran again after a fault: {listed(again)}"
        if self.unsteady:
            yield f"not compared, since they differ from run to run anyway: {shown_fields(self.unsteady)}"
        if not self.broken:
            runs = "the run" if len(self.trials) == 1 else f"all {len(self.trials)} runs"
            yield f"{runs} ended as without a fault"
            return
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

    def body(self) -> dict[str, Any]:
        """Return the report for programs."""
        return {
            "graph": self.graph,
            "seed": self.seed,
            "seconds": round(self.usual.seconds, 3),
            "max_exit_seconds": self.bound,
            "not_compared": sorted(f"{place}.{name}" for place, name in self.unsteady),
            "trials": [
                {
                    "number": trial.plan.number,
                    "signal": trial.plan.fault.value,
                    "at": round(trial.at, 3),
                    "exit_seconds": None if trial.exit_seconds is None else round(trial.exit_seconds, 3),
                    "cut": trial.cut,
                    "states_repeated": trial.repeated,
                    "seconds_repeated": round(trial.seconds_repeated, 3),
                    "ran_again": dict(trial.ran_again),
                    "problems": trial.problems,
                }
                for trial in self.trials
            ],
        }

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
            str(sum(each.cut for each in trials)),
            f"{plural(states, 'state')}, {seconds:.1f} s" if states else "-",
        )

    def _ran_again(self) -> Counter[str]:
        return sum((trial.ran_again for trial in self.trials), Counter())
