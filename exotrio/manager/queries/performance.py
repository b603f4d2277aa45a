"""How often a node failed of late, and how long it took."""

from __future__ import annotations

from collections import Counter
from typing import Any

from exotrio.manager.engine import tallies
from exotrio.manager.engine.states import ERRORED, NEXT_CREATED_ERROR, RETRY_CREATED
from exotrio.manager.store.port import View

HOUR, DAY = 60, 24 * 60
"""In minutes."""
FAILURES = (ERRORED, NEXT_CREATED_ERROR, RETRY_CREATED)
"""How attempts end that went wrong; a retried one did too."""


def failures(statuses: Counter[str]) -> int:
    """Return how many of these went wrong."""
    return sum(statuses[status] for status in FAILURES)


def performance(view: View, node_id: int, minutes: int) -> dict[str, Any]:
    """Return how many states of a node ended of late, how many of them failed, and how long they took."""
    statuses, buckets = tallies.of_node(view, node_id, minutes)
    return {
        "ended": statuses.total(),
        "failed": failures(statuses),
        "p50": tallies.quantile(buckets, 0.5),
        "p95": tallies.quantile(buckets, 0.95),
        "p99": tallies.quantile(buckets, 0.99),
    }
