"""One run: its failures, inputs and results, graph, timeline, states and events."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import partial
from itertools import islice

from exotrio._wire.runs import WaitReason
from exotrio._wire.vocabulary import StateStatus
from exotrio.manager.engine.runs import find_run
from exotrio.manager.engine.states import CREATED, QUEUED, SUCCESS
from exotrio.manager.engine.unfinished import shown_changes
from exotrio.manager.queries.audit import last_changes
from exotrio.manager.queries.load import FAILURES
from exotrio.manager.queries.paging import Page as QueryPage
from exotrio.manager.queries.related import children_of
from exotrio.manager.queries.run import (
    counts_of,
    failed_with_checkpoint,
    further_of,
    run_again_with_failed,
    stages_of,
    unreached_in,
)
from exotrio.manager.queries.run_detail import MAX_SPANS, events_of, spans_of
from exotrio.manager.queries.runs import read_run, run_size
from exotrio.manager.queries.runtimes import Node, progress_of
from exotrio.manager.queries.state_detail import newest_event
from exotrio.manager.queries.states import MAX_SEARCHED, ORDERS, SORTED, ListedState, list_states_of_run
from exotrio.manager.queries.waiting import Waiting, event_reasons_in, reasons_in, waiting_nodes, waits_in
from exotrio.manager.rules.template import Place
from exotrio.manager.store.driver import Row
from exotrio.manager.store.view import View
from exotrio.manager.web.event_form import MAX_FORMS, event_forms
from exotrio.manager.web.faults import faults_of
from exotrio.manager.web.format import CANCELLED, CLASS_WORDS, CLASSES, SHOWN_STATUS, STATUS_CLASS, classed
from exotrio.manager.web.page import Data, Fragment, Page, PageRequest
from exotrio.manager.web.results import beginning_of, results_of
from exotrio.manager.web.svg.graph import boxes_of, draw_graph
from exotrio.manager.web.svg.timeline import draw_timeline
from exotrio.manager.web.texts import ShownTexts

MAX_COMPARED = 2_000
"""Failed states that the page compares: more would take too long for a page that refreshes itself."""
MAX_FAULTS = 8
MAX_REASONS = 20
OBSTACLES = {
    "paused": "its node is paused",
    "not offered": "no runtime offers this",
    "no version": "no runtime of this version is alive",
    "other runs": "only runtimes of other runs offer this",
    "draining": "all runtimes that offer this drain",
}
"""What the box of a node says of a ``WaitReason.kind``."""
MAX_TRACE = 4_000


class _Run:
    """A run, from which each fragment is loaded by the method of its name."""

    def __init__(self, view: View, request: PageRequest) -> None:
        self.view = view
        self.request = request
        self.run = find_run(view, request.namespace, request.params["run_id"])
        self.template = view.template(self.run["template"])
        self.counts = counts_of(view, self.run["id"])
        self.waits_for_events = any(StateStatus.WAITING in each for each in self.counts.values())
        self.cancelled = self.run["cancelled_at"] is not None
        self.node, self.status = request.query.get("node", ""), request.query.get("status", "")
        self.to_state = partial(request.link, "states")

    def summary(self) -> Data:
        reasons = reasons_in(self.view, self.run, self.counts, MAX_REASONS)
        events = event_reasons_in(self.view, self.run, self.counts)
        return {
            "reasons": [*reasons.values(), *islice(events.values(), MAX_REASONS)],
            "runs_again": run_again_with_failed(self.view, self.run),
            "with_checkpoint": failed_with_checkpoint(self.view, self.run),
            "changing": shown_changes(self.view, self.run["id"]),
            "changes": last_changes(self.view, self.request.namespace, self.run["run_id"], "run"),
        }

    def waits(self) -> Data:
        return {
            "forms": event_forms(self.view, self.run, self.request.rejected) if self.waits_for_events else []
        }

    def faults(self) -> Data:
        # Errors are stored with the secrets of the graph masked already.
        faults = faults_of(
            self.view,
            self.run,
            self.template.places,
            ShownTexts(()),
            self.to_state,
            compare=MAX_COMPARED,
            limit=MAX_FAULTS,
            max_trace=MAX_TRACE,
        )
        return {"faults": faults, "linked": True}

    def result(self) -> Data:
        texts = ShownTexts(())
        result = results_of(self.view, self.run, self.template, self.counts, texts, self.to_state)
        return {"result": result, "linked": True}

    def children(self) -> Data:
        children, total = children_of(self.view, self.run)
        shown = {"runs": children, "total": total, "parent": self.run["run_id"]}
        return {"children": shown, "linked": True}

    def graph(self) -> Data:
        run, places = self.run, self.template.places
        obstacles = _obstacles(self.view, self.request, run, self.counts)

        def href(place: Place) -> str:
            # A click on the node that is chosen already shows all states again.
            chosen = None if place.identifier == self.node else place.identifier
            return self.request.link("runs", run["run_id"], node=chosen) + "#states"

        def note(place: Place) -> str | None:
            obstacle = obstacles.get((place.namespace, place.node_name))
            return (
                OBSTACLES[obstacle.kind] if obstacle and CREATED in self.counts.get(place.index, {}) else None
            )

        unreached = unreached_in(self.view, run, self.counts)
        # While the run goes on, other nodes may still be reached, unless the run is stuck.
        stuck = not run["pending"] or any(map(note, places))
        reasons = [
            (places[index].identifier, why.text) for index, why in unreached.items() if why.is_final or stuck
        ]
        stages = stages_of(self.view, run["id"], self.counts)
        shown = [classed(stages.get(place.index, {}), cancelled=self.cancelled) for place in places]
        boxes = boxes_of(
            self.template,
            counts=shown,
            further=further_of(self.view, run),
            href=href,
            note=note,
            unreached=unreached,
            chosen=self.node,
        )
        return {
            "picture": draw_graph(boxes, title=f"Graph {run['graph_name']}"),
            "unreached": reasons[:MAX_REASONS],
            "further": len(reasons) - MAX_REASONS,
        }

    def timeline(self) -> Data:
        spans = spans_of(self.view, self.run)
        return {"picture": draw_timeline(spans, self.to_state), "spans": spans}

    def states(self) -> Data:
        view, request, run, counts = self.view, self.request, self.run, self.counts
        node, status, cancelled = self.node, self.status, self.cancelled
        place = next((place.index for place in self.template.places if place.identifier == node), None)
        # The query has a status, the word that pages show for it, or a class of statuses.
        statuses = [name for name in SHOWN_STATUS if status in (name, SHOWN_STATUS[name], STATUS_CLASS[name])]
        after = request.query.get("after", "")
        order = request.query.get("sort", "")
        order = order if order in ORDERS else ""
        stages = stages_of(view, run["id"], counts)
        of_place = [stages.get(place, {})] if place is not None else [] if node else list(stages.values())
        totals = dict.fromkeys(CLASSES, 0)
        for each in of_place:
            for name, count in classed(each).items():
                totals[name] += count
        unknown = (node and place is None) or (status and not statuses)
        listed: QueryPage[ListedState] = QueryPage()
        if not unknown:
            listed = list_states_of_run(view, run, place=place, statuses=statuses, order=order, after=after)

        def here(**query: str) -> str:
            return request.link("runs", run["run_id"], **{"sort": order, **query}) + "#states"

        return {
            "states": listed.rows,
            "reason": None if place is None or any(of_place) else unreached_in(view, run, counts)[place].text,
            "progress": progress_of(view, request.runtimes(view)) if run["pending"] else {},
            "searched": listed.searched,
            "next": listed.next and here(node=node, status=status, after=listed.next),
            "back": here(node=node, status=status) if after else None,
            "node": node,
            "status": status,
            "total": sum(totals.values()),
            "filters": [
                (
                    "pruned" if cancelled and name == "errored" else name,
                    CLASS_WORDS.get(CANCELLED if cancelled and name == "errored" else name, name),
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
                (
                    {"": "failed first", "node": "place"}.get(name, name),
                    name == order,
                    here(node=node, status=status, sort=name),
                )
                for name in ORDERS
                if not (node and name == "node")
            ],
            "sorted": MAX_SEARCHED if order in SORTED and run_size(run) > MAX_SEARCHED else None,
        }

    def events(self) -> Data:
        events, more = events_of(self.view, self.run, self.template)
        return {"events": events, "more": more}


def load(view: View, request: PageRequest, parts: Collection[str]) -> dict[str, Data]:
    run = _Run(view, request)
    beginning = None
    if "page" in parts:
        beginning = beginning_of(view, run.run, run.template, ShownTexts(()), values=True, linked=True)
    return {
        "page": {
            "title": f"{run.run['graph_name']} {request.params['run_id'][:8]}",
            "run": read_run(run.run),
            "beginning": beginning,
        },
        **{name: getattr(run, name)() for name in PAGE.fragments if name in parts},
    }


def _obstacles(
    view: View, request: PageRequest, run: Row, counts: Mapping[int, Mapping[str, int]]
) -> dict[Node, WaitReason]:
    """Return why no state of waiting nodes can be claimed."""
    waiting = Waiting(view, request.namespace)
    nodes = waiting_nodes(view.template(run["template"]), counts)
    reasons = {node: waiting.obstacle(node, run["run_id"]) for node in nodes}
    return {node: reason for node, reason in reasons.items() if reason}


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
        # No times: a form that is being filled in must not be replaced by one that is empty.
        "waits": [(wait.name, wait.identifier) for wait in waits_in(view, run)[:MAX_FORMS]]
        if any(StateStatus.WAITING in each for each in state[0].values())
        else None,
        "faults": (failed, run["cancelled_at"], view.now_ms // 30_000 if run["pending"] else None),
        "result": ([each.get(SUCCESS) for each in state[0].values()], failed, run["finished_at"]),
        "children": [(child.run_id, child.word, child.problem) for child in children_of(view, run)[0]],
        "graph": (
            state,
            # Heartbeats tell which of the claimed states run.
            moment if any(each.get(QUEUED) for each in state[0].values()) else None,
            _obstacles(view, request, run, state[0]) if run["pending"] else None,
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
        "waits": Fragment(),
        "faults": Fragment(pace=2.0),
        "result": Fragment(pace=2.0),
        "children": Fragment(pace=1.0),
        "graph": Fragment(),
        "timeline": Fragment(pace=1.0),
        "states": Fragment(pace=0.5),
        "events": Fragment(pace=2.0),
    },
    load=load,
    own_versions=versions,
)
