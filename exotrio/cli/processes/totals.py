"""Adds up the metrics of several processes. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from prometheus_client.core import Metric

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
