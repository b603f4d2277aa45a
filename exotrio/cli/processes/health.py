"""The health port of several processes: it sums up what they report.

It reports "not alive" if one process is not alive, since that one does not recover by itself; a process that
is being replaced does not count. It reports "ready" if one process is ready, since then work is begun; a
metric says how many are ready.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING

import trio

from exotrio.cli.processes.child import A, Child, Report, Tasks

if TYPE_CHECKING:
    from prometheus_client.core import Metric


class ProcessesHealth:
    """The ``Source`` of the port.

    Args:
        count: How many processes there should be.
        children: Those that run, by their numbers; it changes as they come and go.

    Attributes:
        restarts: Number of processes that died and were, or will be, replaced.
    """

    def __init__(self, count: int, children: Mapping[int, Child]) -> None:
        self._count = count
        self._children = children
        self._totals = Totals()
        self.restarts = 0

    def retire(self, child: Child) -> None:
        """Keep the counters of a process that has ended."""
        if (report := child.answers.get(Report)) is not None:
            self._totals.retire(report.metrics)

    async def alive(self) -> str:
        problems = []
        for child, report in (await self._ask(Report)).items():
            if report is None and child.loaded is not None:
                problems.append(f"{child} does not answer")
            elif report is not None and report.alive:
                problems.append(f"{child}: {report.alive}")
        return "; ".join(problems)

    async def ready(self) -> str:
        reports = await self._ask(Report)
        if any(map(_is_ready, reports.values())):
            return ""
        problems = [
            f"{child}: {report.ready if report else 'it does not answer'}"
            for child, report in reports.items()
        ]
        return "; ".join(problems) or "no process runs"

    async def metrics(self) -> tuple[bytes, str]:
        # Here, since workers without a health port do not need this.
        from prometheus_client import CollectorRegistry, generate_latest
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
        from prometheus_client.registry import Collector

        # Here, since it imports the runtime: without it the parent is small.
        from exotrio.monitoring import CONTENT_TYPE

        ready = sum(map(_is_ready, (await self._ask(Report)).values()))

        class Sums(Collector):
            def collect(_) -> Iterator[Metric]:
                yield GaugeMetricFamily("exotrio_processes", "Processes there should be.", self._count)
                yield GaugeMetricFamily("exotrio_processes_ready", "Processes that begin work.", ready)
                died = "Processes that died and were replaced."
                yield CounterMetricFamily("exotrio_process_restarts", died, self.restarts)
                # The last report of a process that did not answer counts: a counter must never decrease.
                reports = [child.answers.get(Report) for child in self._children.values()]
                yield from self._totals.metrics(report.metrics for report in reports if report is not None)

        registry = CollectorRegistry()
        registry.register(Sums())
        return generate_latest(registry), CONTENT_TYPE

    async def tasks(self) -> str:
        return "\n".join(
            f"{child}\n{'it does not answer' if tasks is None else tasks.text}"
            for child, tasks in (await self._ask(Tasks)).items()
        )

    async def _ask(self, kind: type[A]) -> dict[Child, A | None]:
        """Ask all at the same time; return the answers in the order of the process numbers."""
        answers: dict[Child, A | None] = {}

        async def ask_one(child: Child) -> None:
            answers[child] = await child.ask(kind)

        async with trio.open_nursery() as nursery:
            for child in self._children.values():
                nursery.start_soon(ask_one, child)
        return dict(sorted(answers.items(), key=lambda item: item[0].number))


def _is_ready(report: Report | None) -> bool:
    return report is not None and not report.ready


# -- the sums of metrics

CUMULATIVE = frozenset({"counter", "histogram"})
"""Types that stay in the sum when their process has ended: otherwise the sum would decrease."""
MAXIMA = frozenset({"exotrio_loop_lag_seconds"})
"""Gauges whose maximum is shown, since their sum means nothing."""


class Totals:
    """The metrics of all processes, including those that ended."""

    def __init__(self) -> None:
        self._ended: Sequence[Metric] = ()

    def retire(self, metrics: Iterable[Metric]) -> None:
        """Keep the last values of a process that has ended, if they are cumulative."""
        self._ended = _added([self._ended, [metric for metric in metrics if metric.type in CUMULATIVE]])

    def metrics(self, running: Iterable[Iterable[Metric]]) -> Sequence[Metric]:
        """Return the sums, with the values of the processes that run."""
        return _added([self._ended, *running])


def _added(of_processes: Iterable[Iterable[Metric]]) -> Sequence[Metric]:
    from prometheus_client.core import Metric  # here, since workers without a health port do not need this

    totals: dict[str, Metric] = {}
    values: dict[str, dict[tuple[str, tuple[tuple[str, str], ...]], float]] = {}
    for metric in chain.from_iterable(of_processes):
        totals[metric.name] = Metric(metric.name, metric.documentation, metric.type)
        sums = values.setdefault(metric.name, {})
        for sample in metric.samples:
            key = sample.name, tuple(sample.labels.items())
            sums[key] = _sum(metric, sample.name, sums[key], sample.value) if key in sums else sample.value
    for name, total in totals.items():
        for (sample_name, labels), value in values[name].items():
            total.add_sample(sample_name, dict(labels), value)
    return list(totals.values())


def _sum(metric: Metric, sample: str, one: float, other: float) -> float:
    if metric.type in CUMULATIVE and sample.endswith("_created"):
        return min(one, other)
    # The value of an "info" is always 1.
    return max(one, other) if metric.type == "info" or metric.name in MAXIMA else one + other
