"""One state with its history, for both APIs and for pages."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from pydantic_core import from_json

from exotrio._util.error_message import message_line
from exotrio._util.times import from_unix_ms
from exotrio._wire.native import LogLine
from exotrio._wire.states import StateAttempt, StateCheckpoint, StateEvent, StateHistory, StateHolder
from exotrio._wire.v0 import StateDetail
from exotrio._wire.vocabulary import StateStatus
from exotrio.manager.engine.checkpoints import read_checkpoints
from exotrio.manager.engine.runs import RUNS
from exotrio.manager.engine.states import (
    PRUNED,
    QUEUED,
    RETRY_CREATED,
    RETRYABLE,
    find_state,
    get_state,
    shown_status,
)
from exotrio.manager.queries.branches import branches_of, condition_of
from exotrio.manager.queries.related import started_by
from exotrio.manager.queries.run import run_again
from exotrio.manager.queries.state_times import times_among
from exotrio.manager.queries.states import BY_HAND, CAUSE, LINE_OF_ERROR, MAX_SEARCHED, MAX_SEQ, RERUN
from exotrio.manager.queries.waiting import wait_reasons
from exotrio.manager.rules.errors import NotFound
from exotrio.manager.rules.lineage import output_path
from exotrio.manager.store.driver import Row
from exotrio.manager.store.view import View

MAX_SHOWN = 1_000
"""Maximum of events of a state, which may be handed over each second, and of attempts before and after it."""


def newest_event(view: View, state: Row | None = None) -> int | None:
    """Return the number of the newest event, of all states or of one."""
    where, parameters = ("", ()) if state is None else (" WHERE state = ?", (state["seq"],))
    row = view.row(f"SELECT max(id) AS id FROM events{where}", parameters)
    return None if row is None else row["id"]


def show_state(view: View, namespace: str, graph_name: str, run_id: str, state_id: str) -> StateDetail:
    """Return one state in full; all four values must match."""
    state = find_state(view, namespace, state_id)
    shown = state and StateDetail(**_detail(view, state, _run_of(view, state)))
    if not shown or shown.run_id != run_id or shown.graph_name != graph_name:
        raise NotFound(f"there is no state {state_id!r} in this run, graph and namespace")
    return shown


def show_history(view: View, namespace: str, state_id: str) -> StateHistory:
    """Return a state with its history, found by its id alone."""
    return history_of(view, namespace, get_state(view, namespace, state_id))


def history_of(view: View, namespace: str, state: Row) -> StateHistory:
    """Return a state with its history, as it is shown in a namespace: that of its node, or of its run. The
    runs that it started belong to that of its run, and are not shown in another one."""
    run, at = _run_of(view, state), times_among(view, [state])[state["seq"]]
    spent = at.spent(view.now_ms)
    place = view.template(state["template"]).places[state["place"]]
    reason = wait_reasons(view, namespace, [state]).get(state["seq"])
    return StateHistory(
        **{**_detail(view, state, run), "status": shown_status(state["status"], state["lane"])},
        **spent,
        late_ms=_late_ms(view, state) if spent["no_event"] else None,
        data=from_json(state["data"]) if state["status"] == PRUNED else None,
        retry_count=state["retry_count"],
        deliveries=state["deliveries"],
        requeued=bool(state["requeued"]),
        enqueue_after=from_unix_ms(state["enqueue_after"]),
        claimed_at=from_unix_ms(state["claimed_at"]),
        begun_at=None if at.never_began or state["claimed_at"] is None else from_unix_ms(state["begun_at"]),
        deadline=from_unix_ms(at.deadline),
        finished_at=from_unix_ms(state["finished_at"]),
        worker=state["worker"],
        holder=_holder_of(view, state) if state["status"] == QUEUED else None,
        stage=(at.stage or "RUNNING").lower() if state["status"] == QUEUED else None,
        paused_at=reason.at if reason and reason.kind == "paused" else None,
        waits_for=reason,
        events=[
            StateEvent(at=from_unix_ms(row["at"]), kind=row["kind"], worker=row["worker"])
            for row in reversed(
                view.execute(
                    "SELECT at, kind, worker FROM events WHERE state = ? ORDER BY id DESC LIMIT ?",
                    (state["seq"], MAX_SHOWN),
                ).fetchall()
            )
        ],
        attempts=_attempts_of(view, state),
        # A place that waits is not retried automatically.
        max_attempts=1 if place.wait else 1 + place.retry_policy.max_retries,
        logs=logs_of(view, state["seq"]),
        checkpoint=_checkpoint_of(view, state),
        runs_again=run_again(view, view.template(state["template"]), [(state["place"], state["groups"])])
        if state["status"] in RETRYABLE and state["cancelled_at"] is None
        else [],
        condition=condition_of(view, state),
        branches=branches_of(view, state),
        children=started_by(view, state)
        if run["has_children"] and namespace == state["run_namespace"]
        else [],
    )


def _late_ms(view: View, state: Row) -> int | None:
    """Return how long after the deadline of a state the event was sent that it waited for, if it was."""
    sent = view.row("SELECT sent_at FROM mailbox WHERE run = ? AND name = ?", (state["run"], state["event"]))
    return None if sent is None else max(0, sent["sent_at"] - state["enqueue_after"])


def _run_of(view: View, state: Row) -> Row:
    return view.one(RUNS + " WHERE runs.id = ?", (state["run"],))


def _detail(view: View, state: Row, run: Row) -> dict[str, Any]:
    """Return the fields of a ``StateDetail``."""
    places = view.template(run["template"]).places
    ancestors = [
        (places[row["place"]].identifier, view.state_id(row["seq"])) for row in chain(view, state["parent"])
    ]
    return {
        "id": view.state_id(state["seq"]),
        "node_name": state["name"],
        "identifier": places[state["place"]].identifier,
        "graph_name": run["graph_name"],
        "run_id": run["run_id"],
        "status": state["status"],
        "inputs": from_json(state["inputs"]),
        "outputs": from_json(state["outputs"]),
        "error": state["error"],
        "parents": dict(reversed(ancestors)),
        "created_at": from_unix_ms(state["created_at"]),
        "updated_at": from_unix_ms(max(state["updated_at"], state["finished_at"] or 0)),
    }


def chain(view: View, seq: int | None) -> Iterator[Row]:
    """Yield the states of a chain (seq, place, parent, outputs, retry_of), nearest first."""
    while seq is not None:
        row = view.one("SELECT seq, place, parent, outputs, retry_of FROM states WHERE seq = ?", (seq,))
        yield row
        seq = row["parent"]


def logs_of(view: View, seq: int) -> list[LogLine]:
    """Return what the last execution of a state with any output logged and printed."""
    row = view.row("SELECT lines FROM logs WHERE state = ?", (seq,))
    return [] if row is None else [LogLine.model_validate(line) for line in from_json(row["lines"])]


def _checkpoint_of(view: View, state: Row) -> StateCheckpoint | None:
    if state["checkpoint_size"] is None:
        return None
    row = read_checkpoints(view, [state["seq"]])[state["seq"]]
    return StateCheckpoint(
        number=row["number"],
        value=from_json(row["value"]),
        stored_at=from_unix_ms(row["at"]),
        age_ms=max(0, view.now_ms - row["at"]),
    )


def _holder_of(view: View, state: Row) -> StateHolder:
    until = state["lease_until"]
    return StateHolder(
        native=state["token"] is not None,
        worker=state["worker"],
        local=state["manager"] is not None,
        ttl_ms=None if until is None else max(0, until - view.lease_now),
    )


def _attempts_of(view: View, state: Row) -> list[StateAttempt]:
    """Return a state with the attempts that it replaced and those that replaced it, oldest first."""
    this = _attempt(view, "seq = ?", state["seq"])
    assert this is not None, "it was read in this transaction"
    attempts = [*reversed([*_follow(view, this, _earlier)]), this, *_follow(view, this, _later)]
    return [
        StateAttempt(
            id=view.state_id(attempt["seq"]),
            status=StateStatus(shown_status(attempt["status"], attempt["lane"])),
            retry_count=attempt["retry_count"],
            by_hand=attempt["cause"] == BY_HAND,
            rerun=attempt["cause"] == RERUN or (before is not None and attempt["retry_of"] is None),
            created_at=from_unix_ms(attempt["created_at"]),
            worker=attempt["worker"],
            error=attempt["error"] and message_line(attempt["error"]),
        )
        for before, attempt in zip([None, *attempts], attempts, strict=False)
    ]


def _follow(view: View, attempt: Row | None, next_of: Callable[[View, Row], Row | None]) -> Iterator[Row]:
    for _ in range(MAX_SHOWN):
        if attempt is None or (attempt := next_of(view, attempt)) is None:
            return
        yield attempt


def _earlier(view: View, attempt: Row) -> Row | None:
    if attempt["retry_of"] is not None:
        return _attempt(view, "seq = ?", attempt["retry_of"])
    # What follows a united node that ran again was created as at first: it has the path of what it replaces.
    since = [each["retry_of"] for each in chain(view, attempt["parent"]) if each["retry_of"] is not None]
    return _of_same_path(view, attempt, min(since), attempt["seq"]) if since else None


def _later(view: View, attempt: Row) -> Row | None:
    if attempt["status"] != RETRY_CREATED:
        return None
    retry = _attempt(view, "retry_of = ?", attempt["seq"])
    return retry or _of_same_path(view, attempt, attempt["seq"], MAX_SEQ, first=True)


def _of_same_path(view: View, attempt: Row, after: int, before: int, *, first: bool = False) -> Row | None:
    """Return the last or the first attempt with the path of one, between two numbers; it is searched among
    ``MAX_SEARCHED`` states of the run."""
    order = "ASC" if first else "DESC"
    path = attempt["path"]
    # Where it succeeds, its path is extended by the number of its output, 0, which has no digits.
    paths = [path, output_path(path, 0), path.removesuffix(b"\0")]
    found = view.row(
        "SELECT seq FROM (SELECT seq, place, path FROM states WHERE run = ? AND seq > ? AND seq < ?"
        f" ORDER BY seq {order} LIMIT ?) AS searched WHERE place = ? AND path IN (?, ?, ?)"
        f" ORDER BY seq {order} LIMIT 1",
        (attempt["run"], after, before, MAX_SEARCHED, attempt["place"], *paths),
    )
    return None if found is None else _attempt(view, "seq = ?", found["seq"])


def _attempt(view: View, condition: str, seq: int) -> Row | None:
    return view.row(
        f"SELECT seq, run, place, parent, path, retry_of, status, lane, retry_count, {CAUSE}, created_at,"
        f" worker, {LINE_OF_ERROR} FROM states WHERE {condition}",
        (seq,),
    )
