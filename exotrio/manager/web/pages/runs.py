"""The list of runs: filters in the address, progress of each, and what can be done to several at once."""

from __future__ import annotations

from collections.abc import Collection, Hashable
from datetime import UTC, datetime

from exotrio._util.times import moment_ms
from exotrio.manager.queries.runs import RUN_STATUSES, search
from exotrio.manager.store.port import View
from exotrio.manager.web.page import Asked, Data, Page

SPANS = {"15m": 900_000, "1h": 3_600_000, "24h": 86_400_000, "7d": 604_800_000}
LONGEST_TEXT = 200


def load(view: View, asked: Asked, wanted: Collection[str]) -> dict[str, Data]:
    query = asked.query
    graph, status, since = query.get("graph", ""), query.get("status", ""), query.get("since", "")
    text = query.get("text", "")[:LONGEST_TEXT]
    filters = {"graph": graph, "status": status, "since": since, "text": text}
    data: dict[str, Data] = {
        "page": {"title": "Runs", "now": view.now_ms, "filters": filters},
    }
    graphs = view.execute("SELECT name FROM graphs WHERE namespace = ? ORDER BY name", (asked.namespace,))
    data["page"]["graphs"] = [row["name"] for row in graphs]
    data["page"]["statuses"] = RUN_STATUSES
    data["page"]["spans"] = tuple(SPANS)
    if "list" in wanted:
        found = search(
            view,
            asked.namespace,
            graph=graph,
            status=status,
            since_ms=_since_ms(since, view.now_ms),
            text=text,
            before=query.get("before", ""),
        )
        data["list"] = {
            "runs": found.runs,
            "looked_at": found.looked_at,
            "next": found.next and asked.link("runs", **filters, before=found.next),
            "back": asked.link("runs", **filters) if query.get("before") else None,
            "filtered": any(filters.values()),
        }
    return data


def _since_ms(text: str, now_ms: int) -> int | None:
    """Return the time that a span or a date names, None if it names none."""
    if text in SPANS:
        return now_ms - SPANS[text]
    try:
        moment = datetime.fromisoformat(text)
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        return max(0, moment_ms(moment))
    except (ValueError, OverflowError):
        return None


def versions(view: View, asked: Asked) -> dict[str, Hashable]:
    if asked.query.get("text"):
        # A search costs too much to be repeated with every write.
        return {"list": None}
    return {"list": (asked.service.store.written, view.now_ms // 5_000)}


PAGE = Page(
    path="/ns/{namespace}/runs",
    folder="runs",
    fragments=("list",),
    load=load,
    versions=versions,
    pace={"list": 0.5},
)
