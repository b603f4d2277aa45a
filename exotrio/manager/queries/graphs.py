"""Registered nodes, graphs and namespaces, as the API lists them and as the dashboard shows them."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from pydantic_core import from_json, to_json

from exotrio._fields.declared import ANY_TEXT, Declared, declared
from exotrio._util.error_message import message_line
from exotrio._util.times import timestamp
from exotrio._wire.v0 import RunSummary
from exotrio.graph import WITHOUT_RUNTIME
from exotrio.manager.engine.graphs import GRAPHS, paused, shown_graph
from exotrio.manager.queries.load import FAILED
from exotrio.manager.queries.paging import Page
from exotrio.manager.queries.runs import newest_runs, read_run
from exotrio.manager.rules.access import Caller, Permission
from exotrio.manager.rules.errors import NotFound
from exotrio.manager.store.driver import Row
from exotrio.manager.store.view import View

MAX_RUNS_SEARCHED = 1_000
"""The newest runs, among which the last one of each graph is found."""

MAX_PAGE_BYTES = 1024 * 1024
MAX_PAGE_GRAPHS = 1_000


# -- for the API


def all_namespaces(view: View, caller: Caller) -> list[str]:
    """Return the namespaces with registered nodes, graphs or limits that the caller may read, sorted."""
    names = " UNION ".join(f"SELECT namespace FROM {table}" for table in ("nodes", "graphs", "limits"))
    rows = view.execute(f"{names} ORDER BY namespace")
    return [row[0] for row in rows if caller.may(Permission.READ, row[0])]


def first_namespace(view: View, caller: Caller) -> str | None:
    """Return the namespace to show first: that of the newest run, otherwise the first by name; of those that
    the caller may read."""
    row = view.row("SELECT namespace FROM runs ORDER BY id DESC LIMIT 1")
    if row is not None and caller.may(Permission.READ, row[0]):
        return str(row[0])
    return next(iter(all_namespaces(view, caller)), None)


def object_id(number: int) -> str:
    """Return the 24 hex digits that lists show as the id of a node or a graph."""
    return f"{number:024x}"


def list_nodes(view: View, namespace: str) -> list[dict[str, Any]]:
    return [
        {
            "_id": object_id(row["id"]),
            "created_at": timestamp(row["created_at"]),
            "updated_at": timestamp(row["updated_at"]),
            "name": row["name"],
            "namespace": namespace,
            "runtime_name": row["runtime_name"],
            "runtime_namespace": namespace,
            "inputs_schema": from_json(row["inputs_schema"]),
            "outputs_schema": from_json(row["outputs_schema"]),
            "secrets": from_json(row["secrets"]),
            **paused(row),
        }
        for row in view.execute(
            "SELECT * FROM nodes WHERE namespace = ? AND name NOT IN (?, ?) ORDER BY name",
            (namespace, *WITHOUT_RUNTIME),
        )
    ]


def list_namespaces(view: View) -> list[str]:
    return [row[0] for row in view.execute("SELECT DISTINCT namespace FROM nodes ORDER BY namespace")]


def count_graphs(view: View, namespace: str) -> int:
    count: int = view.one("SELECT count(*) FROM graphs WHERE namespace = ?", (namespace,))[0]
    return count


def list_graphs(view: View, namespace: str, after: str = "") -> Page[bytes]:
    """Return the graphs after a name, each as JSON: up to ``MAX_PAGE_BYTES``, but at least one.

    The thread of the query makes the JSON: a graph may have megabytes.
    """
    sizes = view.execute(
        "SELECT name, length(body) FROM graphs JOIN templates ON templates.id = template"
        " WHERE namespace = ? AND name > ? ORDER BY name LIMIT ?",
        (namespace, after, MAX_PAGE_GRAPHS + 1),
    ).fetchall()
    totals = accumulate(size for _, size in sizes[:MAX_PAGE_GRAPHS])
    count = max(1, sum(total <= MAX_PAGE_BYTES for total in totals))
    last = sizes[:count][-1][0] if sizes else after
    rows = view.execute(GRAPHS + " AND name > ? AND name <= ? ORDER BY name", (namespace, after, last))
    graphs = [
        to_json(
            {
                "_id": object_id(row["id"]),
                "name": row["name"],
                "namespace": namespace,
                **shown_graph(view, row),
            }
        )
        for row in rows.fetchall()
    ]
    return Page(graphs, last if len(sizes) > count else None)


# -- for the dashboard


def show_graphs(view: View, namespace: str) -> list[dict[str, Any]]:
    """Return the graphs of a namespace, by name, each with its last run and its next scheduled one."""
    last: dict[str, RunSummary] = {}
    for row in newest_runs(view, namespace, MAX_RUNS_SEARCHED):
        if row["graph_name"] not in last:
            last[row["graph_name"]] = read_run(row)
    return [
        {
            "name": row["name"],
            "valid": row["validation_status"] == "VALID",
            "problems": from_json(row["validation_errors"]),
            "nodes": len(view.template(row["template"]).places),
            "updated_at": row["updated_at"],
            "next_at": row["next_at"],
            "paused_at": row["paused_at"],
            "last": last.get(row["name"]),
        }
        for row in view.execute(
            "SELECT name, template, graphs.updated_at, paused_at, validation_status, validation_errors,"
            " (SELECT min(next_at) FROM cron_triggers WHERE graph = graphs.id) AS next_at"
            " FROM graphs JOIN templates ON templates.id = template WHERE namespace = ? ORDER BY name",
            (namespace,),
        )
    ]


def graphs_using(view: View, namespace: str, node: str) -> list[str]:
    """Return the graphs of a namespace that use a node. This is cheap, since templates are cached."""
    return [
        row["name"]
        for row in view.execute(
            "SELECT name, template FROM graphs WHERE namespace = ? ORDER BY name", (namespace,)
        ).fetchall()
        if any(
            place.node_name == node and place.namespace == namespace
            for place in view.template(row["template"]).places
        )
    ]


def find_node(view: View, namespace: str, name: str) -> Row:
    """Return a registered node; raise NotFound if there is none."""
    row = view.row("SELECT * FROM nodes WHERE namespace = ? AND name = ?", (namespace, name))
    if row is None:
        raise NotFound(f"there is no node {name!r} in namespace {namespace!r}")
    return row


def input_fields(view: View, namespace: str, name: str) -> dict[str, Field]:
    """Return the inputs of a node by name; none if it is not registered."""
    row = view.row("SELECT inputs_schema FROM nodes WHERE namespace = ? AND name = ?", (namespace, name))
    return {} if row is None else {field.name: field for field in fields_of(row["inputs_schema"])}


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a node's inputs or outputs, as its schema describes it."""

    name: str
    values: Declared = ANY_TEXT
    description: str = ""


def fields_of(schema: str) -> list[Field]:
    properties = from_json(schema).get("properties")
    return [
        Field(name, declared(field), str(field.get("description", "")) if isinstance(field, dict) else "")
        for name, field in (properties if isinstance(properties, dict) else {}).items()
    ]


def last_failures(view: View, node_id: int, limit: int) -> list[dict[str, Any]]:
    """Return the states of a node that failed and were not retried, newest first.

    ``text`` is the whole error, and ``error`` the line in it that says what was raised.
    """
    rows = view.execute(
        f"SELECT seq, run, finished_at, worker, error FROM states WHERE node_id = ? AND {FAILED}"
        " ORDER BY finished_at DESC, seq DESC LIMIT ?",
        (node_id, limit),
    )
    return [
        {
            "id": view.state_id(row["seq"]),
            "run": row["run"],
            "at": row["finished_at"],
            "worker": row["worker"],
            "error": message_line(row["error"]),
            "text": row["error"],
        }
        for row in rows
    ]
