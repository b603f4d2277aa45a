"""The list of runs: filters, the progress of each run, and a form that changes several at once."""

from __future__ import annotations

from collections.abc import Collection

from exotrio._wire.vocabulary import RunStatus
from exotrio.manager.queries.load import graphs_of
from exotrio.manager.queries.paging import Page as QueryPage
from exotrio.manager.queries.runs import FoundRun, find_runs
from exotrio.manager.queries.search import matches_in
from exotrio.manager.store.view import View
from exotrio.manager.web.page import MAX_TEXT, Data, Fragment, Page, PageRequest

STATUS_FILTERS = {
    "running": (RunStatus.PENDING, False),
    "failed": (RunStatus.FAILED, False),
    "success": (RunStatus.SUCCESS, False),
    "cancelled": (None, True),
}
"""The words for statuses (``format.run_word``), each with a status and whether the run was cancelled."""
SPANS = {"15m": 900_000, "1h": 3_600_000, "24h": 86_400_000, "7d": 604_800_000}


def load(view: View, request: PageRequest, parts: Collection[str]) -> dict[str, Data]:
    query = request.query
    graph, status, since = query.get("graph", ""), query.get("status", ""), query.get("since", "")
    text = query.get("text", "")[:MAX_TEXT]
    filters = {"graph": graph, "status": status, "since": since, "text": text}
    data: dict[str, Data] = {
        "page": {
            "title": "Runs",
            "filters": filters,
            "graphs": list(graphs_of(view, request.namespace).values()),
            "statuses": tuple(STATUS_FILTERS),
            "spans": tuple(SPANS),
        }
    }
    if "list" in parts:
        page: QueryPage[FoundRun] = QueryPage()
        if status in ("", *STATUS_FILTERS):  # no run has another one
            run_status, is_cancelled = STATUS_FILTERS.get(status, (None, None))
            page = find_runs(
                view,
                request.namespace,
                graph=graph,
                status=run_status,
                is_cancelled=is_cancelled,
                since_ms=view.now_ms - SPANS[since] if since in SPANS else 0,
                text=text,
                before=query.get("before", ""),
            )
        data["list"] = {
            "runs": [hit.run for hit in page.rows],
            "matches": matches_in(view, page.rows, text) if text else {},
            "searched": page.searched,
            "next": page.next and request.link("runs", **filters, before=page.next),
            "back": request.link("runs", **filters) if query.get("before") else None,
            "filtered": any(filters.values()),
        }
    return data


def versions(view: View, request: PageRequest) -> dict[str, object]:
    if request.query.get("text"):
        # A search costs too much to be repeated with every write.
        return {"list": None}
    return {"list": (request.service.store.written, view.now_ms // 5_000)}


PAGE = Page(
    path="/ns/{namespace}/runs",
    folder="runs",
    fragments={"list": Fragment(pace=0.5)},
    load=load,
    own_versions=versions,
)
