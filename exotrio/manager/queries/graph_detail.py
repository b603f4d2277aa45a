"""Graphs as the dashboard lists and shows them."""

from __future__ import annotations

from typing import Any

from pydantic_core import from_json

from exotrio.manager.queries.runs import newest_runs, run_row
from exotrio.manager.store.driver import Row
from exotrio.manager.store.port import View

MAX_RUNS_SEARCHED = 1_000
"""Newest runs that are searched for the last one of each graph."""


def graph_names(view: View, namespace: str) -> list[str]:
    """Return the names of the graphs of a namespace, sorted."""
    rows = view.execute("SELECT name FROM graphs WHERE namespace = ? ORDER BY name", (namespace,))
    return [row["name"] for row in rows]


def show_graphs(view: View, namespace: str) -> list[dict[str, Any]]:
    """Return the graphs of a namespace, by name, each with its last run and its next scheduled one."""
    last: dict[str, dict[str, Any]] = {}
    for row in newest_runs(view, namespace, MAX_RUNS_SEARCHED):
        last.setdefault(row["graph_name"], run_row(row, view.now_ms))
    return [
        {
            "name": row["name"],
            "valid": row["validation_status"] == "VALID",
            "problems": from_json(row["validation_errors"]),
            "nodes": len(view.template(row["template"]).places),
            "updated_at": row["updated_at"],
            "next_at": row["next_at"],
            "last": last.get(row["name"]),
        }
        for row in view.execute(
            "SELECT name, template, graphs.updated_at, validation_status, validation_errors,"
            " (SELECT min(next_at) FROM schedules WHERE graph = graphs.id) AS next_at"
            " FROM graphs JOIN templates ON templates.id = template WHERE namespace = ? ORDER BY name",
            (namespace,),
        )
    ]


def graphs_using(view: View, namespace: str, node: str) -> list[str]:
    """Return the graphs of a namespace that use a node. Templates are kept parsed, so this is cheap."""
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


def secret_names(view: View, graph: Row) -> list[str]:
    """Return the names of a graph's secrets, sorted."""
    rows = view.execute("SELECT name FROM secrets WHERE graph = ? ORDER BY name", (graph["id"],))
    return [row["name"] for row in rows]


def next_firings(view: View, graph: Row) -> dict[str, int]:
    """Return when each cron expression of a graph fires next, in Unix milliseconds."""
    rows = view.execute("SELECT expression, next_at FROM schedules WHERE graph = ?", (graph["id"],))
    return {row["expression"]: row["next_at"] for row in rows}
