"""The list of runs: filters, the progress of each run, and a form that changes several at once."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from exotrio.manager.queries.load import graphs_of
from exotrio.manager.queries.paging import Page as QueryPage
from exotrio.manager.queries.runs import STATUSES, FoundRun, find_runs
from exotrio.manager.queries.search import matches_in
from exotrio.manager.store.view import View
from exotrio.manager.web.page import MAX_TEXT, Data, Fragment, Page, PageRequest

SPANS = {"15m": 900_000, "1h": 3_600_000, "24h": 86_400_000, "7d": 604_800_000}


def filters_of(query: Mapping[str, str]) -> dict[str, str]:
    filters = {name: query.get(name, "") for name in ("graph", "status", "since", "parent", "text")}
    return {**filters, "text": filters["text"][:MAX_TEXT]}


def matching(
    view: View, request: PageRequest, filters: Mapping[str, str], before: str = ""
) -> QueryPage[FoundRun]:
    """Return one page of the runs that match the filters of a page."""
    span = SPANS.get(filters["since"])
    return find_runs(
        view,
        request.namespace,
        graph=filters["graph"],
        status=filters["status"],
        parent=filters["parent"],
        since_ms=view.now_ms - span if span else 0,
        text=filters["text"],
        before=before,
    )


def load(view: View, request: PageRequest, parts: Collection[str]) -> dict[str, Data]:
    filters = filters_of(request.query)
    data: dict[str, Data] = {
        "page": {
            "title": "Runs",
            "filters": filters,
            "graphs": list(graphs_of(view, request.namespace).values()),
            "statuses": STATUSES,
            "spans": tuple(SPANS),
        }
    }
    if "list" in parts:
        page = matching(view, request, filters, request.query.get("before", ""))
        data["list"] = {
            "runs": [hit.run for hit in page.rows],
            "matches": matches_in(view, page.rows, filters["text"]) if filters["text"] else {},
            "searched": page.searched,
            "next": page.next and request.link("runs", **filters, before=page.next),
            "back": request.link("runs", **filters) if request.query.get("before") else None,
            "filtered": any(filters.values()),
        }
    return data


PAGE = Page(
    path="/ns/{namespace}/runs",
    folder="runs",
    fragments={"list": Fragment(pace=0.5)},
    load=load,
    searches=("text",),
)
