"""The list of graphs: whether each can run, and when its schedule triggers it next. One graph: its picture,
problems, retry policy and schedule, and a form that starts a run."""

from __future__ import annotations

import uuid
from collections.abc import Collection
from typing import Any

from pydantic_core import from_json

from exotrio._util.cron import next_occurrence_ms, occurrences, parts_of
from exotrio.manager.engine.graphs import find_graph, next_firings, secret_names
from exotrio.manager.queries.audit import last_changes
from exotrio.manager.queries.graphs import show_graphs
from exotrio.manager.queries.related import naming
from exotrio.manager.queries.runs import find_runs
from exotrio.manager.queries.trends import trend
from exotrio.manager.rules.problems import Problem
from exotrio.manager.rules.template import Place, Template
from exotrio.manager.store.driver import Row
from exotrio.manager.store.view import View
from exotrio.manager.web.page import Data, Fragment, Page, PageRequest, list_page
from exotrio.manager.web.pages.trends import TREND, show_trend, span_of
from exotrio.manager.web.start_form import start_form
from exotrio.manager.web.svg.graph import boxes_of, draw_graph

FIRINGS = 5
RUNS_SHOWN = 10


LIST = list_page(
    "graphs", "Graphs", lambda view, request: {"graphs": show_graphs(view, request.namespace)}, pace=1.0
)


def load(view: View, request: PageRequest, parts: Collection[str]) -> dict[str, Data]:
    name = request.params["graph"]
    graph = find_graph(view, request.namespace, name)
    data: dict[str, Data] = {"page": {"title": f"Graph {name}", **span_of(request)}}
    if "page" in parts:
        data["page"] |= _page(view, request, graph)
    if "trend" in parts:
        span = span_of(request)["span"]
        graphs = (graph["id"],)
        runs = trend(view, span, graphs=graphs, runs=True)
        data["trend"] = show_trend(trend(view, span, graphs=graphs), runs=runs)
    if "runs" in parts:
        page = find_runs(view, request.namespace, graph=name, limit=RUNS_SHOWN)
        data["runs"] = {
            "runs": [hit.run for hit in page.rows],
            "searched": page.searched,
            "of_graph": name,
        }
    return data


def _page(view: View, request: PageRequest, graph: Row) -> Data:
    """Return the variables that no fragment needs: the picture alone may take a while to draw."""
    template = view.template(graph["template"])
    problems = from_json(graph["validation_errors"])
    notes = {problem.node: problem.text for problem in map(Problem.read, reversed(problems))}

    def href(place: Place) -> str | None:
        # A node of another namespace has no page in this one.
        return request.link("nodes", place.node_name) if place.namespace == request.namespace else None

    others = naming(view, request.namespace)
    boxes = boxes_of(template, href=href, note=lambda place: notes.get(place.identifier))
    return {
        "graph": graph["name"],
        "valid": graph["validation_status"] == "VALID",
        "problems": problems,
        "picture": draw_graph(boxes, title=f"Graph {graph['name']}"),
        "on_failure": template.body.on_failure,
        "runs_graphs": sorted(template.graphs),
        "run_by": [other for other, each in others.items() if graph["name"] in each.graphs],
        "named_by": [other for other, each in others.items() if graph["name"] == each.body.on_failure],
        "policy": template.body.retry_policy,
        "policies": [
            (node.identifier, node.retry_policy) for node in template.body.nodes if node.retry_policy
        ],
        "secrets": secret_names(view, graph),
        "crons": _crons(next_firings(view, graph), template, view.now_ms),
        "paused_at": graph["paused_at"],
        "timeouts": [(place.identifier, place.timeout_ms) for place in template.places if place.timeout_ms],
        "limits": [(place.identifier, list(place.limits)) for place in template.places if place.limits],
        "form": start_form(view, request, graph, template),
        "root": template.root.identifier,
        "request_id": str(uuid.uuid4()),
        "updated_at": graph["updated_at"],
        "changes": last_changes(view, request.namespace, graph["name"], "graph", "schedule"),
    }


def _crons(firings: dict[str, int], template: Template, now_ms: int) -> list[dict[str, Any]]:
    """Return each schedule: its expression, its zone, the priority of its runs, its next times in Unix
    milliseconds, and whether it was cancelled."""
    crons = []
    for schedule, priority in template.body.schedules.items():
        times = occurrences(schedule, firings.get(schedule), FIRINGS)
        expression, zone = parts_of(schedule)
        is_cancelled = not times and next_occurrence_ms(schedule, now_ms) is not None
        about = {"expression": expression, "zone": zone, "priority": priority}
        crons.append({**about, "firings": times, "cancelled": is_cancelled})
    return crons


PAGE = Page(
    path="/ns/{namespace}/graphs/{graph}",
    folder="graph",
    fragments={"trend": TREND, "runs": Fragment(pace=1.0)},
    load=load,
)
