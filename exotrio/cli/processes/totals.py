"""Adds the metrics of several processes up. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from prometheus_client.core import CollectorRegistry, Metric

Sample: TypeAlias = tuple[str, dict[str, str], float]
"""Name, labels, value."""
Family: TypeAlias = tuple[str, str, str, Sequence[Sample]]
"""Name, explanation, type, samples."""
Families: TypeAlias = Sequence[Family]
"""The metrics of one process, as JSON can hold them."""

CUMULATIVE = frozenset({"counter", "histogram"})
"""Types that stay in the sum when their process has ended: otherwise the sum would decrease."""
MAXIMA = frozenset({"exotrio_loop_lag_seconds"})
"""Gauges of which the maximum is shown, since their sum means nothing."""


def families_of(registry: CollectorRegistry) -> Families:
    """Return the current values of a registry."""
    return [
        (
            family.name,
            family.documentation,
            family.type,
            [(sample.name, sample.labels, sample.value) for sample in family.samples],
        )
        for family in registry.collect()
    ]


class Totals:
    """The metrics of all processes, including those that ended."""

    def __init__(self) -> None:
        self._ended: Families = []

    def retire(self, families: Families) -> None:
        """Keep the last values of a process that has ended, if they are cumulative."""
        lasting = [family for family in families if family[2] in CUMULATIVE]
        self._ended = _united([self._ended, lasting])

    def metrics(self, running: Iterable[Families]) -> list[Metric]:
        """Return the sums, with the values of the processes that run."""
        from prometheus_client.core import Metric

        metrics = []
        for name, text, kind, samples in _united([self._ended, *running]):
            metric = Metric(name, text, kind)
            for sample in samples:
                metric.add_sample(*sample)
            metrics.append(metric)
        return metrics


def _united(all_families: Iterable[Families]) -> Families:
    heads: dict[str, tuple[str, str]] = {}
    values: dict[str, dict[tuple[str, tuple[tuple[str, str], ...]], float]] = {}
    for name, text, kind, samples in (family for families in all_families for family in families):
        heads[name] = text, kind
        sums = values.setdefault(name, {})
        for sample, labels, value in samples:
            key = sample, tuple(labels.items())
            sums[key] = _sum(name, kind, sample, sums[key], value) if key in sums else value
    return [
        (name, *heads[name], [(sample, dict(labels), value) for (sample, labels), value in sums.items()])
        for name, sums in values.items()
    ]


def _sum(name: str, kind: str, sample: str, one: float, other: float) -> float:
    if kind in CUMULATIVE and sample.endswith("_created"):
        return min(one, other)
    # The value of an "info" is always 1.
    return max(one, other) if kind == "info" or name in MAXIMA else one + other
