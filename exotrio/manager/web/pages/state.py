"""One state: what went in, what came out, why it failed, and how it came to that."""

from __future__ import annotations

from collections.abc import Collection, Hashable

from pydantic_core import from_json

from exotrio._util.times import moment_ms
from exotrio.manager.engine.states import CREATED, ERRORED, NEXT_CREATED_ERROR, PRUNED, QUEUED, chain
from exotrio.manager.queries.history import attempts_of, holder_of
from exotrio.manager.queries.run_detail import times, was_cancelled
from exotrio.manager.queries.workers import offered, progress_of
from exotrio.manager.rules.errors import not_found
from exotrio.manager.store.driver import Row
from exotrio.manager.store.port import View
from exotrio.manager.web.format import CANCELLED, STATUS_CLASS
from exotrio.manager.web.page import Asked, Data, Page
from exotrio.manager.web.svg.bar import split

MOST_EVENTS = 200
MOST_ANCESTORS = 200


def _find(view: View, asked: Asked) -> Row:
    """Return a state whose run or whose node is of this namespace."""
    state_id = asked.params["state_id"]
    row = view.row(
        "SELECT states.*, nodes.name, nodes.namespace AS node_namespace, nodes.runtime_name, runs.run_id,"
        " runs.template, runs.cancelled_at, runs.namespace AS run_namespace, graphs.name AS graph_name"
        " FROM states JOIN nodes ON nodes.id = node_id JOIN runs ON runs.id = run"
        " JOIN graphs ON graphs.id = runs.graph WHERE seq = ?",
        (view.seq(state_id),),
    )
    if row is None or asked.namespace not in (row["node_namespace"], row["run_namespace"]):
        raise not_found(f"There is no state {state_id!r} in namespace {asked.namespace!r}.")
    return row


def load(view: View, asked: Asked, wanted: Collection[str]) -> dict[str, Data]:
    state = _find(view, asked)
    places = view.template(state["template"]).places
    waits, runs, ends = times(state)
    progress = next(
        (
            f"{worker.last.runtime}, heard {(asked.monotonic - worker.seen_at) / 1000:.0f} s ago"
            for worker in asked.workers
            if worker.last.worker_id == state["worker"]
        ),
        None,
    )
    ancestors = []
    for row in chain(view, state["parent"]):
        ancestors.append((places[row["place"]].identifier, view.state_id(row["seq"])))
        if len(ancestors) == MOST_ANCESTORS:
            break
    identifier = places[state["place"]].identifier
    page: Data = {
        "title": f"{identifier} {asked.params['state_id'][-6:]}",
        "now": view.now_ms,
        "state_id": asked.params["state_id"],
        "identifier": identifier,
        "graph": state["graph_name"],
        "run_id": state["run_id"],
        "run_namespace": state["run_namespace"],
    }
    if "state" not in wanted:
        return {"page": page}
    status = state["status"]
    cancelled = was_cancelled(state)
    waited = (view.now_ms if runs is None and ends is None else runs or ends or 0) - waits
    ran = None if runs is None else (view.now_ms if ends is None else ends) - runs
    return {
        "page": page,
        "state": {
            "status": status,
            "node": state["name"],
            "inputs": list(from_json(state["inputs"]).items()),
            "outputs": list(from_json(state["outputs"]).items()),
            "data": list(from_json(state["data"]).items()) if state["data"] else [],
            "error": None if cancelled else state["error"],
            "claimed": state["claimed_at"] is not None,
            "due": state["enqueue_after"] if status == CREATED else None,
            "created_at": state["created_at"],
            "claimed_at": None if status == CREATED else state["claimed_at"],
            "finished_at": state["finished_at"],
            "waited": waited,
            "ran": ran,
            "split": None if ran is None else split(max(0, waited), max(0, ran), _kind(status, cancelled)),
            "cancelled": cancelled,
            "progress": progress_of(asked.workers).get(page["state_id"]) if status == QUEUED else None,
            "not_offered": _is_not_offered(asked, state, view.now_ms),
            "over": ends is not None,
            "requeued": bool(state["requeued"]),
            "deliveries": state["deliveries"],
            "worker": state["worker"],
            "heard": progress,
            "local": bool(state["local"]),
            "holder": holder_of(state, asked.monotonic) if status == QUEUED else None,
            "attempts": [
                {**attempt, "at": moment_ms(attempt["created_at"])} for attempt in attempts_of(view, state)
            ],
            "ancestors": ancestors[::-1],
            "events": view.execute(
                "SELECT at, kind, worker FROM events WHERE state = ? ORDER BY id DESC LIMIT ?",
                (state["seq"], MOST_EVENTS),
            ).fetchall(),
            "retryable": status in (ERRORED, NEXT_CREATED_ERROR, PRUNED) and state["cancelled_at"] is None,
            "node_namespace": state["node_namespace"],
        },
    }


def _kind(status: str, cancelled: bool) -> str:
    return CANCELLED if cancelled else STATUS_CLASS[status]


def _is_not_offered(asked: Asked, state: Row, now_ms: int) -> bool:
    """Whether a state waits for a node that no live runtime asks for. Of other namespaces nobody knows."""
    is_due = state["status"] == CREATED and state["enqueue_after"] <= now_ms
    return (
        is_due
        and state["node_namespace"] == asked.namespace
        and state["name"] not in offered(asked.workers, asked.anonymous, asked.monotonic)
    )


def versions(view: View, asked: Asked) -> dict[str, Hashable]:
    state = _find(view, asked)
    moment = None if state["finished_at"] is not None else view.now_ms // 2_000
    last = view.execute("SELECT max(id) FROM events WHERE state = ?", (state["seq"],)).fetchone()[0]
    columns = ("status", "updated_at", "claimed_at", "cancelled_at")
    return {"state": (*(state[column] for column in columns), last, moment)}


PAGE = Page(
    path="/ns/{namespace}/states/{state_id}",
    folder="state",
    fragments=("state",),
    load=load,
    versions=versions,
)
