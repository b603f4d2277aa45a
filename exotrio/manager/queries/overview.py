"""What happens in a namespace: what waits and runs now, and what ended within the last hour."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from exotrio._util.times import from_unix_ms
from exotrio._wire.overview import MAX_RUNTIMES, NodeLoad, OldestState, Overview, RuntimeInfo, Throughput
from exotrio.manager.queries.load import (
    HOUR,
    MAX_COUNTED,
    Backlog,
    backlog,
    count_held,
    failing,
    nodes_of,
    performance,
)
from exotrio.manager.queries.runs import newest_runs
from exotrio.manager.queries.runtimes import live_v0_runtimes, offered, runtimes_of
from exotrio.manager.queries.trends import trend
from exotrio.manager.store.view import View

DAY_MS = 86_400_000


def current(view: View, node_ids: Iterable[int], backlogs: Sequence[Backlog]) -> dict[str, Any]:
    """Return how many states of these nodes wait, run and failed.

    The keys are those of ``Overview``.
    """
    oldest = max((each for each in backlogs if each.eligible), key=lambda each: each.oldest, default=None)
    return {
        "running": sum(each.held for each in backlogs),
        "waiting": sum(each.waiting for each in backlogs),
        "waiting_is_more": any(each.waiting == MAX_COUNTED for each in backlogs),
        "oldest": oldest and OldestState(node=oldest.node, waits_ms=round(oldest.oldest * 1000)),
        "errored": sum(row["failed"] for row in failing(view, node_ids, view.now_ms - DAY_MS).values()),
    }


def show_overview(view: View, namespace: str, now: int, runs: int) -> Overview:
    """Return what happens in a namespace, with its newest runs; ``now`` is in ms on the clock of leases."""
    node_ids = nodes_of(view, namespace)
    held = count_held(view, namespace)
    backlogs = {each.node: each for each in backlog(view, namespace=namespace, held=held)}
    hour = trend(view, "1h", nodes=node_ids)
    offers = offered(view, namespace, now)
    runtimes = list[RuntimeInfo](runtimes_of(view, namespace, now, held.by_worker))
    return Overview(
        namespace=namespace,
        at=from_unix_ms(view.now_ms),
        **current(view, node_ids, list(backlogs.values())),
        throughput=Throughput(
            first_minute=hour.first_ms // hour.width_ms, ended=hour.ended, failed=hour.failed
        ),
        nodes=[
            _node(view, node_id, backlogs[name], offers.get(name, [])) for node_id, name in node_ids.items()
        ],
        runtimes=runtimes[:MAX_RUNTIMES],
        runtime_count=len(runtimes),
        v0_runtimes=len(live_v0_runtimes(view, namespace, now)),
        runs=newest_runs(view, namespace, runs),
    )


def _node(view: View, node_id: int, backlog: Backlog, offered_by: list[str]) -> NodeLoad:
    recent = performance(view, node_id, HOUR)
    return NodeLoad(
        name=backlog.node,
        waiting=backlog.waiting,
        eligible=backlog.eligible,
        oldest_ms=round(backlog.oldest * 1000),
        running=backlog.held,
        ended=recent["ended"],
        failed=recent["failed"],
        p50_ms=recent["p50"],
        p95_ms=recent["p95"],
        offered_by=offered_by,
        paused_at=from_unix_ms(backlog.paused_at),
    )
