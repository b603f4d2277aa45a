"""States: in lists, newest first, and one as v0 shows it.

A page begins where the one before ended, not at a distance from the start: what is added meanwhile
shifts nothing, and the thousandth page costs what the first does.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Any

from pydantic_core import from_json

from exotrio._util.error_message import MAX_ERROR_BYTES, message_line
from exotrio._util.times import timestamp
from exotrio._wire.operations import StatesQuery
from exotrio._wire.vocabulary import StateStatus
from exotrio.manager.engine.graphs import find_graph
from exotrio.manager.engine.runs import RUNS
from exotrio.manager.engine.states import find_state
from exotrio.manager.queries.graphs import find_node
from exotrio.manager.queries.where import Where
from exotrio.manager.rules.errors import Refused, not_found
from exotrio.manager.store.driver import Row
from exotrio.manager.store.port import View

WINDOW = 100_000
"""Numbers of states that one request looks through for those that match. It takes some ten milliseconds."""
MAX_SEQ = 2**63 - 1
MAX_OUTPUTS = 4 * 1024 * 1024
"""Characters of outputs in one page, or those of one state."""


def list_states(view: View, namespace: str, query: StatesQuery) -> dict[str, Any]:
    """Return one page of the states whose node is of a namespace.

    The page may be short, or empty, and yet have a next one: where hardly any state matches, looking
    through all of them would take a request seconds; and outputs may be large.
    """
    where = Where()
    where.add("nodes.namespace = ?", namespace)
    graph = run = None
    if query.graph is not None:
        graph = find_graph(view, namespace, query.graph)["id"]
        where.add("runs.graph = ?", graph)
    if query.run is not None:
        run = _find_run_with_states(view, namespace, query.run)
        where.add("states.run = ?", run)
    if query.node is not None:
        # By number, not by name: the index has the number.
        where.add("states.node_id = ?", find_node(view, namespace, query.node)["id"])
    if query.identifier is not None:
        places = _places(view, query.identifier, graph, run)
        where.add(view.any_of("(runs.template || '.' || states.place)"), view.items(places))
    if query.status:
        statuses = set(query.status)
        given = sorted(status.value for status in statuses)
        where.add(f"states.status IN ({', '.join('?' * len(given))})", *given)
        if statuses <= {StateStatus.ERRORED, StateStatus.NEXT_CREATED_ERROR}:
            # In the words of the index of failed states, or SQLite would not see that it serves.
            where.add("states.status IN ('ERRORED', 'NEXT_CREATED_ERROR')")
    before, floor = _range(view, query, bounded=run is None)
    where.add("states.seq < ? AND states.seq >= ?", before, floor)
    size = "length(outputs)" if query.outputs else "0"
    rows = view.execute(
        f"SELECT seq, place, states.status, substr(error, 1, {MAX_ERROR_BYTES}) AS error, retry_count,"
        " states.created_at,"
        f" states.finished_at, worker, {size} AS size,"
        " nodes.name, runs.run_id, runs.template, graphs.name AS graph_name"
        " FROM states JOIN nodes ON nodes.id = node_id JOIN runs ON runs.id = run"
        f" JOIN graphs ON graphs.id = runs.graph WHERE {where} ORDER BY seq DESC LIMIT ?",
        (*where.parameters, query.limit + 1),
    ).fetchall()
    sizes = accumulate(row["size"] for row in rows[: query.limit])
    page = rows[: max(1, sum(size <= MAX_OUTPUTS for size in sizes))]
    outputs = _outputs(view, page) if query.outputs else {}
    following = page[-1]["seq"] if len(rows) > len(page) else _newest_below(view, floor) + 1
    return {
        "states": [
            {
                "id": view.state_id(row["seq"]),
                "node_name": row["name"],
                "identifier": view.template(row["template"]).places[row["place"]].identifier,
                "graph_name": row["graph_name"],
                "run_id": row["run_id"],
                "status": row["status"],
                "error": row["error"] and message_line(row["error"]),
                "retry_count": row["retry_count"],
                "created_at": timestamp(row["created_at"]),
                "finished_at": None if row["finished_at"] is None else timestamp(row["finished_at"]),
                "worker": row["worker"],
                **({"outputs": outputs[row["seq"]]} if query.outputs else {}),
            }
            for row in page
        ],
        "next": view.state_id(following) if following > 1 else None,
    }


def _outputs(view: View, states: Sequence[Row]) -> dict[int, Any]:
    seqs = view.items([state["seq"] for state in states])
    rows = view.execute(f"SELECT seq, outputs FROM states WHERE {view.any_of('seq')}", (seqs,))
    return {row["seq"]: from_json(row["outputs"]) for row in rows.fetchall()}


def _range(view: View, query: StatesQuery, *, bounded: bool) -> tuple[int, int]:
    """Return between which numbers to look: below the first, from the second on."""
    if query.before is None:
        before = _newest_below(view, MAX_SEQ) + 1
    else:
        given = view.seq(query.before)
        if given is None:
            raise Refused(422, f"before is {query.before!r}, which is not the id of a state here")
        before = given
    return before, max(0, before - WINDOW) if bounded else 0


def _newest_below(view: View, number: int) -> int:
    """Return the highest number of a state below that one, 0 if there is none. Many in a row may be unused
    (``store.epoch``)."""
    return int(view.one("SELECT coalesce(max(seq), 0) FROM states WHERE seq < ?", (number,))[0])


def _find_run_with_states(view: View, namespace: str, run_id: str) -> int:
    """Return the number of a run of this namespace, or of one with states of its nodes."""
    row = view.row(
        "SELECT id FROM runs WHERE run_id = ? AND (namespace = ? OR EXISTS (SELECT 1 FROM states"
        " JOIN nodes ON nodes.id = node_id WHERE run = runs.id AND nodes.namespace = ?))",
        (run_id, namespace, namespace),
    )
    if row is None:
        raise not_found(f"there is no run {run_id!r} in namespace {namespace!r}")
    return int(row["id"])


def _places(view: View, identifier: str, graph: int | None, run: int | None) -> list[str]:
    """Return template.place wherever a version of the graph, or of the run's, has the identifier."""
    if run is not None:
        rows = view.execute("SELECT template AS id FROM runs WHERE id = ?", (run,))
    elif graph is not None:
        rows = view.execute("SELECT id FROM templates WHERE graph = ?", (graph,))
    else:
        raise Refused(422, "identifier names a place of a graph: give graph or run with it")
    return [
        f"{row['id']}.{place.index}"
        for row in rows.fetchall()
        for place in view.template(row["id"]).places
        if place.identifier == identifier
    ]


def show_state(view: View, namespace: str, graph_name: str, run_id: str, state_id: str) -> dict[str, Any]:
    """Return one state in full; all four values must match."""
    state = find_state(view, namespace, state_id)
    shown = state and detail(view, state)
    if not shown or shown["run_id"] != run_id or shown["graph_name"] != graph_name:
        raise not_found(f"there is no state {state_id!r} in this run, graph and namespace")
    return shown


def detail(view: View, state: Row) -> dict[str, Any]:
    """Return a state, from ``find_state``, as v0 shows it."""
    run = view.one(RUNS + " WHERE runs.id = ?", (state["run"],))
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


def chain(view: View, seq: int | None) -> Iterator[Row]:
    """Yield the states of a chain (seq, place, parent, outputs), nearest first."""
    while seq is not None:
        row = view.one("SELECT seq, place, parent, outputs FROM states WHERE seq = ?", (seq,))
        yield row
        seq = row["parent"]
