"""Which namespaces there are."""

from __future__ import annotations

from exotrio.manager.store.port import View


def all_of(view: View) -> list[str]:
    """Return the namespaces of registered nodes and of graphs, sorted."""
    rows = view.execute("SELECT namespace FROM nodes UNION SELECT namespace FROM graphs ORDER BY namespace")
    return [row[0] for row in rows]


def first(view: View) -> str | None:
    """Return the namespace to begin with: that of the newest run, else the first there is."""
    row = view.row("SELECT namespace FROM runs ORDER BY id DESC LIMIT 1")
    if row is not None:
        newest: str = row[0]
        return newest
    return next(iter(all_of(view)), None)


def nodes_of(view: View, namespace: str) -> dict[int, str]:
    """Return the registered nodes of a namespace: number to name."""
    rows = view.execute("SELECT id, name FROM nodes WHERE namespace = ? ORDER BY name", (namespace,))
    return {row["id"]: row["name"] for row in rows}
