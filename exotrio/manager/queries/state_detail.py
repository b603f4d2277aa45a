"""One state as the dashboard shows it: what it is, when it waited and ran, and its events."""

from __future__ import annotations

from typing import Any

from exotrio.manager.engine.states import CREATED, ERRORED
from exotrio.manager.rules.errors import not_found
from exotrio.manager.store.driver import Row
from exotrio.manager.store.port import View


def find_state(view: View, namespace: str, state_id: str) -> Row:
    """Return a state whose run or whose node is of a namespace.

    Raises:
        Refused: 404, there is none.
    """
    row = view.row(
        "SELECT states.*, nodes.name, nodes.namespace AS node_namespace, nodes.runtime_name, runs.run_id,"
        " runs.template, runs.cancelled_at, runs.namespace AS run_namespace, graphs.name AS graph_name"
        " FROM states JOIN nodes ON nodes.id = node_id JOIN runs ON runs.id = run"
        " JOIN graphs ON graphs.id = runs.graph WHERE seq = ?",
        (view.seq(state_id),),
    )
    if row is None or namespace not in (row["node_namespace"], row["run_namespace"]):
        raise not_found(f"there is no state {state_id!r} in namespace {namespace!r}")
    return row


def find_held(view: View, seq: int) -> Row:
    """Return a state that is held: its place, its run (run_id, namespace, template), its graph's name."""
    row = view.row(
        "SELECT place, runs.run_id, runs.namespace, runs.template, graphs.name FROM states"
        " JOIN runs ON runs.id = run JOIN graphs ON graphs.id = runs.graph WHERE seq = ?",
        (seq,),
    )
    assert row is not None, "a query sees one state of the database, in which it is held"
    return row


def newest_event(view: View, state: Row | None = None) -> int | None:
    """Return the number of the newest event, of all states or of one."""
    where, parameters = ("", ()) if state is None else (" WHERE state = ?", (state["seq"],))
    row = view.row(f"SELECT max(id) AS id FROM events{where}", parameters)
    return None if row is None else row["id"]


def events_of_state(view: View, state: Row, limit: int) -> list[Row]:
    """Return the newest events of a state (at, kind, worker), newest first."""
    return view.execute(
        "SELECT at, kind, worker FROM events WHERE state = ? ORDER BY id DESC LIMIT ?", (state["seq"], limit)
    ).fetchall()


def summarize(view: View, state: Row) -> dict[str, Any]:
    """Return what lists show of a state. Its row need not have more than the columns that are read here."""
    waited, ran = spent(state, view.now_ms)
    return {
        "id": view.state_id(state["seq"]),
        "status": state["status"],
        "cancelled": was_cancelled(state),
        "attempt": state["retry_count"] + 1,
        "waited": waited,
        "ran": ran,
        "worker": state["worker"],
    }


def times(state: Row) -> tuple[int, int | None, int | None]:
    """Return since when a state waited, since when it was held, and when it ended, in Unix ms.

    It waits from its creation or, if it was delayed, from when it became due. One that waits again after
    it was held counts as not held yet; its events tell what was before.
    """
    waits = max(state["created_at"], state["enqueue_after"])
    runs = None if state["status"] == CREATED else state["claimed_at"]
    ends = state["finished_at"]
    if runs is not None:
        waits = min(waits, runs)
    elif ends is not None:
        waits = min(waits, ends)
    return waits, runs, ends


def spent(state: Row, now_ms: int) -> tuple[int, int | None]:
    """Return for how many ms a state waited, and for how many it ran: None if it was never held."""
    waits, runs, ends = times(state)
    until = now_ms if ends is None else ends
    if runs is None:
        return max(0, until - waits), None
    return runs - waits, max(0, until - runs)


def was_cancelled(state: Row) -> bool:
    """Return whether a state ended because its run was cancelled."""
    return bool(state["status"] == ERRORED and state["error"] == "cancelled")
