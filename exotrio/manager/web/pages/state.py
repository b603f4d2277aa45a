"""One state: its inputs and outputs, its error, and its history."""

from __future__ import annotations

from collections.abc import Collection
from itertools import islice

from pydantic_core import from_json

from exotrio._util.times import moment_ms
from exotrio.manager.engine.states import CREATED, ERRORED, NEXT_CREATED_ERROR, PRUNED, QUEUED
from exotrio.manager.queries import state_detail as detail
from exotrio.manager.queries.states import spent, was_cancelled
from exotrio.manager.queries.workers import progress_of
from exotrio.manager.store.port import View
from exotrio.manager.web.format import status_class
from exotrio.manager.web.page import Data, Fragment, Page, PageRequest
from exotrio.manager.web.svg.bars import split

MAX_EVENTS = 200
MAX_ANCESTORS = 200


def load(view: View, request: PageRequest, wanted: Collection[str]) -> dict[str, Data]:
    state = detail.find_state(view, request.namespace, request.params["state_id"])
    places = view.template(state["template"]).places
    ancestors = [
        (places[row["place"]].identifier, view.state_id(row["seq"]))
        for row in islice(detail.chain(view, state["parent"]), MAX_ANCESTORS)
    ]
    identifier = places[state["place"]].identifier
    page: Data = {
        "title": f"{identifier} {request.params['state_id'][-6:]}",
        "state_id": request.params["state_id"],
        "identifier": identifier,
        "graph": state["graph_name"],
        "run_id": state["run_id"],
    }
    if "state" not in wanted:
        return {"page": page}
    status = state["status"]
    cancelled = was_cancelled(state["status"], state["error"])
    waited, ran = spent(state, view.now_ms)
    workers = request.workers(view)
    holder = next((worker for worker in workers if worker.worker_id == state["worker"]), None)
    last_seen = holder and f"{holder.runtime}, last seen {holder.heard_ms / 1000:.0f} s ago"
    is_due = status == CREATED and state["enqueue_after"] <= view.now_ms
    return {
        "page": page,
        "state": {
            "status": status,
            "node": state["name"],
            "inputs": list(from_json(state["inputs"]).items()),
            "outputs": list(from_json(state["outputs"]).items()),
            "data": list(from_json(state["data"]).items()) if state["data"] else [],
            "error": None if cancelled else state["error"],
            "logs": [{**line, "at": moment_ms(line["at"])} for line in detail.logs_of(view, state["seq"])],
            "claimed": state["claimed_at"] is not None,
            "due": state["enqueue_after"] if status == CREATED else None,
            "created_at": state["created_at"],
            "claimed_at": None if status == CREATED else state["claimed_at"],
            "finished_at": state["finished_at"],
            "waited": waited,
            "ran": ran,
            "split": None if ran is None else split(waited, ran, status_class(status, cancelled)),
            "cancelled": cancelled,
            "progress": progress_of(workers).get(page["state_id"]) if status == QUEUED else None,
            # Of nodes of other namespaces this is unknown.
            "not_offered": is_due
            and state["node_namespace"] == request.namespace
            and state["name"] not in request.offers(view),
            "paused_at": detail.paused_since(view, state),
            "over": state["finished_at"] is not None,
            "requeued": bool(state["requeued"]),
            "deliveries": state["deliveries"],
            "worker": state["worker"],
            "last_seen": last_seen,
            "local": state["manager"] is not None,
            "holder": detail.holder_of(state, request.monotonic) if status == QUEUED else None,
            "attempts": [
                {**attempt, "at": moment_ms(attempt["created_at"])}
                for attempt in detail.attempts_of(view, state)
            ],
            "ancestors": ancestors[::-1],
            "events": detail.events_of_state(view, state, MAX_EVENTS),
            "retryable": status in (ERRORED, NEXT_CREATED_ERROR, PRUNED) and state["cancelled_at"] is None,
            "node_namespace": state["node_namespace"],
        },
    }


def versions(view: View, request: PageRequest) -> dict[str, object]:
    state = detail.find_state(view, request.namespace, request.params["state_id"])
    moment = None if state["finished_at"] is not None else view.now_ms // 2_000
    columns = ("status", "updated_at", "claimed_at", "cancelled_at")
    return {"state": (*(state[column] for column in columns), detail.newest_event(view, state), moment)}


PAGE = Page(
    path="/ns/{namespace}/states/{state_id}",
    folder="state",
    fragments={"state": Fragment()},
    load=load,
    own_versions=versions,
)
