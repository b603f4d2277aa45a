"""Registered nodes, graphs and namespaces, as the API lists them."""

from __future__ import annotations

from typing import Any

from pydantic_core import from_json

from exotrio._util.times import timestamp
from exotrio.manager.engine.graphs import GRAPHS, shown_graph
from exotrio.manager.store.port import View


def all_namespaces(view: View) -> list[str]:
    """Return the namespaces of registered nodes and of graphs, sorted."""
    rows = view.execute("SELECT namespace FROM nodes UNION SELECT namespace FROM graphs ORDER BY namespace")
    return [row[0] for row in rows]


def first_namespace(view: View) -> str | None:
    """Return the namespace to begin with: that of the newest run, else the first there is."""
    row = view.row("SELECT namespace FROM runs ORDER BY id DESC LIMIT 1")
    if row is not None:
        newest: str = row[0]
        return newest
    return next(iter(all_namespaces(view)), None)


def object_id(number: int) -> str:
    """Return the 24 hex digits under which nodes and graphs appear in lists."""
    return f"{number:024x}"


def list_nodes(view: View, namespace: str) -> list[dict[str, Any]]:
    """Return the registered nodes of a namespace, by name."""
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
        }
        for row in view.execute("SELECT * FROM nodes WHERE namespace = ? ORDER BY name", (namespace,))
    ]


def list_namespaces(view: View) -> list[str]:
    """Return the namespaces that have registered nodes, sorted."""
    return [row[0] for row in view.execute("SELECT DISTINCT namespace FROM nodes ORDER BY namespace")]


def list_graphs(view: View, namespace: str) -> list[dict[str, Any]]:
    """Return the graphs of a namespace, by name."""
    return [
        {"_id": object_id(row["id"]), "name": row["name"], "namespace": namespace, **shown_graph(view, row)}
        for row in view.execute(GRAPHS + " ORDER BY name", (namespace,)).fetchall()
    ]
