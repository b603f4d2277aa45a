"""Pausing a node, so that none of its states is claimed, or the schedules of a graph, so that they trigger no
run.

A pause is a column of the row of the node or graph, so it is the same at every state manager, and stays when
a node is registered again or a graph is stored again. That of a node is one of all its versions. Running
states are not affected. A claim reads the column in the statement that searches for states (``claims``), so
that no claim that begins after the pause takes one.
"""

from __future__ import annotations

from exotrio.manager.rules.errors import NotFound
from exotrio.manager.store.effects import Effects, WithEffects
from exotrio.manager.store.transaction import Transaction

MAX_ANNOUNCED = 20_000
"""Waiting states of a resumed node whose runs are announced. A claim for one run (`exotrio run`) that misses
its announcement is repeated within 15 s."""
_ROWS = {"node": ("nodes", "(name = ? OR (name >= ? AND name < ?))"), "graph": ("graphs", "name = ?")}


def pause_node(tx: Transaction, namespace: str, name: str) -> int:
    """Pause a node; return since when it is paused, in Unix ms. Pausing it again changes nothing."""
    return _pause(tx, "node", namespace, name, "node.pause")


def pause_schedule(tx: Transaction, namespace: str, graph: str) -> int:
    """Pause the schedule of a graph, as ``pause_node`` does."""
    return _pause(tx, "graph", namespace, graph, "schedule.pause")


def _pause(tx: Transaction, what: str, namespace: str, name: str, action: str) -> int:
    since = _set(tx, what, namespace, name, "coalesce(paused_at, ?)", "paused_at", tx.now_ms)
    tx.record(action, namespace, name)
    return since[name]


def resume_node(tx: Transaction, namespace: str, name: str) -> WithEffects[None]:
    """Let states of a node be claimed again, and announce them."""
    nodes = {*_set(tx, "node", namespace, name, "NULL", "id").values()}
    tx.record("node.resume", namespace, name)
    effects = Effects(announced={*nodes}, reopened={*nodes})
    for node in nodes:
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


def resume_schedule(tx: Transaction, namespace: str, graph: str) -> None:
    """Trigger a graph by its schedules again, from the next occurrence on; missed ones are not caught up."""
    _set(tx, "graph", namespace, graph, "NULL", "id")
    tx.record("schedule.resume", namespace, graph)


def _set(
    tx: Transaction, what: str, namespace: str, name: str, value: str, returned: str, *parameters: int
) -> dict[str, int]:
    """Set ``paused_at`` of a node and its versions, or of a graph; return a column of each row, by name.
    NotFound if there is no row of that name."""
    table, which = _ROWS[what]
    # The versions of a node sort between these names.
    names = (name, f"{name}@", f"{name}A") if what == "node" else (name,)
    rows = tx.execute(
        f"UPDATE {table} SET paused_at = {value} WHERE namespace = ? AND {which} RETURNING name, {returned}",
        (*parameters, namespace, *names),
    )
    found: dict[str, int] = dict(map(tuple, rows))
    if name not in found:
        raise NotFound(f"there is no {what} {name!r} in namespace {namespace!r}")
    return found
