"""Pausing a node, so that none of its states is claimed, or the schedules of a graph, so that they trigger no
run.

A pause is a column of the row of the node or graph, so it is the same at every state manager, and stays when
a node is registered again or a graph is stored again. Running states are not affected. A claim reads the
column in the statement that searches for states (``claims``), so that no claim that begins after the pause
takes one.
"""

from __future__ import annotations

from exotrio.manager.rules.errors import NotFound
from exotrio.manager.store.effects import NO_EFFECTS, Effects, WithEffects
from exotrio.manager.store.transaction import Transaction

MAX_ANNOUNCED = 20_000
"""Waiting states of a resumed node whose runs are announced. A claim for one run (`exotrio run`) that misses
its announcement is repeated within 15 s."""


def pause_node(tx: Transaction, namespace: str, name: str) -> WithEffects[int]:
    """Pause a node; return since when it is paused, in Unix ms. Pausing it again changes nothing."""
    return _pause(tx, "nodes", "node", namespace, name, "node.pause")


def pause_schedule(tx: Transaction, namespace: str, graph: str) -> WithEffects[int]:
    """Pause the schedule of a graph, as ``pause_node`` does."""
    return _pause(tx, "graphs", "graph", namespace, graph, "schedule.pause")


def resume_node(tx: Transaction, namespace: str, name: str) -> WithEffects[None]:
    """Let states of a node be claimed again, and announce them."""
    node = _resume(tx, "nodes", "node", namespace, name, "node.resume")
    runs = tx.execute(
        " UNION ".join(
            f"SELECT run FROM (SELECT run FROM states WHERE status = 'CREATED' AND {which} AND node_id = ?"
            " LIMIT ?) AS waiting"
            for which in ("lane IS NULL", "lane IS NOT NULL")
        ),
        (node, MAX_ANNOUNCED) * 2,
    )
    return WithEffects(None, Effects(announced={node, *((run, node) for (run,) in runs)}, reopened={node}))


def resume_schedule(tx: Transaction, namespace: str, graph: str) -> WithEffects[None]:
    """Trigger a graph by its schedules again, from the next occurrence on; missed ones are not caught up."""
    _resume(tx, "graphs", "graph", namespace, graph, "schedule.resume")
    return WithEffects(None, NO_EFFECTS)


def _pause(
    tx: Transaction, table: str, what: str, namespace: str, name: str, action: str
) -> WithEffects[int]:
    rows = tx.execute(
        f"UPDATE {table} SET paused_at = coalesce(paused_at, ?) WHERE namespace = ? AND name = ?"
        " RETURNING paused_at",
        (tx.now_ms, namespace, name),
    ).fetchall()
    for (paused_at,) in rows:
        tx.record(action, namespace, name)
        return WithEffects(int(paused_at), NO_EFFECTS)
    raise NotFound(f"there is no {what} {name!r} in namespace {namespace!r}")


def _resume(tx: Transaction, table: str, what: str, namespace: str, name: str, action: str) -> int:
    rows = tx.execute(
        f"UPDATE {table} SET paused_at = NULL WHERE namespace = ? AND name = ? RETURNING id",
        (namespace, name),
    ).fetchall()
    for (number,) in rows:
        tx.record(action, namespace, name)
        return int(number)
    raise NotFound(f"there is no {what} {name!r} in namespace {namespace!r}")
