"""The overview of a namespace: now, and over the last hour, day or week."""

from __future__ import annotations

from collections.abc import Collection

from exotrio.manager.queries.graphs import last_failures
from exotrio.manager.queries.limits import list_limits
from exotrio.manager.queries.load import (
    HOUR,
    Held,
    backlog,
    count_held,
    failing,
    fails_since,
    graphs_of,
    nodes_of,
    performance,
)
from exotrio.manager.queries.overview import current
from exotrio.manager.queries.runs import read_run, unfinished_first
from exotrio.manager.queries.runtimes import live_v0_runtimes, unserved
from exotrio.manager.queries.trends import trend
from exotrio.manager.store.clock import DAY_MS
from exotrio.manager.store.view import View
from exotrio.manager.web.page import Data, Fragment, Page, PageRequest
from exotrio.manager.web.pages.trends import TREND, show_trend, span_of

RUNS_SHOWN = 12


def load(view: View, request: PageRequest, parts: Collection[str]) -> dict[str, Data]:
    nodes = nodes_of(view, request.namespace)
    data: dict[str, Data] = {"page": {"title": "Overview", **span_of(request)}}
    if {"now", "runtimes"}.intersection(parts):
        held = count_held(view, request.namespace)
        if "now" in parts:
            data["now"] = _now(view, request, nodes, held)
        if "runtimes" in parts:
            data["runtimes"] = {
                "workers": request.runtimes(view, held),
                "anonymous": len(live_v0_runtimes(view, request.namespace)),
            }
    if "trend" in parts:
        span = span_of(request)["span"]
        runs = trend(view, span, graphs=graphs_of(view, request.namespace), runs=True)
        data["trend"] = show_trend(trend(view, span, nodes=nodes), runs=runs)
    if "failing" in parts:
        data["failing"] = {"nodes": _failing(view, nodes)}
    if "runs" in parts:
        shown = [read_run(row) for row in unfinished_first(view, request.namespace, RUNS_SHOWN)]
        data["runs"] = {"runs": shown, "of_graph": None, "searched": None}
    return data


def _now(view: View, request: PageRequest, nodes: dict[int, str], held: Held) -> Data:
    backlogs = backlog(view, namespace=request.namespace, held=held)
    present = current(view, nodes, backlogs)
    offers = request.offers(view)
    limits = list_limits(view, request.namespace) if any(each.limited for each in backlogs) else []
    return {
        "current": present,
        "for_limits": sum(limit.waiting for limit in limits),
        "unserved": [
            each.name for each in backlogs if (each.eligible or each.limited) and unserved(view, each, offers)
        ],
        "paused": [each for each in backlogs if each.paused_at is not None],
    }


def _failing(view: View, nodes: dict[int, str]) -> list[Data]:
    """Return first the nodes with failed states (as ``current`` counts them), most failures first; then those
    whose failed attempts were all retried."""
    rows = []
    since = view.now_ms - DAY_MS
    unretried = failing(view, nodes, since)
    for node_id, name in nodes.items():
        recent, failed = performance(view, node_id, HOUR), unretried.get(node_id, 0)
        if recent.failed or failed:
            rows.append(
                {
                    "name": name,
                    "failed": failed,
                    "first": fails_since(view, node_id, since) if failed else None,
                    "last": next(iter(last_failures(view, node_id, 1)), None) if failed else None,
                    "attempts": recent.failed,
                    "ended": recent.ended,
                }
            )
    return sorted(rows, key=lambda node: (-node["failed"], -node["attempts"]))


PAGE = Page(
    path="/ns/{namespace}",
    folder="overview",
    fragments={
        "now": Fragment(pace=0.5),
        "trend": TREND,
        "failing": Fragment(ages=60, pace=2.0),
        "runtimes": Fragment(pace=1.0),
        "runs": Fragment(pace=0.5),
    },
    load=load,
)
