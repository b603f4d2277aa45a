"""Lists of states and runs, newest first, for the native API.

A page begins where the one before ended, not at a distance from the start: what is added meanwhile
shifts nothing, and the thousandth page costs what the first does.
"""

from __future__ import annotations

from typing import Any

from pydantic_core import to_json

from exotrio._util.error_message import MAX_ERROR_BYTES, message_line
from exotrio._util.times import moment_ms, timestamp
from exotrio._wire.operations import RunsQuery, StatesQuery
from exotrio._wire.vocabulary import RunStatus, StateStatus
from exotrio.manager.engine.graphs import find_graph
from exotrio.manager.queries.views import RUNS, run_summary
from exotrio.manager.rules.errors import Refused, not_found
from exotrio.manager.store.port import View

WINDOW = 100_000
"""States that one request looks through for those that match. It takes some ten milliseconds."""


class _Where:
    """The conditions of a query."""

    def __init__(self) -> None:
        self._conditions: list[str] = []
        self.parameters: list[Any] = []

    def add(self, condition: str, *parameters: Any) -> None:
        self._conditions.append(condition)
        self.parameters += parameters

    def __str__(self) -> str:
        return " AND ".join(self._conditions)


def list_states(view: View, namespace: str, query: StatesQuery) -> dict[str, Any]:
    """Return one page of the states whose node is of a namespace.

    The page may be short, or empty, and yet have a next one: where hardly any state matches, looking
    through all of them would take a request seconds.
    """
    where = _Where()
    where.add("nodes.namespace = ?", namespace)
    graph = run = None
    if query.graph is not None:
        graph = find_graph(view, namespace, query.graph)["id"]
        where.add("runs.graph = ?", graph)
    if query.run is not None:
        run = _find_run(view, namespace, query.run)
        where.add("states.run = ?", run)
    if query.node is not None:
        # By number, not by name: the index has the number.
        where.add("states.node_id = ?", _find_node(view, namespace, query.node))
    if query.identifier is not None:
        places = _places(view, query.identifier, graph, run)
        where.add(
            "(runs.template, states.place) IN"
            " (SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]') FROM json_each(?))",
            to_json(places).decode(),
        )
    if query.status:
        statuses = set(query.status)
        where.add(f"states.status IN ({', '.join('?' * len(statuses))})", *statuses)
        if statuses <= {StateStatus.ERRORED, StateStatus.NEXT_CREATED_ERROR}:
            # In the words of the index of failed states, or SQLite would not see that it serves.
            where.add("states.status IN ('ERRORED', 'NEXT_CREATED_ERROR')")
    before, floor = _range(view, query, bounded=run is None)
    where.add("states.seq < ? AND states.seq >= ?", before, floor)
    rows = view.execute(
        "SELECT seq, place, states.status, substr(error, 1, ?) AS error, retry_count, states.created_at,"
        " states.finished_at, worker, nodes.name, runs.run_id, runs.template, graphs.name AS graph_name"
        " FROM states JOIN nodes ON nodes.id = node_id JOIN runs ON runs.id = run"
        f" JOIN graphs ON graphs.id = runs.graph WHERE {where} ORDER BY seq DESC LIMIT ?",
        (MAX_ERROR_BYTES, *where.parameters, query.limit + 1),
    ).fetchall()
    page = rows[: query.limit]
    following = page[-1]["seq"] if len(rows) > len(page) else floor
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
            }
            for row in page
        ],
        "next": view.state_id(following) if following else None,
    }


def _range(view: View, query: StatesQuery, *, bounded: bool) -> tuple[int, int]:
    """Return between which numbers to look: below the first, from the second on."""
    if query.before is None:
        last = view.execute("SELECT max(seq) FROM states").fetchone()[0]
        before = (last or 0) + 1
    else:
        given = view.seq(query.before)
        if given is None:
            raise Refused(422, f"before is {query.before!r}, which is no id of a state here")
        before = given
    floor = max(0, before - WINDOW) if bounded else 0
    # Below the first state there is nothing to look for.
    return before, floor if floor > 1 else 0


def _find_run(view: View, namespace: str, run_id: str) -> int:
    """Return the number of a run of this namespace, or of one with states of its nodes."""
    row = view.row(
        "SELECT id FROM runs WHERE run_id = ?1 AND (namespace = ?2 OR EXISTS (SELECT 1 FROM states"
        " JOIN nodes ON nodes.id = node_id WHERE run = runs.id AND nodes.namespace = ?2))",
        (run_id, namespace),
    )
    if row is None:
        raise not_found(f"there is no run {run_id!r} in namespace {namespace!r}")
    number: int = row["id"]
    return number


def _find_node(view: View, namespace: str, name: str) -> int:
    row = view.row("SELECT id FROM nodes WHERE namespace = ? AND name = ?", (namespace, name))
    if row is None:
        raise not_found(f"there is no node {name!r} in namespace {namespace!r}")
    node_id: int = row["id"]
    return node_id


def _places(view: View, identifier: str, graph: int | None, run: int | None) -> list[tuple[int, int]]:
    """Return (template, place) wherever a version of the graph, or of the run's, has the identifier."""
    if run is not None:
        rows = view.execute("SELECT template AS id FROM runs WHERE id = ?", (run,))
    elif graph is not None:
        rows = view.execute("SELECT id FROM templates WHERE graph = ?", (graph,))
    else:
        raise Refused(422, "identifier names a place of a graph: give graph or run with it")
    return [
        (row["id"], place.index)
        for row in rows.fetchall()
        for place in view.template(row["id"]).places
        if place.identifier == identifier
    ]


_STATUS = {
    RunStatus.PENDING: "pending > 0",
    RunStatus.FAILED: "pending = 0 AND (errored > 0 OR success + retried = 0)",
    RunStatus.SUCCESS: "pending = 0 AND errored = 0 AND success + retried > 0",
}


def list_runs(view: View, namespace: str, query: RunsQuery) -> dict[str, Any]:
    """Return one page of a namespace's runs."""
    where = _Where()
    where.add("runs.namespace = ?", namespace)
    if query.graph is not None:
        where.add("runs.graph = ?", find_graph(view, namespace, query.graph)["id"])
    if query.status is not None:
        where.add(_STATUS[query.status])
    if query.since is not None:
        where.add("runs.created_at >= ?", moment_ms(query.since))
    if query.before is not None:
        where.add("(runs.created_at, runs.id) < (?, ?)", *_read_cursor(query.before))
    rows = view.execute(
        f"{RUNS} WHERE {where} ORDER BY runs.created_at DESC, runs.id DESC LIMIT ?",
        (*where.parameters, query.limit + 1),
    ).fetchall()
    page = rows[: query.limit]
    return {
        "runs": [run_summary(row) for row in page],
        "next": f"{page[-1]['created_at']}.{page[-1]['id']}" if len(rows) > len(page) else None,
    }


def _read_cursor(text: str) -> tuple[int, int]:
    at, dot, number = text.partition(".")
    if not (dot and all(part.isascii() and part.isdigit() and len(part) <= 18 for part in (at, number))):
        raise Refused(422, f"before is {text!r}, which no page of runs gave as its next")
    return int(at), int(number)
