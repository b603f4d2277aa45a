"""Pausing a node, so that none of its states is claimed, or the schedules of a graph, so that they trigger no
run.

A pause is a column of the row of the node or graph, so it is the same at every state manager, and stays when
a node is registered again or a graph is stored again. That of a node is one of all its versions. Running
states are not affected. A claim reads the column in the statement that searches for states (``claims``), so
that no claim that begins after the pause takes one.
"""

from __future__ import annotations

from collections.abc import Mapping

from exotrio.manager.rules.errors import NotFound
from exotrio.manager.store.effects import NO_EFFECTS, Effects, WithEffects
from exotrio.manager.store.transaction import Transaction

MAX_ANNOUNCED = 20_000
"""Waiting states of a resumed node whose runs are announced. A claim for one run (`exotrio run`) that misses
its announcement is repeated within 15 s."""


_NODES = "namespace = ? AND (name = ? OR (name >= ? AND name < ?))"


def pause_node(tx: Transaction, namespace: str, name: str) -> WithEffects[int]:
    """Pause a node; return since when it is paused, in Unix ms. Pausing it again changes nothing."""
    rows = tx.execute(
        f"UPDATE nodes SET paused_at = coalesce(paused_at, ?) WHERE {_NODES} RETURNING name, paused_at",
        (tx.now_ms, namespace, *_with_versions(name)),
    )
    since = _changed(tx, "node", namespace, name, dict(map(tuple, rows)), "node.pause")
    return WithEffects(since, NO_EFFECTS)


def pause_schedule(tx: Transaction, namespace: str, graph: str) -> WithEffects[int]:
    """Pause the schedule of a graph, as ``pause_node`` does."""
    rows = tx.execute(
        "UPDATE graphs SET paused_at = coalesce(paused_at, ?) WHERE namespace = ? AND name = ?"
        " RETURNING name, paused_at",
        (tx.now_ms, namespace, graph),
    )
    since = _changed(tx, "graph", namespace, graph, dict(map(tuple, rows)), "schedule.pause")
    return WithEffects(since, NO_EFFECTS)


def resume_node(tx: Transaction, namespace: str, name: str) -> WithEffects[None]:
    """Let states of a node be claimed again, and announce them."""
    rows = tx.execute(
        f"UPDATE nodes SET paused_at = NULL WHERE {_NODES} RETURNING name, id",
        (namespace, *_with_versions(name)),
    )
    nodes: dict[str, int] = dict(map(tuple, rows))
    _changed(tx, "node", namespace, name, nodes, "node.resume")
    effects = Effects(announced={*nodes.values()}, reopened={*nodes.values()})
    for node in nodes.values():
        runs = tx.execute(
            " UNION ".join(
                f"SELECT run FROM (SELECT run FROM states WHERE status = 'CREATED' AND {which}"
                " AND node_id = ? LIMIT ?) AS waiting"
                for which in ("lane IS NULL", "lane IS NOT NULL")
            ),
            (node, MAX_ANNOUNCED) * 2,
        )
        effects.announced.update((run, node) for (run,) in runs)
    return WithEffects(None, effects)


def resume_schedule(tx: Transaction, namespace: str, graph: str) -> WithEffects[None]:
    """Trigger a graph by its schedules again, from the next occurrence on; missed ones are not caught up."""
    rows = tx.execute(
        "UPDATE graphs SET paused_at = NULL WHERE namespace = ? AND name = ? RETURNING name, id",
        (namespace, graph),
    )
    _changed(tx, "graph", namespace, graph, dict(map(tuple, rows)), "schedule.resume")
    return WithEffects(None, NO_EFFECTS)


def _with_versions(node: str) -> tuple[str, str, str]:
    """Return the parameters of ``_NODES``: a node, and its versions, which sort between the other two."""
    return node, f"{node}@", f"{node}A"


def _changed(
    tx: Transaction, what: str, namespace: str, name: str, rows: Mapping[str, int], action: str
) -> int:
    """Record a change of rows, and return the value of the one that was named; NotFound if there is none."""
    if name not in rows:
        raise NotFound(f"there is no {what} {name!r} in namespace {namespace!r}")
    tx.record(action, namespace, name)
    return rows[name]
