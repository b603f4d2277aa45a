"""The registered nodes: who offers them, how long they take, how often they fail."""

from __future__ import annotations

from collections.abc import Collection, Hashable

from exotrio.manager import _tally
from exotrio.manager._backlog import backlog
from exotrio.manager._states import ERRORED, NEXT_CREATED_ERROR, RETRY_CREATED
from exotrio.manager._transaction import View
from exotrio.manager.web._page import Asked, Data, Page
from exotrio.manager.web._workers_shown import offered

HOUR, DAY = 60, 24 * 60
FAILURES = (ERRORED, NEXT_CREATED_ERROR, RETRY_CREATED)
"""How attempts end that went wrong; a retried one did too."""


def load(view: View, asked: Asked, wanted: Collection[str]) -> dict[str, Data]:
    data: dict[str, Data] = {"page": {"title": "Nodes", "now": view.now_ms}}
    if "list" in wanted:
        backlogs = {each.node: each for each in backlog(view, namespace=asked.namespace)}
        offers = offered(asked)
        rows = view.execute(
            "SELECT id, name FROM nodes WHERE namespace = ? ORDER BY name", (asked.namespace,)
        ).fetchall()
        data["list"] = {
            "nodes": [
                {
                    "name": row["name"],
                    "offered": offers.get(row["name"], ()),
                    "backlog": backlogs[row["name"]],
                    **performance(view, row["id"], HOUR),
                }
                for row in rows
            ]
        }
    return data


def performance(view: View, kind: int, minutes: int) -> Data:
    """Return how many states of a node ended of late, how many of them failed, and how long they took."""
    statuses, buckets = _tally.of_kind(view, kind, minutes)
    return {
        "ended": statuses.total(),
        "failed": sum(statuses[status] for status in FAILURES),
        "p50": _tally.quantile(buckets, 0.5),
        "p95": _tally.quantile(buckets, 0.95),
        "p99": _tally.quantile(buckets, 0.99),
    }


def versions(view: View, asked: Asked) -> dict[str, Hashable]:
    service = asked.service
    return {"list": (service.store.written, service.workers.heard, view.now_ms // 5_000)}


PAGE = Page(
    path="/ns/{namespace}/nodes",
    folder="nodes",
    fragments=("list",),
    load=load,
    versions=versions,
    pace={"list": 2.0},
)
