"""A namespace at a glance: what waits and runs now, and what happened within the last hour."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from exotrio._util.times import timestamp
from exotrio._wire.overview import MAX_RUNTIMES
from exotrio.manager.queries.load import (
    HOUR,
    MAX_COUNTED,
    Backlog,
    backlog,
    count_held,
    failing,
    failures,
    nodes_of,
    performance,
)
from exotrio.manager.queries.runs import newest_runs
from exotrio.manager.queries.workers import list_workers, live_v0_runtimes, offered
from exotrio.manager.store import tallies
from exotrio.manager.store.view import View

DAY_MS = 86_400_000


def current(view: View, node_ids: Iterable[int], backlogs: Sequence[Backlog]) -> dict[str, Any]:
    """Return how much waits, runs and failed of these nodes.

    ``waiting_is_more`` says that not all were counted. ``oldest`` is the backlog whose first claimable state
    is due longest. ``errored`` counts states that failed within 24 h and were not retried.
    """
    return {
        "running": sum(each.held for each in backlogs),
        "waiting": sum(each.waiting for each in backlogs),
        "waiting_is_more": any(each.waiting == MAX_COUNTED for each in backlogs),
        "oldest": max(
            (each for each in backlogs if each.eligible), key=lambda each: each.oldest, default=None
        ),
        "errored": sum(row["failed"] for row in failing(view, node_ids, view.now_ms - DAY_MS).values()),
    }


def last_hour(view: View, node_ids: Iterable[int]) -> dict[str, Any]:
    """Return how many attempts ended in each minute, the present one last, and how many of them failed.

    ``first_minute`` is in minutes of Unix time.
    """
    minutes = tallies.in_slots(view, 1, HOUR, nodes=node_ids)
    each = [statuses for statuses, _ in minutes.values()]
    return {
        "first_minute": min(minutes),
        "ended": [one.total() for one in each],
        "failed": [failures(one) for one in each],
    }


def show_overview(view: View, namespace: str, now: int, runs: int) -> dict[str, Any]:
    """Return the overview of a namespace, as ``Overview``, with its newest ``runs``.

    ``now`` is in ms on the clock of leases.
    """
    node_ids = nodes_of(view, namespace)
    held = count_held(view, namespace)
    backlogs = {each.node: each for each in backlog(view, namespace=namespace, held=held)}
    present = current(view, node_ids, list(backlogs.values()))
    oldest: Backlog | None = present.pop("oldest")
    offers = offered(view, namespace, now)
    runtimes = list_workers(view, namespace, now, held).workers
    return {
        "namespace": namespace,
        "at": timestamp(view.now_ms),
        **present,
        "oldest": oldest and {"node": oldest.node, "waits_ms": round(oldest.oldest * 1000)},
        "throughput": last_hour(view, node_ids),
        "nodes": [
            _node(view, node_id, backlogs[name], offers.get(name, [])) for node_id, name in node_ids.items()
        ],
        "runtimes": runtimes[:MAX_RUNTIMES],
        "runtime_count": len(runtimes),
        "v0_runtimes": len(live_v0_runtimes(view, namespace, now)),
        "runs": newest_runs(view, namespace, runs),
    }


def _node(view: View, node_id: int, waits: Backlog, offered_by: list[str]) -> dict[str, Any]:
    recent = performance(view, node_id, HOUR)
    return {
        "name": waits.node,
        "waiting": waits.waiting,
        "eligible": waits.eligible,
        "oldest_ms": round(waits.oldest * 1000),
        "running": waits.held,
        "ended": recent["ended"],
        "failed": recent["failed"],
        "p50_ms": recent["p50"],
        "p95_ms": recent["p95"],
        "offered_by": offered_by,
        "paused_at": None if waits.paused_at is None else timestamp(waits.paused_at),
    }
