"""How many states or runs ended and failed, and how long they took, over the last hour, day or week."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from exotrio.manager.queries.load import failures
from exotrio.manager.store import tallies
from exotrio.manager.store.view import View

SPANS = {"1h": (1, 60), "24h": (15, 96), "7d": (120, 84)}
"""Name to the width of a slot, in minutes, and how many slots there are."""
DEFAULT_SPAN = "1h"


@dataclass(frozen=True, kw_only=True)
class Trend:
    """The states or runs that ended in each slot of a span, the present slot last. Times are in ms.

    Attributes:
        first_ms: When the first slot began, in Unix time; each lasts ``width_ms``.
        waited: How long they had waited to be claimed; nothing for runs and for graphs.
    """

    first_ms: int
    width_ms: int
    ended: list[int]
    failed: list[int]
    took: Times
    waited: Times


@dataclass(frozen=True, kw_only=True)
class Times:
    """Some durations in each slot of a span, and in the whole span, in ms. None where there are none."""

    medians: list[float | None]
    slowest: list[float | None]
    median: float | None
    longest: float | None

    @staticmethod
    def of(slots: Sequence[Counter[int]]) -> Times:
        together = sum(slots, Counter[int]())
        return Times(
            medians=[tallies.quantile(buckets, 0.5) for buckets in slots],
            slowest=[tallies.quantile(buckets, 1.0) for buckets in slots],
            median=tallies.quantile(together, 0.5),
            longest=tallies.quantile(together, 1.0),
        )


def trend(
    view: View,
    span: str,
    *,
    nodes: Iterable[int] | None = None,
    graphs: Iterable[int] | None = None,
    runs: bool = False,
) -> Trend:
    """Return the trend of the states of nodes or of graphs, or of ``runs`` of graphs.

    A run counts once: one that is retried counts again when it has ended again, and then only there.
    """
    width, slots = SPANS[span]
    by_slot = tallies.in_slots(view, width, slots, nodes=nodes, graphs=graphs, runs=runs)
    each = list(by_slot.values())
    return Trend(
        first_ms=min(by_slot) * width * tallies.MINUTE_MS,
        width_ms=width * tallies.MINUTE_MS,
        ended=[counts.statuses.total() for counts in each],
        failed=[failures(counts.statuses) for counts in each],
        took=Times.of([counts.took for counts in each]),
        waited=Times.of([counts.waited for counts in each]),
    )
