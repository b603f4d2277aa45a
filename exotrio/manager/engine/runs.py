"""Runs: trigger (also by schedules), cancel and find them; and the secrets for the holder of a state."""

from __future__ import annotations

import uuid
from collections.abc import Mapping

from pydantic_core import from_json, to_json

from exotrio._util.times import next_occurrence_ms
from exotrio._wire.vocabulary import ValidationStatus
from exotrio.manager.engine.graphs import pin_graph
from exotrio.manager.engine.inputs import InputsError, Sources, build
from exotrio.manager.engine.managers import SCHEDULES, take_duty
from exotrio.manager.engine.states import (
    CREATED,
    ERRORED,
    QUEUED,
    Changes,
    NewState,
    RunScope,
    add_events,
    get_state,
)
from exotrio.manager.engine.unites import decide
from exotrio.manager.rules.errors import Refused, not_found
from exotrio.manager.store.driver import Row
from exotrio.manager.store.port import Transaction, View

RUNS = "SELECT runs.*, graphs.name AS graph_name FROM runs JOIN graphs ON graphs.id = runs.graph"


def trigger(
    tx: Transaction,
    namespace: str,
    graph_name: str,
    *,
    inputs: Mapping[str, str],
    store: Mapping[str, str],
    start_delay_ms: int = 0,
    run_id: str | None = None,
) -> str:
    """Start a run and return its id: run, store and root state together.

    ``inputs`` are values for inputs of the root: data, so placeholders in them stay as they are. Asking again
    with the same ``run_id`` finds the same run.
    """
    # Else the version that the run is to have could be deleted before the run is there.
    graph = pin_graph(tx, namespace, graph_name)
    if run_id is not None and _exists(tx, run_id, graph["id"]):
        return run_id
    if graph["validation_status"] != ValidationStatus.VALID:
        status = graph["validation_status"]
        raise Refused(400, f"the graph {graph_name!r} is {status} and cannot be triggered")
    template = tx.template(graph["template"])
    root = template.root
    node = tx.registered(root.namespace, root.node_name)
    assert node is not None, "a valid graph has only registered nodes"

    run_id = run_id or str(uuid.uuid4())
    inserted = tx.execute(
        "INSERT INTO runs (run_id, namespace, graph, template, created_at) VALUES (?, ?, ?, ?, ?)"
        " ON CONFLICT (run_id) DO NOTHING RETURNING id",
        (run_id, namespace, graph["id"], graph["template"], tx.now_ms),
    ).fetchall()
    if not inserted:
        # The same request came twice and the other one was faster.
        exists = _exists(tx, run_id, graph["id"])
        assert exists, "a run that was just started is not deleted"
        return run_id
    run = RunScope(inserted[0]["id"], template)
    stored = [(run.id, key, to_json(store[key]).decode()) for key in sorted(store)]
    tx.insert("store", ("run", "key", "value"), stored)
    declared = [name for name in root.inputs if name not in inputs]
    try:
        built = build(root, declared, Sources(tx, run, None), "", {})
    except InputsError as problem:
        raise Refused(400, str(problem)) from None
    if missing := [key for key in template.body.store_config.required_keys if key not in store]:
        raise Refused(400, f"the store lacks required keys: {', '.join(missing)}")
    built |= {name: inputs[name] for name in root.inputs if name in inputs}
    changes = Changes(tx)
    changes.insert(
        run,
        NewState(
            place=root.index,
            node_id=node.id,
            status=CREATED,
            inputs=to_json(built).decode(),
            parent=None,
            groups="",
            path=b"",
            enqueue_after=tx.now_ms + start_delay_ms,
        ),
    )
    decide(changes)
    tx.ready.add(run_id)
    return run_id


def _exists(tx: Transaction, run_id: str, graph: int) -> bool:
    """Whether a run exists; refuse with 409 if it belongs to another graph."""
    known = tx.row("SELECT graph FROM runs WHERE run_id = ?", (run_id,))
    if known is not None and known["graph"] != graph:
        raise Refused(409, f"the run {run_id} exists and belongs to another graph")
    return known is not None


def trigger_again(tx: Transaction, namespace: str, run_id: str, new_run_id: str) -> str:
    """Start a run of the same graph with the inputs and the store of another, and return its id."""
    run = find_run(tx, namespace, run_id)
    first = tx.row("SELECT inputs FROM states WHERE run = ? ORDER BY seq LIMIT 1", (run["id"],))
    store = tx.execute("SELECT key, value FROM store WHERE run = ?", (run["id"],))
    return trigger(
        tx,
        namespace,
        run["graph_name"],
        inputs={} if first is None else from_json(first["inputs"]),
        store={row["key"]: from_json(row["value"]) for row in store},
        run_id=new_run_id,
    )


def fire_schedules(tx: Transaction) -> list[str]:
    """Trigger what is due by its cron expression; return a line for the log about each.

    The transaction that triggers a graph sets the following occurrence, so each fires exactly once, whatever
    crashes. After a time in which nothing ran, one missed occurrence fires, and the next is in the future.
    Nothing is triggered while another state manager does that.
    """
    if take_duty(tx, SCHEDULES) is None:
        return []
    lines = []
    later: list[tuple[int, str, int]] = []
    never: list[tuple[int, str]] = []
    for row in tx.execute(
        "SELECT graph, expression, namespace, name FROM schedules JOIN graphs ON graphs.id = graph"
        " WHERE next_at <= ? ORDER BY next_at, graph, expression",
        (tx.now_ms,),
    ).fetchall():
        what = f"cron {row['expression']!r} of graph {row['name']!r} in namespace {row['namespace']!r}"
        try:
            with tx.attempt():
                run_id = trigger(tx, row["namespace"], row["name"], inputs={}, store={})
            lines.append(f"{what} started run {run_id}")
        except Refused as refusal:
            # The graph is invalid just now, or needs a store key of its caller: it stays scheduled.
            lines.append(f"{what} could not start a run: {refusal.detail}")
        following = next_occurrence_ms(row["expression"], tx.now_ms)
        if following is None:
            never.append((row["graph"], row["expression"]))
        else:
            later.append((row["graph"], row["expression"], following))
    # If an upsert has taken one of them away meanwhile, all is undone and done again.
    tx.update("schedules", ("graph", "expression"), ("next_at",), sorted(later))
    tx.executemany("DELETE FROM schedules WHERE graph = ? AND expression = ?", sorted(never))
    return lines


def due_in_ms(view: View) -> int | None:
    """Return the milliseconds until the next schedule comes due, None if there is none."""
    due = view.execute("SELECT min(next_at) FROM schedules").fetchone()[0]
    return None if due is None else max(0, due - view.now_ms)


def cancel(tx: Transaction, namespace: str, run_id: str) -> None:
    """End a run: waiting and running states are ERRORED with the error ``cancelled``; nothing follows.

    Runtimes that run one of its states are told with their next heartbeat. Asking again changes nothing.
    """
    run = lock_run(tx, namespace, run_id)
    if run["cancelled_at"] is not None:
        return
    if not run["pending"]:
        raise Refused(409, f"the run {run_id} has already ended")
    template = tx.template(run["template"])
    changes = Changes(tx)
    states = tx.execute(
        # A waiting state may have a worker, too: the last one.
        "SELECT seq, place, status, CASE WHEN status = 'QUEUED' THEN worker END AS worker FROM states"
        f" WHERE run = ? AND status IN ('CREATED', 'QUEUED') ORDER BY seq{tx.for_update('states')}",
        (run["id"],),
    ).fetchall()
    for state in states:
        # Without groups: no united node of this run will run any more.
        changes.transition_uncounted(run["id"], state["place"], state["status"], ERRORED)
        changes.announce_final(template, state["place"], ERRORED)
    tx.execute(
        "UPDATE states SET status = 'ERRORED', error = 'cancelled', updated_at = ?1, finished_at = ?1"
        " WHERE run = ?2 AND status IN ('CREATED', 'QUEUED')",
        (tx.now_ms, run["id"]),
    )
    add_events(tx, "cancelled", states)
    changes.apply()
    tx.execute("UPDATE runs SET cancelled_at = ? WHERE id = ?", (tx.now_ms, run["id"]))


def find_run(view: View, namespace: str, run_id: str) -> Row:
    """Return a run of a namespace with the name of its graph; refuse with 404 if there is none."""
    run = view.row(RUNS + " WHERE runs.run_id = ? AND runs.namespace = ?", (run_id, namespace))
    if run is None:
        raise not_found(f"there is no run {run_id!r} in namespace {namespace!r}")
    return run


def lock_run(tx: Transaction, namespace: str, run_id: str) -> Row:
    """Return a run as ``find_run`` does; nobody else changes its states until the end of the transaction."""
    tx.lock_runs([find_run(tx, namespace, run_id)["id"]])
    return find_run(tx, namespace, run_id)  # again: it may have changed before the lock


def secrets_of(
    view: View, namespace: str, state_id: str, token: str | None
) -> tuple[str, str, dict[str, str]]:
    """Return (namespace, graph, name to ciphertext) for the secrets that a QUEUED state's node declares.

    The lease token is needed if the state is held under a lease.
    """
    state = get_state(view, namespace, state_id)
    if state["status"] != QUEUED:
        raise Refused(400, f"secrets are given only while a state is QUEUED; this one is {state['status']}")
    if state["token"] is not None and token != state["token"]:
        raise Refused(403, "the state is held under a lease; only its holder is given secrets")
    graph = view.row("SELECT id, namespace, name FROM graphs WHERE id = ?", (state["graph"],))
    assert graph is not None
    declared = view.execute("SELECT secrets FROM nodes WHERE id = ?", (state["node_id"],)).fetchone()[0]
    rows = view.execute(
        f"SELECT name, value FROM secrets WHERE graph = ? AND {view.any_of('name')}",
        (graph["id"], view.items(from_json(declared))),
    )
    return graph["namespace"], graph["name"], {row["name"]: row["value"] for row in rows}
