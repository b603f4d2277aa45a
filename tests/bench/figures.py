"""What is measured: samples, gathered over several rounds into a table or JSON."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path


@dataclass(frozen=True)
class Sample:
    """One measurement.

    Attributes:
        name: What was measured, and where.
        value: The result.
        unit: Of the value.
        min_goal, max_goal: What is to be reached, or None.
        limit: Name of the sample that says what the machine allows, taken in the same round.
    """

    name: str
    value: float
    unit: str
    min_goal: float | None = None
    max_goal: float | None = None
    limit: str | None = None


@dataclass(frozen=True)
class Plan:
    """How much to measure. The defaults take some minutes.

    Attributes:
        folder: For databases; every use takes a separate folder in it.
        runs: Rounds, and measurements in each of those cases that take all at once.
        states: Size of the fan-outs for throughput.
        triggers: Runs for one latency percentile.
        rate: Triggers per second under load.
        fans: Sizes of the fan-outs that grow; the last is compared with the first.
        histories: Finished or ready states next to which claims are timed, the first for comparison.
        claims: Claims and batches of outcomes timed next to each of them.
        stored: One-node runs that are stored and not run.
        live_runs: One-node runs that are triggered while they run.
        seconds: How long idle CPU is counted.
        poll_interval: Of runtimes on v0. The default is the runtime's.
        stock_runs: One-node runs through the stock SDK.
        stops: Workers that are stopped.
        work_seconds: How long each of them has to work.
        sdk_python: Python of an environment with ``exospherehost``, or None.
        peers: Whether ``stop`` measures other systems, too.
    """

    folder: Path
    runs: int = 3
    states: int = 3_000
    triggers: int = 200
    rate: float = 100.0
    fans: tuple[int, ...] = (1_000, 10_000, 50_000)
    histories: tuple[int, ...] = (1_000, 1_000_000)
    claims: int = 150
    stored: int = 10_000
    live_runs: int = 500
    seconds: float = 10.0
    poll_interval: float = 1.0
    stock_runs: int = 500
    stops: int = 10
    work_seconds: float = 60.0
    sdk_python: str | None = None
    peers: bool = False


@dataclass(frozen=True)
class Figure:
    """All samples of one name."""

    samples: tuple[Sample, ...]
    limits: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(sample.value for sample in self.samples)

    @property
    def range(self) -> tuple[float, float]:
        values = [sample.value for sample in self.samples]
        return min(values), max(values)

    @property
    def of_limit(self) -> float | None:
        """The share of the limit that is reached, in the median of the rounds."""
        pairs = zip(self.samples, self.limits, strict=False)
        return statistics.median([sample.value / limit for sample, limit in pairs]) if self.limits else None

    @property
    def goal(self) -> str:
        first = self.samples[0]
        if first.min_goal is not None:
            return f"{first.min_goal:,g} or more: {'reached' if self.median >= first.min_goal else 'MISSED'}"
        if first.max_goal is not None:
            return f"{first.max_goal:,g} or less: {'reached' if self.median <= first.max_goal else 'MISSED'}"
        return ""

    def cells(self) -> list[str]:
        low, high = self.range
        share = "" if self.of_limit is None else f"{self.of_limit:.0%} of: {self.samples[0].limit}"
        values = f"{_short(low)} to {_short(high)}"
        return [self.samples[0].name, _short(self.median), self.samples[0].unit, values, self.goal, share]

    def as_json(self) -> dict[str, object]:
        first = self.samples[0]
        return {
            "name": first.name,
            "unit": first.unit,
            "median": self.median,
            "values": [sample.value for sample in self.samples],
            "min_goal": first.min_goal,
            "max_goal": first.max_goal,
            "limit": first.limit,
            "of_limit": self.of_limit,
        }


@dataclass(frozen=True)
class Comparison:
    """One figure of two trees: a value of each and every round."""

    name: str
    unit: str
    before: tuple[float, ...]
    now: tuple[float, ...]

    @property
    def ratios(self) -> list[float]:
        return [new / old for old, new in zip(self.before, self.now, strict=True) if old]

    def cells(self) -> list[str]:
        cells = [
            self.name,
            *(_short(statistics.median(values)) for values in (self.before, self.now)),
            self.unit,
        ]
        if not self.ratios:
            return [*cells, "", ""]
        ratio, low, high = statistics.median(self.ratios), min(self.ratios), max(self.ratios)
        return [*cells, f"{ratio:.2f}", f"{low:.2f} to {high:.2f}"]


def gather(measured: Iterable[Sample]) -> list[Figure]:
    """Return one figure per name, in the order of their first samples."""
    named: dict[str, list[Sample]] = {}
    for sample in measured:
        named.setdefault(sample.name, []).append(sample)
    return [
        Figure(tuple(samples), tuple(limit.value for limit in named.get(samples[0].limit or "", [])))
        for samples in named.values()
    ]


def as_table(figures: Iterable[Figure]) -> str:
    heads = ["", "median", "", "range", "to reach", "share of its limit"]
    return _table(heads, [figure.cells() for figure in figures], right={1})


def comparison_table(comparisons: Iterable[Comparison], before: str = "before", now: str = "now") -> str:
    heads = ["", before, now, "", f"{now} over {before}", "range"]
    return _table(heads, [comparison.cells() for comparison in comparisons], right={1, 2, 4})


def _table(heads: list[str], body: list[list[str]], right: set[int]) -> str:
    rows = [heads, *body]
    widths = [max(len(row[column]) for row in rows) for column in range(len(heads))]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


def as_json(figures: Iterable[Figure]) -> str:
    return json.dumps([figure.as_json() for figure in figures], indent=2)


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:,.3g}"


def markdown_table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """Yield the lines of a table to be pasted into a page, each as soon as its row is there."""
    for row in chain([heads, ["---"] * len(heads)], rows):
        yield f"| {' | '.join(row)} |"
