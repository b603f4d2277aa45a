"""Runs that exist: find and cancel them, change their priority; and the secrets for the holder of a state."""

from __future__ import annotations

from collections import Counter

from exotrio._util.words import plural
from exotrio._wire.vocabulary import Priority
from exotrio.manager.engine.changes import Changes
from exotrio.manager.engine.ended_runs import IDLE
from exotrio.manager.engine.moves import move_pending
from exotrio.manager.engine.nodes import given_secrets
from exotrio.manager.engine.order import LEVELS, WAITING, give_turns_back
from exotrio.manager.engine.slots import end_otherwise
from exotrio.manager.engine.states import (
    CREATED,
    ERRORED,
    QUEUED,
    RunRow,
    add_events,
    cancel_children_later,
    get_state,
    locked_runs,
)
from exotrio.manager.engine.unfinished import CANCEL, HOLDS, MOVE, PORTION, REPIN, drop, end_retry, keep
from exotrio.manager.rules.errors import Conflict, Forbidden, InvalidRequest, NotFound
from exotrio.manager.store.driver import Row
from exotrio.manager.store.effects import NO_EFFECTS, WithEffects
from exotrio.manager.store.transaction import Transaction
from exotrio.manager.store.view import View

RUNS = (
    f"SELECT runs.*, graphs.name AS graph_name, {IDLE}, {HOLDS} AS holds,"
    " CAST(COALESCE((SELECT sum(counts.pruned) FROM counts WHERE run = runs.id), 0) AS BIGINT) AS pruned,"
    " (SELECT count(*) FROM states INDEXED BY states_waiting"
    " WHERE status = 'CREATED' AND lane = 'waiting' AND run = runs.id AND event IS NOT NULL) AS for_event,"
    " (SELECT count(*) FROM states INDEXED BY states_waiting WHERE status = 'CREATED' AND lane = 'waiting'"
    " AND run = runs.id AND event IS NULL) AS for_run,"
    " (SELECT above.run_id FROM runs AS above WHERE above.id = runs.parent_run) AS parent_run_id,"
    " (SELECT 1 FROM runs AS below WHERE below.parent_run = runs.id LIMIT 1) AS has_children"
    " FROM runs JOIN graphs ON graphs.id = runs.graph"
)

HELD = "SELECT seq FROM states INDEXED BY states_held WHERE run = ? AND status = 'QUEUED'"
"""The states of a run that runtimes hold."""


def cancel(tx: Transaction, namespace: str, run_id: str) -> WithEffects[None]:
    """End a run: waiting and running states are ERRORED with the error ``cancelled``; nothing follows.

    Runtimes that run one of its states learn it with their next heartbeat. A repeated request changes
    nothing. Of many states, the rest follows in portions (``portions``), and until then the run is pending.
    """
    run = lock_run(tx, namespace, run_id)
    if run.cancelled_at is not None:
        return WithEffects(None, NO_EFFECTS)
    if not run.pending:
        raise Conflict(f"the run {run_id} has already ended")
    changes = Changes(tx, [run])
    begin_to_cancel(changes, run)
    cancel_portion(changes, run)
    changes.apply()
    return WithEffects(None, changes.effects)


def begin_to_cancel(changes: Changes, run: RunRow, who: str | None = None, why: str = "") -> None:
    """Let a run, which is locked, be cancelled in portions: from now on none of its states is claimed.
    ``who`` and ``why`` are for the record."""
    tx, run.cancelled_at = changes.tx, changes.tx.now_ms
    tx.execute("UPDATE runs SET cancelled_at = ? WHERE id = ?", (run.cancelled_at, run.id))
    result = f"{plural(run.pending - end_retry(changes, run), 'state')} cancelled{why}"
    tx.record("run.cancel", run.namespace, run.run_id, result, who=who)
    drop(tx, run.id, (MOVE, REPIN))
    keep(tx, changes.effects, run.id, CANCEL, (0,))


def cancel_portion(changes: Changes, run: RunRow, last: int = 0) -> None:
    """Cancel the next pending states after the number ``last``, and at first all that are held."""
    tx, scope = changes.tx, run.scope(changes.tx)
    seqs = [] if last else [seq for (seq,) in tx.execute(HELD, (run.id,))]
    following = [
        seq
        for (seq,) in tx.execute(
            # Found by run and number only.
            "SELECT seq FROM states WHERE run = ? AND seq > ? AND status || '' IN ('CREATED', 'QUEUED')"
            " ORDER BY seq LIMIT ?",
            (run.id, last, PORTION),
        )
    ]
    states = tx.execute(
        # A waiting state has the worker of its last claim.
        "SELECT seq, node_id, place, status, limits, lane, lease_until, event,"
        " CASE WHEN status = 'QUEUED' THEN worker END AS worker FROM states"
        f" WHERE {tx.any_of('seq')} AND status || '' IN ('CREATED', 'QUEUED')"
        f" ORDER BY seq{tx.for_update('states')}",
        (tx.items(sorted({*seqs, *following})),),
    ).fetchall()
    for (place, status), count in Counter((state["place"], state["status"]) for state in states).items():
        # Without groups: no united node of this run will run any more.
        changes.transition(scope, place, "", status, ERRORED, count)
    tx.execute(
        # A waiting state has the time of its last claim, too, under which it did not end.
        "UPDATE states SET status = 'ERRORED', error = 'cancelled', finished_at = ?,"
        " claimed_at = CASE WHEN status = 'QUEUED' THEN claimed_at END"
        f" WHERE {tx.any_of('seq')}",
        (run.cancelled_at, tx.items([state["seq"] for state in states])),
    )
    end_otherwise(tx, changes.effects, states)
    add_events(tx, "cancelled", states)
    changes.effects.deliveries |= cancel_children_later(tx, states)
    if run.fair_key is not None:
        # Otherwise the next states of the key would wait for the turns of these, which nothing claims.
        in_order = run.priority, run.fair_key, run.share
        waiting = [
            state["node_id"] for state in states if state["status"] == CREATED and state["lane"] != WAITING
        ]
        give_turns_back(tx, [(node_id, *in_order) for node_id in waiting])
    if len(following) == PORTION:
        keep(tx, changes.effects, run.id, CANCEL, (following[-1],))
    else:
        drop(tx, run.id, [CANCEL])
        for place in scope.template.places if last else ():
            # Claims may have passed over no more of its states than ``MAX_CLOSED``, and wait.
            if (node_id := tx.node_id(place.namespace, place.node_name)) is not None:
                changes.effects.reopen(run.id, node_id)


def set_priority(tx: Transaction, namespace: str, run_id: str, priority: Priority) -> WithEffects[int]:
    """Give a run another priority: its waiting states are moved; held ones have it when they come back.

    Returns how many of its states follow in later transactions (``moves``).
    """
    run, level = lock_run(tx, namespace, run_id), LEVELS[priority]
    if run.priority == level:
        return WithEffects(0, NO_EFFECTS)
    tx.execute("UPDATE runs SET priority = ? WHERE id = ?", (level, run.id))
    tx.record("run.priority", namespace, run_id, priority)
    places = tx.template(run.template).places
    ids = {place.index: tx.node_id(place.namespace, place.node_name) for place in places}
    nodes = {place: (node_id, node_id) for place, node_id in ids.items() if node_id is not None}
    return move_pending(tx, run, level, nodes)


def find_run(view: View, namespace: str, run_id: str) -> Row:
    """Return a run of a namespace with the name of its graph; raise NotFound if there is none."""
    run = view.row(RUNS + " WHERE runs.run_id = ? AND runs.namespace = ?", (run_id, namespace))
    if run is None:
        raise _not_found(namespace, run_id)
    return run


def lock_run(tx: Transaction, namespace: str, run_id: str) -> RunRow:
    """Return a run as it is now; no other transaction changes its states until this one ends.

    Raises NotFound as ``find_run`` does.
    """
    for run in locked_runs(tx, "runs.run_id = ? AND runs.namespace = ?", (run_id, namespace)).values():
        return run
    raise _not_found(namespace, run_id)


def _not_found(namespace: str, run_id: str) -> NotFound:
    return NotFound(f"there is no run {run_id!r} in namespace {namespace!r}")


def secrets_of(
    view: View, namespace: str, state_id: str, token: str | None, owner: str | None = None
) -> tuple[str, str, dict[str, str]]:
    """Return (namespace, graph, name to ciphertext) for the secrets that a QUEUED state's node is given.

    ``token`` has to be that of the lease if the state is held under one. ``owner`` is the name of the key
    of the caller, if it has one (``states.State``).
    """
    state = get_state(view, namespace, state_id)
    if state["namespace"] != namespace:
        raise NotFound(f"the node of state {state_id!r} is not in namespace {namespace!r}")
    if state["status"] != QUEUED:
        raise InvalidRequest(f"secrets are given only while a state is QUEUED; this one is {state['status']}")
    if owner not in (None, state["owner"]):
        raise Forbidden(f"another key claimed the state; the key {owner!r} is not given its secrets")
    if state["token"] is not None and token != state["token"]:
        raise Forbidden("the state is held under a lease; only its holder is given secrets")
    graph = view.one("SELECT id, namespace, name FROM graphs WHERE id = ?", (state["graph"],))
    node = view.one("SELECT secrets, kept_secrets FROM nodes WHERE id = ?", (state["node_id"],))
    rows = view.execute(
        f"SELECT name, value FROM secrets WHERE graph = ? AND {view.any_of('name')}",
        (graph["id"], view.items(given_secrets(node))),
    )
    return graph["namespace"], graph["name"], {row["name"]: row["value"] for row in rows}
