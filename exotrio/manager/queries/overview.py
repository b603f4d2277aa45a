"""What happens in a namespace: what waits and runs now, and what ended within the last hour."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from exotrio._util.times import timestamp
from exotrio._wire.overview import MAX_RUNTIMES, OldestState, RuntimeInfo, RuntimeList
from exotrio.graph import WITHOUT_RUNTIME
from exotrio.manager.queries.limits import list_limits
from exotrio.manager.queries.load import (
    HOUR,
    MAX_COUNTED,
    Backlog,
    backlog,
    count_held,
    failing,
    graphs_of,
    nodes_of,
    performance,
)
from exotrio.manager.queries.runs import summarize_run, unfinished_first
from exotrio.manager.queries.runtimes import Offers, live_v0_runtimes, offered, runtimes_of, unserved
from exotrio.manager.queries.trends import Trend, trend
from exotrio.manager.queries.versions import list_versions, without_ended
from exotrio.manager.store.clock import DAY_MS
from exotrio.manager.store.view import View

COUNTS = ("waiting", "for_event", "running", "buffered", "reporting")
"""Counts of a ``Backlog``."""


def current(view: View, node_ids: Iterable[int], backlogs: Sequence[Backlog]) -> dict[str, Any]:
    """Return how many states of these nodes wait, run and failed.

    The keys are those of ``Overview``.
    """
    due = (each for each in backlogs if each.eligible)
    oldest = max(due, key=lambda each: each.oldest_due, default=None)
    return {
        **{name: sum(getattr(each, name) for each in backlogs) for name in COUNTS},
        "work_at_risk_ms": round(1000 * sum(each.work_at_risk or 0 for each in backlogs)),
        "work_at_risk_is_more": any(each.work_at_risk_is_more for each in backlogs),
        "waiting_is_more": any(each.waiting == MAX_COUNTED for each in backlogs),
        "oldest": oldest and OldestState(node=oldest.name, waits_ms=round(oldest.oldest_due * 1000)),
        "errored": sum(failing(view, node_ids, view.now_ms - DAY_MS).values()),
    }


def show_overview(view: View, namespace: str, runs: int) -> dict[str, Any]:
    """Return what happens in a namespace, with its newest runs, in the wire format of ``Overview``."""
    node_ids = nodes_of(view, namespace)
    held = count_held(view, namespace)
    backlogs = backlog(view, namespace=namespace, held=held)
    hour = trend(view, "1h", nodes=node_ids)
    hour_of_runs = trend(view, "1h", graphs=graphs_of(view, namespace), runs=True)
    offers = offered(view, namespace)
    runtimes = list[RuntimeInfo](runtimes_of(view, namespace, held))
    versions = _versions(view, namespace, node_ids.values())
    current_nodes = without_ended(backlogs, {(namespace, each["version"]) for each in versions})
    shown = RuntimeList(workers=runtimes[:MAX_RUNTIMES], v0=[])
    return {
        "namespace": namespace,
        "at": timestamp(view.now_ms),
        **current(view, node_ids, backlogs),
        "throughput": _throughput(hour),
        "run_throughput": _throughput(hour_of_runs),
        "nodes": [_node(view, each, offers) for each in current_nodes if each.name not in WITHOUT_RUNTIME],
        "runtimes": shown.model_dump(mode="json", by_alias=True)["workers"],
        "runtime_count": len(runtimes),
        "v0_runtimes": len(live_v0_runtimes(view, namespace)),
        "runs": [summarize_run(row) for row in unfinished_first(view, namespace, runs)],
        "limits": [limit.model_dump(mode="json") for limit in list_limits(view, namespace)],
        "versions": versions,
    }


def _versions(view: View, namespace: str, nodes: Iterable[str]) -> list[dict[str, Any]]:
    if not any("@" in node for node in nodes):
        return []  # no statement, if nothing has a version
    return [each.model_dump(mode="json") for each in list_versions(view, namespace)]


def _throughput(hour: Trend) -> dict[str, Any]:
    return {"first_minute": hour.first_ms // hour.width_ms, "ended": hour.ended, "failed": hour.failed}


def _node(view: View, backlog: Backlog, offers: Offers) -> dict[str, Any]:
    recent = performance(view, backlog.node_id, HOUR)
    return {
        **backlog.model_dump(mode="json", exclude={"node_id", "namespace"}),
        "ended": recent.ended,
        "failed": recent.failed,
        "unreported": recent.unreported,
        "waited_p95_ms": recent.waited[95],
        "buffered_p95_ms": recent.buffered[95],
        "p50_ms": recent.ran[50],
        "p95_ms": recent.ran[95],
        "offered_by": list(map(str, offers.get(backlog.name, ()))),
        "unserved": unserved(view, backlog, offers),
    }
