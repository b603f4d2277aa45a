"""One state, for the native API and for pages: when it waited and ran, and all that happened to it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic_core import from_json

from exotrio._util.times import timestamp
from exotrio.manager.engine.states import CREATED, ERRORED, QUEUED, get_state
from exotrio.manager.queries.states import detail
from exotrio.manager.rules.errors import not_found
from exotrio.manager.store.driver import Row
from exotrio.manager.store.port import View

MAX_ATTEMPTS = 1_000
"""Maximum that is shown before a state, and after it."""


def find_state(view: View, namespace: str, state_id: str) -> Row:
    """Return a state whose run or whose node is of a namespace; refuse with 404 if there is none."""
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
    return view.one(
        "SELECT place, runs.run_id, runs.namespace, runs.template, graphs.name FROM states"
        " JOIN runs ON runs.id = run JOIN graphs ON graphs.id = runs.graph WHERE seq = ?",
        (seq,),
    )


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


def show_history(view: View, namespace: str, state_id: str, now: int) -> dict[str, Any]:
    """Return a state, found by its id alone. ``now`` is on the clock of leases, in ms."""
    state = get_state(view, namespace, state_id)
    return {
        **detail(view, state),
        "data": None if state["data"] is None else from_json(state["data"]),
        "retry_count": state["retry_count"],
        "deliveries": state["deliveries"],
        "requeued": bool(state["requeued"]),
        "enqueue_after": timestamp(state["enqueue_after"]),
        "claimed_at": _moment(state["claimed_at"]),
        "finished_at": _moment(state["finished_at"]),
        "worker": state["worker"],
        "holder": holder_of(state, now) if state["status"] == QUEUED else None,
        "paused_at": _moment(paused_since(view, state)),
        "events": [
            {"at": timestamp(row["at"]), "kind": row["kind"], "worker": row["worker"]}
            for row in reversed(events_of_state(view, state, 2**62))
        ],
        "attempts": attempts_of(view, state),
        "logs": logs_of(view, state["seq"]),
    }


def logs_of(view: View, seq: int) -> list[dict[str, Any]]:
    """Return what the last execution of a state with any output logged and printed, as ``LogLine``."""
    row = view.row("SELECT lines FROM logs WHERE state = ?", (seq,))
    lines = [] if row is None else from_json(row["lines"])
    return [{"level": None, "logger": None, **line} for line in lines]


def paused_since(view: View, state: Row) -> int | None:
    """Return since when the node is paused that a state waits for, in Unix ms; None if it waits for none."""
    if state["status"] != CREATED:
        return None
    row = view.row("SELECT paused_at FROM nodes WHERE id = ?", (state["node_id"],))
    return None if row is None else row["paused_at"]


def _moment(at: int | None) -> str | None:
    return None if at is None else timestamp(at)


def holder_of(state: Row, now: int) -> dict[str, Any]:
    """Return who holds a QUEUED state, and for how long."""
    until = state["lease_until"]
    return {
        "native": state["token"] is not None,
        "worker": state["worker"],
        "local": state["manager"] is not None,
        "ttl_ms": None if until is None else max(0, until - now),
    }


def attempts_of(view: View, state: Row) -> list[dict[str, Any]]:
    """Return a state with the attempts that it replaced and those that replaced it, oldest first."""
    before = list(_follow(view, "seq = ?", "retry_of", state["retry_of"]))
    after = list(_follow(view, "retry_of = ?", "seq", state["seq"]))
    attempts = [*reversed(before), state, *after]
    return [
        {
            "id": view.state_id(attempt["seq"]),
            "status": attempt["status"],
            "retry_count": attempt["retry_count"],
            # Automatic retries of it have the same id.
            "by_hand": attempt["manual_fanout_id"] is not None and attempt["retry_count"] == 0,
            "created_at": timestamp(attempt["created_at"]),
        }
        for attempt in attempts
    ]


def _follow(view: View, condition: str, column: str, seq: int | None) -> Iterator[Row]:
    """Yield the attempts before or after one, nearest first."""
    for _ in range(MAX_ATTEMPTS):
        row = None
        if seq is not None:
            row = view.row(
                "SELECT seq, retry_of, status, retry_count, manual_fanout_id, created_at FROM states"
                f" WHERE {condition}",
                (seq,),
            )
        if row is None:
            return
        yield row
        seq = row[column]
