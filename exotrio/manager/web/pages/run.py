"""One run: its graph, its timeline, its states, its store and what happened to it."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Mapping

from exotrio.manager.engine.states import CREATED
from exotrio.manager.queries.run_detail import (
    MOST_SPANS,
    boxes_of,
    counts_of,
    events_of,
    find_run,
    list_states,
    spans_of,
    statuses_named,
    store_of,
)
from exotrio.manager.queries.runs import run_row
from exotrio.manager.queries.workers import offered, progress_of
from exotrio.manager.rules.errors import not_found
from exotrio.manager.rules.template import Place, Template
from exotrio.manager.store.driver import Row
from exotrio.manager.store.port import View
from exotrio.manager.web.format import CLASSES, classed
from exotrio.manager.web.page import Asked, Data, Page
from exotrio.manager.web.svg.graph import draw_graph
from exotrio.manager.web.svg.timeline import draw_timeline


def load(view: View, asked: Asked, wanted: Collection[str]) -> dict[str, Data]:
    run_id = asked.params["run_id"]
    run = find_run(view, asked.namespace, run_id)
    if run is None:
        raise not_found(f"There is no run {run_id!r} in namespace {asked.namespace!r}.")
    template = view.template(run["template"])
    counts = counts_of(view, run["id"])
    row = run_row(run, view.now_ms)
    data: dict[str, Data] = {
        "page": {
            "title": f"Run {run_id[:8]}",
            "now": view.now_ms,
            "run": row,
            "store": store_of(view, run, template),
        },
    }
    if "summary" in wanted:
        data["summary"] = {}
    node, status = asked.query.get("node", ""), asked.query.get("status", "")
    if "graph" in wanted:
        lacking = _not_offered(asked, template)

        def href(place: Place) -> str:
            # A second click on what is chosen shows all again.
            chosen = None if place.identifier == node else place.identifier
            return asked.link("runs", run_id, node=chosen) + "#states"

        def note(place: Place) -> str | None:
            waits = CREATED in counts.get(place.index, {})
            return "no runtime offers this" if waits and place.index in lacking else None

        boxes = boxes_of(template, counts, run, href, note, chosen=node)
        data["graph"] = {"picture": draw_graph(boxes, title=f"Graph {run['graph_name']}")}
    if "timeline" in wanted:
        before, _, after = asked.link("states", "\0").partition("%00")
        spans = spans_of(view, run, template, {"before": before, "after": after})
        lanes = [(place.identifier, sum(counts.get(place.index, {}).values())) for place in template.places]
        drawn = draw_timeline(lanes, spans.spans, until=spans.until, each=spans.each)
        data["timeline"] = {"picture": drawn, "each": spans.each, "many": len(spans.spans) > 500}
    if "states" in wanted:
        data["states"] = _states(view, asked, run, template, counts, node, status)
    if "events" in wanted:
        events, more = events_of(view, run, template)
        data["events"] = {"events": events, "more": more}
    return data


def _not_offered(asked: Asked, template: Template) -> frozenset[int]:
    """Return the places whose node no live runtime asks for. Of other namespaces nobody knows here."""
    offers = offered(asked.workers, asked.anonymous, asked.monotonic)
    return frozenset(
        place.index
        for place in template.places
        if place.namespace == asked.namespace and place.node_name not in offers
    )


def _states(
    view: View,
    asked: Asked,
    run: Row,
    template: Template,
    counts: Mapping[int, Mapping[str, int]],
    node: str,
    status: str,
) -> Data:
    place = next((place.index for place in template.places if place.identifier == node), None)
    statuses = statuses_named(status) if status else []
    after = asked.query.get("after", "")
    of_place = [counts.get(place, {})] if place is not None else [] if node else list(counts.values())
    totals = dict.fromkeys(CLASSES, 0)
    for each in of_place:
        for name, count in classed(each).items():
            totals[name] += count
    unknown = (node and place is None) or (status and not statuses)
    listed = (
        None if unknown else list_states(view, run, template, place=place, statuses=statuses, after=after)
    )
    run_id, cancelled = run["run_id"], run["cancelled_at"] is not None
    return {
        "states": listed.states if listed else [],
        "progress": progress_of(asked.workers) if run["pending"] else {},
        "looked_at": listed.looked_at if listed else None,
        "next": listed
        and listed.next
        and asked.link("runs", run_id, node=node, status=status, after=listed.next) + "#states",
        "back": asked.link("runs", run_id, node=node, status=status) + "#states" if after else None,
        "node": node,
        "status": status,
        "total": sum(totals.values()),
        "filters": [
            (
                "pruned" if cancelled and name == "errored" else name,
                "errored or cancelled" if cancelled and name == "errored" else name,
                name == status,
                count,
                asked.link("runs", run_id, node=node, status=name) + "#states",
            )
            for name, count in totals.items()
            if count or name == status
        ],
        "all": asked.link("runs", run_id, node=node) + "#states",
        "any_node": asked.link("runs", run_id, status=status) + "#states",
    }


def versions(view: View, asked: Asked) -> dict[str, Hashable]:
    run = find_run(view, asked.namespace, asked.params["run_id"])
    if run is None:
        raise not_found("gone")
    counts = tuple(
        tuple(row) for row in view.execute("SELECT * FROM counts WHERE run = ? ORDER BY place", (run["id"],))
    )
    # What has an age looks different as time passes, until the run is over.
    moment = view.now_ms // 2_000 if run["pending"] else None
    last_event = view.execute("SELECT max(id) FROM events").fetchone()[0]
    state = (counts, run["cancelled_at"])
    size = run["pending"] + run["success"] + run["errored"] + run["retried"]
    # Of a run that large even a part takes a while to draw.
    slow = run["pending"] and size > MOST_SPANS
    return {
        "summary": (state, moment),
        "graph": (state, _not_offered(asked, view.template(run["template"])) if run["pending"] else None),
        "timeline": view.now_ms // 10_000 if slow else (state, moment),
        "states": (state, moment),
        "events": last_event,
    }


PAGE = Page(
    path="/ns/{namespace}/runs/{run_id}",
    folder="run",
    fragments=("summary", "graph", "timeline", "states", "events"),
    load=load,
    versions=versions,
    pace={"timeline": 1.0, "states": 0.5, "events": 2.0},
)
