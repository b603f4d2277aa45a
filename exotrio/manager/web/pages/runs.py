"""The list of runs: filters, the progress of each run, and a form that changes several at once. One run: what
failed, its inputs and results, its graph, timeline, states and events."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from functools import partial

from exotrio._util.times import moment_ms
from exotrio.manager.engine.runs import find_run
from exotrio.manager.engine.states import CREATED, STATUSES, SUCCESS
from exotrio.manager.queries.graphs import graph_names
from exotrio.manager.queries.load import FAILURES
from exotrio.manager.queries.paging import Page as QueryPage
from exotrio.manager.queries.run_detail import MAX_BARS, MAX_SPANS, events_of, spans_of
from exotrio.manager.queries.runs import (
    STATUS_WORDS,
    counts_of,
    paused_places,
    run_size,
    search,
    summarize_run,
    unreached_in,
)
from exotrio.manager.queries.runtimes import progress_of
from exotrio.manager.queries.state_detail import newest_event
from exotrio.manager.queries.states import MAX_SEARCHED, ORDERS, SORTED, ListedState, list_states_of_run
from exotrio.manager.rules.template import Place, Template
from exotrio.manager.store.driver import Row
from exotrio.manager.store.view import View
from exotrio.manager.web.faults import faults_of
from exotrio.manager.web.format import CLASSES, SHOWN_STATUS, STATUS_CLASS, classed
from exotrio.manager.web.page import MAX_TEXT, Data, Fragment, Page, PageRequest, link
from exotrio.manager.web.results import beginning_of, results_of
from exotrio.manager.web.svg.graph import boxes_of, draw_graph
from exotrio.manager.web.svg.timeline import draw_timeline
from exotrio.manager.web.texts import ReportTexts

SPANS = {"15m": 900_000, "1h": 3_600_000, "24h": 86_400_000, "7d": 604_800_000}
MAX_COMPARED = 2_000
"""Failed states that a page compares: more would take too long for what is refreshed by itself."""
MAX_FAULTS = 8
MAX_REASONS = 20
MAX_TRACE = 4_000


def load_list(view: View, request: PageRequest, parts: Collection[str]) -> dict[str, Data]:
    query = request.query
    graph, status, since = query.get("graph", ""), query.get("status", ""), query.get("since", "")
    text = query.get("text", "")[:MAX_TEXT]
    filters = {"graph": graph, "status": status, "since": since, "text": text}
    data: dict[str, Data] = {
        "page": {
            "title": "Runs",
            "filters": filters,
            "graphs": graph_names(view, request.namespace),
            "statuses": STATUS_WORDS,
            "spans": tuple(SPANS),
        }
    }
    if "list" in parts:
        page = search(
            view,
            request.namespace,
            graph=graph,
            status=status,
            since_ms=_since_ms(since, view.now_ms),
            text=text,
            before=query.get("before", ""),
        )
        data["list"] = {
            "runs": page.rows,
            "searched": page.searched,
            "next": page.next and request.link("runs", **filters, before=page.next),
            "back": request.link("runs", **filters) if query.get("before") else None,
            "filtered": any(filters.values()),
        }
    return data


def _since_ms(text: str, now_ms: int) -> int:
    """Return the time that a span or a date names, 0 if it names none."""
    if text in SPANS:
        return now_ms - SPANS[text]
    try:
        moment = datetime.fromisoformat(text)
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        return max(0, moment_ms(moment))
    except (ValueError, OverflowError):
        return 0


def list_versions(view: View, request: PageRequest) -> dict[str, object]:
    if request.query.get("text"):
        # A search costs too much to be repeated with every write.
        return {"list": None}
    return {"list": (request.service.store.written, view.now_ms // 5_000)}


LIST = Page(
    path="/ns/{namespace}/runs",
    folder="runs",
    fragments={"list": Fragment(pace=0.5)},
    load=load_list,
    own_versions=list_versions,
)


def load(view: View, request: PageRequest, parts: Collection[str]) -> dict[str, Data]:
    run_id = request.params["run_id"]
    run = find_run(view, request.namespace, run_id)
    template = view.template(run["template"])
    counts = counts_of(view, run["id"])
    cancelled = run["cancelled_at"] is not None
    data: dict[str, Data] = {
        "page": {
            "title": f"Run {run_id[:8]}",
            "run": summarize_run(run),
            "beginning": beginning_of(view, run, template, ReportTexts(()), values=True)
            if "page" in parts
            else None,
        }
    }
    paused = paused_places(view, run, counts)
    to_state = partial(request.link, "states")
    if "summary" in parts:
        # By node, which may occur several times in the graph.
        waits = {
            template.places[index].node_name: (template.places[index].namespace, paused[index])
            for index in paused
        }
        data["summary"] = {
            "paused": [(name, since, link(owner, "nodes", name)) for name, (owner, since) in waits.items()]
        }
    node, status = request.query.get("node", ""), request.query.get("status", "")
    if "faults" in parts:
        # Errors are stored with the secrets of the graph masked already.
        limits = {"compare": MAX_COMPARED, "limit": MAX_FAULTS, "max_trace": MAX_TRACE}
        faults = faults_of(view, run, template.places, ReportTexts(()), to_state, **limits)
        data["faults"] = {"faults": faults, "linked": True}
    if "result" in parts:
        result = results_of(view, run, template, counts, ReportTexts(()), to_state)
        data["result"] = {"result": result, "linked": True}
    if "graph" in parts:
        not_offered = _not_offered(view, request, template)

        def href(place: Place) -> str:
            # A click on the node that is chosen already shows all states again.
            chosen = None if place.identifier == node else place.identifier
            return request.link("runs", run_id, node=chosen) + "#states"

        def note(place: Place) -> str | None:
            if place.index in paused:
                return "its node is paused"
            waits = CREATED in counts.get(place.index, {})
            return "no runtime offers this" if waits and place.index in not_offered else None

        unreached = unreached_in(view, run, counts)
        # While the run goes on, other nodes may still be reached, unless the run is stuck.
        stuck = not run["pending"] or any(map(note, template.places))
        reasons = [
            (template.places[index].identifier, why.text)
            for index, why in unreached.items()
            if why.is_final or stuck
        ]
        shown = [classed(counts.get(place.index, {}), cancelled=cancelled) for place in template.places]
        boxes = boxes_of(template, counts=shown, href=href, note=note, unreached=unreached, chosen=node)
        data["graph"] = {
            "picture": draw_graph(boxes, title=f"Graph {run['graph_name']}"),
            "unreached": reasons[:MAX_REASONS],
            "further": len(reasons) - MAX_REASONS,
        }
    if "timeline" in parts:
        spans = spans_of(view, run)
        lanes = [(place.identifier, sum(counts.get(place.index, {}).values())) for place in template.places]
        drawn = draw_timeline(lanes, spans, to_state)
        data["timeline"] = {"picture": drawn, "each": spans.each, "many": len(spans.spans) > MAX_BARS}
    if "states" in parts:
        data["states"] = _states(view, request, run, template, counts, node, status)
    if "events" in parts:
        events, more = events_of(view, run, template)
        data["events"] = {"events": events, "more": more}
    return data


def _not_offered(view: View, request: PageRequest, template: Template) -> frozenset[int]:
    """Return the nodes that no live runtime offers. For nodes of other namespaces this is unknown."""
    offers = request.offers(view)
    return frozenset(
        place.index
        for place in template.places
        if place.namespace == request.namespace and place.node_name not in offers
    )


def _states(
    view: View,
    request: PageRequest,
    run: Row,
    template: Template,
    counts: Mapping[int, Mapping[str, int]],
    node: str,
    status: str,
) -> Data:
    place = next((place.index for place in template.places if place.identifier == node), None)
    # The query has a status, the word that pages show for it, or a class of statuses.
    statuses = [name for name in STATUSES if status in (name, SHOWN_STATUS[name], STATUS_CLASS[name])]
    after = request.query.get("after", "")
    order = request.query.get("sort", "")
    order = order if order in ORDERS else ""
    of_place = [counts.get(place, {})] if place is not None else [] if node else list(counts.values())
    totals = dict.fromkeys(CLASSES, 0)
    for each in of_place:
        for name, count in classed(each).items():
            totals[name] += count
    unknown = (node and place is None) or (status and not statuses)
    listed: QueryPage[ListedState] = QueryPage()
    if not unknown:
        listed = list_states_of_run(view, run, place=place, statuses=statuses, order=order, after=after)
    cancelled = run["cancelled_at"] is not None

    def here(**query: str) -> str:
        return request.link("runs", run["run_id"], **{"sort": order, **query}) + "#states"

    return {
        "states": listed.rows,
        "reason": None if place is None or any(of_place) else unreached_in(view, run, counts)[place].text,
        "progress": progress_of(request.runtimes(view)) if run["pending"] else {},
        "searched": listed.searched,
        "next": listed.next and here(node=node, status=status, after=listed.next),
        "back": here(node=node, status=status) if after else None,
        "node": node,
        "status": status,
        "total": sum(totals.values()),
        "filters": [
            (
                "pruned" if cancelled and name == "errored" else name,
                "errored or cancelled" if cancelled and name == "errored" else name,
                name == status,
                count,
                here(node=node, status=name),
            )
            for name, count in totals.items()
            if count or name == status
        ],
        "all": here(node=node),
        "any_node": here(status=status),
        "orders": [
            (name or "failed first", name == order, here(node=node, status=status, sort=name))
            for name in ORDERS
            if not (node and name == "node")
        ],
        "sorted": MAX_SEARCHED if order in SORTED and run_size(run) > MAX_SEARCHED else None,
    }


def versions(view: View, request: PageRequest) -> dict[str, object]:
    run = find_run(view, request.namespace, request.params["run_id"])
    # Ages and durations change as time passes, until the run is over.
    moment = view.now_ms // 2_000 if run["pending"] else None
    state = (counts_of(view, run["id"]), run["cancelled_at"])
    failed = [[each.get(status) for status in FAILURES] for each in state[0].values()]
    # In a run that large even a sample takes a while to draw.
    slow = run["pending"] and run_size(run) > MAX_SPANS
    return {
        "summary": (state, moment),
        "faults": (failed, run["cancelled_at"], view.now_ms // 30_000 if run["pending"] else None),
        "result": ([each.get(SUCCESS) for each in state[0].values()], run["finished_at"]),
        "graph": (
            state,
            _not_offered(view, request, view.template(run["template"])) if run["pending"] else None,
            paused_places(view, run, state[0]),
        ),
        "timeline": view.now_ms // 10_000 if slow else (state, moment),
        "states": (state, moment),
        "events": newest_event(view),
    }


PAGE = Page(
    path="/ns/{namespace}/runs/{run_id}",
    folder="run",
    fragments={
        "summary": Fragment(),
        "faults": Fragment(pace=2.0),
        "result": Fragment(pace=2.0),
        "graph": Fragment(),
        "timeline": Fragment(pace=1.0),
        "states": Fragment(pace=0.5),
        "events": Fragment(pace=2.0),
    },
    load=load,
    own_versions=versions,
)
