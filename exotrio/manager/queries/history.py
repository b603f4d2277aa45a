"""One state with all that happened to it, for the native API."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic_core import from_json

from exotrio._util.times import timestamp
from exotrio.manager.engine.states import QUEUED, get_state
from exotrio.manager.queries.states import detail
from exotrio.manager.store.driver import Row
from exotrio.manager.store.port import View

MAX_ATTEMPTS = 1_000
"""Maximum that is shown before a state, and after it."""


def show_history(view: View, namespace: str, state_id: str, now: int) -> dict[str, Any]:
    """Return a state, found by its id alone.

    Args:
        now: On the monotonic clock, ms: leases end on that.
    """
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
        "events": [
            {"at": timestamp(row["at"]), "kind": row["kind"], "worker": row["worker"]}
            for row in view.execute(
                "SELECT at, kind, worker FROM events WHERE state = ? ORDER BY id", (state["seq"],)
            )
        ],
        "attempts": attempts_of(view, state),
    }


def _moment(at: int | None) -> str | None:
    return None if at is None else timestamp(at)


def holder_of(state: Row, now: int) -> dict[str, Any]:
    """Return who holds a QUEUED state, and for how long."""
    until = state["lease_until"]
    return {
        "native": state["token"] is not None,
        "worker": state["worker"],
        "local": bool(state["local"]),
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
