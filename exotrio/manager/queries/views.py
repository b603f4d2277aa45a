"""How runs and states look from outside. Nothing is changed here."""

from __future__ import annotations

import math
import sqlite3
from typing import Any

from pydantic_core import from_json

from exotrio._util.times import timestamp
from exotrio._wire.operations import MAX_PAGE
from exotrio._wire.vocabulary import RunStatus
from exotrio.manager.engine.outcomes import find_state
from exotrio.manager.engine.states import STATUSES, chain
from exotrio.manager.rules.errors import not_found
from exotrio.manager.store.port import Transaction, View


def list_runs(view: View, namespace: str, page: int, size: int) -> dict[str, Any]:
    """Return one page of a namespace's runs, newest first. ``page`` counts from 1."""
    size = min(size, MAX_PAGE)
    total = view.execute("SELECT count(*) FROM runs WHERE namespace = ?", (namespace,)).fetchone()[0]
    rows = newest_runs(view, namespace, size, min((page - 1) * size, 2**62))
    return {
        "namespace": namespace,
        "total": total,
        "page": page,
        "size": size,
        "runs": [_v0_summary(row) for row in rows],
    }


RUNS = "SELECT runs.*, graphs.name AS graph_name FROM runs JOIN graphs ON graphs.id = runs.graph"


def newest_runs(view: View, namespace: str, limit: int, offset: int = 0) -> list[sqlite3.Row]:
    """Return runs of a namespace, newest first."""
    return view.execute(
        RUNS + " WHERE runs.namespace = ? ORDER BY runs.created_at DESC, runs.id DESC LIMIT ? OFFSET ?",
        (namespace, limit, offset),
    ).fetchall()


def run_summary(run: sqlite3.Row) -> dict[str, Any]:
    """Return a run, selected by ``RUNS``, as the native API shows it."""
    return {
        **_v0_summary(run),
        "finished_at": None if run["finished_at"] is None else timestamp(run["finished_at"]),
        "cancelled_at": None if run["cancelled_at"] is None else timestamp(run["cancelled_at"]),
    }


def _v0_summary(run: sqlite3.Row) -> dict[str, Any]:
    if run["pending"]:
        status = RunStatus.PENDING
    elif run["errored"] or not run["success"] + run["retried"]:
        status = RunStatus.FAILED
    else:
        status = RunStatus.SUCCESS
    return {
        "run_id": run["run_id"],
        "graph_name": run["graph_name"],
        "success_count": run["success"],
        "pending_count": run["pending"],
        "errored_count": run["errored"],
        "retried_count": run["retried"],
        "total_count": run["success"] + run["pending"] + run["errored"] + run["retried"],
        "status": status.value,
        "created_at": timestamp(run["created_at"]),
    }


def show_run(view: View, namespace: str, run_id: str) -> dict[str, Any]:
    """Return one run with its counts per place, in the order of the template. Costs the same for
    a run of any size."""
    run = view.row(RUNS + " WHERE runs.run_id = ? AND runs.namespace = ?", (run_id, namespace))
    if run is None:
        raise not_found(f"there is no run {run_id!r} in namespace {namespace!r}")
    counts = {row["place"]: row for row in view.execute("SELECT * FROM counts WHERE run = ?", (run["id"],))}
    nodes = []
    for place in view.template(run["template"]).places:
        row = counts.get(place.index)
        nodes.append(
            {
                "identifier": place.identifier,
                "node_name": place.node_name,
                "counts": {status: row[status.lower()] for status in STATUSES if row and row[status.lower()]},
            }
        )
    return {**run_summary(run), "nodes": nodes}


def show_run_once_ended(tx: Transaction, namespace: str, run_id: str) -> dict[str, Any] | None:
    """Return a run as ``show_run`` does, or None for as long as it goes on."""
    run = show_run(tx, namespace, run_id)
    tx.waits_for = {run_id: math.inf}
    return None if run["status"] == RunStatus.PENDING else run


def show_run_graph(view: View, namespace: str, run_id: str) -> dict[str, Any]:
    """Return the states of a run and the edges between them, as the dashboard draws them.

    An unknown run is an empty one. A state hangs from its direct parent only.
    """
    summary = dict.fromkeys(STATUSES, 0)
    nodes: list[dict[str, Any]] = []
    parents: dict[str, str | None] = {}
    graph_name = ""
    for row in view.execute(
        "SELECT seq, place, status, error, parent, runs.template, nodes.name, graphs.name AS graph_name"
        " FROM runs JOIN states ON states.run = runs.id JOIN nodes ON nodes.id = states.node_id"
        " JOIN graphs ON graphs.id = runs.graph WHERE run_id = ? AND nodes.namespace = ? ORDER BY seq",
        (run_id, namespace),
    ):
        graph_name = row["graph_name"]
        state_id = view.state_id(row["seq"])
        parents[state_id] = None if row["parent"] is None else view.state_id(row["parent"])
        summary[row["status"]] += 1
        nodes.append(
            {
                "id": state_id,
                "node_name": row["name"],
                "identifier": view.template(row["template"]).places[row["place"]].identifier,
                "status": row["status"],
                "error": row["error"],
            }
        )
    edges = [{"source": parent, "target": child} for child, parent in parents.items() if parent in parents]
    return {
        "root_states": [node for node in nodes if parents[node["id"]] is None],
        "graph_name": graph_name,
        "nodes": nodes,
        "edges": edges,
        "node_count": len(nodes),
        "edge_count": len(edges),
        "execution_summary": summary,
    }


def show_state(view: View, namespace: str, graph_name: str, run_id: str, state_id: str) -> dict[str, Any]:
    """Return one state in full; all four values must match."""
    state = find_state(view, namespace, state_id)
    shown = state and detail(view, state)
    if not shown or shown["run_id"] != run_id or shown["graph_name"] != graph_name:
        raise not_found(f"there is no state {state_id!r} in this run, graph and namespace")
    return shown


def detail(view: View, state: sqlite3.Row) -> dict[str, Any]:
    """Return a state, from ``find_state``, as v0 shows it."""
    run = view.row(RUNS + " WHERE runs.id = ?", (state["run"],))
    assert run is not None, "find_state finds no state without its run"
    places = view.template(run["template"]).places
    ancestors = [
        (places[row["place"]].identifier, view.state_id(row["seq"])) for row in chain(view, state["parent"])
    ]
    return {
        "id": view.state_id(state["seq"]),
        "node_name": state["name"],
        "identifier": places[state["place"]].identifier,
        "graph_name": run["graph_name"],
        "run_id": run["run_id"],
        "status": state["status"],
        "inputs": from_json(state["inputs"]),
        "outputs": from_json(state["outputs"]),
        "error": state["error"],
        "parents": dict(reversed(ancestors)),
        "created_at": timestamp(state["created_at"]),
        "updated_at": timestamp(state["updated_at"]),
    }
