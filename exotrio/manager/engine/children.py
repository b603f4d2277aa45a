"""Runs that states start, for whose ends they wait: of a place that runs a graph, or called by a node.

A state that waits for runs is CREATED, in the lane ``WAITING`` and without an ``event``. Its runs are neither
started in the commit that creates it nor is their end delivered in the commit that ends them: a graph is
locked before runs are, and a run before those that it started. So each commit leaves a note, in what it
writes anyway, and a transaction after it does the rest: at once (``background.Deliveries``), or with the next
sweep of any state manager. It locks, reads the note again, and deletes it; so everything happens once.

====================== ======================================================================================
note                   what is done
====================== ======================================================================================
the state is due       ``start_children``: its runs are started, and it waits without a limit
``runs.awaited``       ``deliver_ends``, once the run has ended: the state ends with its outputs or its error;
                       that of a node gets them (``calls``) and, once it has all, is claimed again
``children_to_cancel`` ``child_cancellation``: the state ended while it waited, so its runs are cancelled
====================== ======================================================================================

A state manager of an earlier version creates such a state as one that can be claimed. It is due then.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from pydantic_core import from_json

from exotrio._wire.vocabulary import ValidationStatus
from exotrio.graph import GRAPH_NODE
from exotrio.manager.engine.attempts import next_attempt
from exotrio.manager.engine.calls import Call, Result, add_results, unstarted, with_unstarted
from exotrio.manager.engine.changes import Changes
from exotrio.manager.engine.following import need_to_follow
from exotrio.manager.engine.graphs import pin_graph
from exotrio.manager.engine.mailbox import end_state, resume
from exotrio.manager.engine.order import LATER, NEVER, WAITING
from exotrio.manager.engine.run_results import results_of
from exotrio.manager.engine.sources import Shared, read_shared
from exotrio.manager.engine.states import (
    CREATED,
    ERRORED,
    RETRY_CREATED,
    SUCCESS,
    RunRow,
    State,
    locked_runs,
    locked_runs_of,
    numbered,
    read_states,
    read_texts,
)
from exotrio.manager.engine.triggers import GRAPH, NewRun, Parent, start_runs
from exotrio.manager.engine.unites import commit_changes
from exotrio.manager.rules.children import divided
from exotrio.manager.rules.errors import EntriesRefused, InvalidRequest, NotFound, Refused
from exotrio.manager.rules.template import Template
from exotrio.manager.store.cipher import Cipher
from exotrio.manager.store.driver import Row
from exotrio.manager.store.effects import NO_EFFECTS, Effects, WithEffects
from exotrio.manager.store.transaction import Transaction

MAX_DEPTH = 100
"""Runs that may be above a run."""
MAX_BELOW = 100_000
"""Runs in flight below one run, at any depth: a graph that runs itself twice would have no other limit. What
transactions start at the same time comes on top."""
MAX_PER_STEP = 100
"""Runs that one transaction starts, or whose ends it delivers."""
TO_DELIVER = "SELECT id FROM runs INDEXED BY runs_to_deliver WHERE awaited = 1 AND finished_at IS NOT NULL"
"""What ``deliver_ends`` is for."""
RUNS_ENDED = "its run ended"
"""Why the state of a node goes on, in its history."""
STARTING = (
    "status = 'CREATED' AND lane = 'waiting' AND enqueue_after < 200000000000000 AND enqueue_after <= ?"
    " AND event IS NULL"
)
"""States whose runs are to be started, by the index ``states_deadlines``."""
_NOT_STORED = (
    "the graph was stored by a state manager of an earlier version, which left out what this place runs:"
    " store the graph again, and start another run"
)


@dataclass(frozen=True, slots=True)
class Wanted:
    """A run that a state wants: which of its runs it is, of which graph, and the values that it is given."""

    state: State
    call: str
    graph: str
    values: Mapping[str, str]
    started_by: str | None


def start_children(tx: Transaction, cipher: Cipher) -> WithEffects[int]:
    """Start some of the runs that states wait for, and return how many states were handled. Call it again
    until it returns 0."""
    due = _due(tx)
    if not due:
        return WithEffects(0, NO_EFFECTS)
    seqs = sorted(row["seq"] for row in due)
    calling = [row["seq"] for row in due if row["calls_size"] is not None]
    named = unstarted(tx, calling, MAX_PER_STEP)
    names = {(row["namespace"], name) for row in due for name in _graphs_of(tx, row, named)}
    pinned = _pinned(tx, names)
    runs = locked_runs_of(tx, seqs)
    which = f"{numbered(tx, CREATED)} AND ((lane = 'waiting' AND event IS NULL) OR lane IS NULL OR lane = ?)"
    which += " AND enqueue_after <= ?"
    parameters = (tx.items(seqs), LATER, tx.now_ms)
    states = read_states(tx, runs, which, parameters, tx.for_update("states"))
    read_texts(tx, "inputs", states)
    changes = Changes(tx, runs.values())
    started_by = {row["seq"]: row["started_by"] for row in due}
    by_graph: defaultdict[tuple[str, str, str], list[Wanted]] = defaultdict(list)
    failed: list[tuple[Wanted, str]] = []
    calling = [state.seq for state in states if state.calls_size is not None]
    calls = unstarted(tx, calling, MAX_PER_STEP)
    below = _in_flight_below(tx, runs.values())
    ended = set()
    for state in states:
        if state.calls_size is None and state.scope(tx).template.places[state.place].graph is None:
            ended.add(state.seq)
            _fail(changes, state, _NOT_STORED)
        for wanted in _wanted(tx, state, calls.get(state.seq, ()), started_by[state.seq]):
            graph = state.run_row.namespace, wanted.graph
            if problem := _why_not(tx, wanted, below):
                failed.append((wanted, problem))
            elif graph in names:  # else it was called just now
                below[state.run_row.top] += 1
                by_graph[*graph, state.scope(tx).template.version or ""].append(wanted)
    for each in sorted(by_graph):
        refused, effects = _start(tx, each, pinned.get(each[:2]), by_graph[each], cipher)
        failed += refused
        changes.effects.add(effects)
    results = []
    for wanted, problem in failed:
        error = f"graph {wanted.graph!r} cannot be run: {problem}"
        if wanted.state.calls_size is None:
            ended.add(wanted.state.seq)
            _fail(changes, wanted.state, error)
        else:
            results.append(Result(wanted.state.seq, wanted.call, None, error=error))
    complete = add_results(tx, calling, results)
    left = with_unstarted(tx, calling)
    for state in states:
        if state.seq in complete:
            resume(changes, state, RUNS_ENDED)
        elif state.seq not in ended | left:
            # A place waits from now on; a node has waited since its execution ended.
            since = tx.now_ms if state.calls_size is None else state.updated_at
            changes.update(state, lane=WAITING, enqueue_after=NEVER, updated_at=since)
    commit_changes(changes)
    return WithEffects(len(states), changes.effects)


def _due(tx: Transaction) -> list[Row]:
    """Return states whose runs are to be started, oldest first, with what is needed to find their graphs."""
    columns = "seq, place, calls_size, runs.namespace, runs.template, started_by"
    rows = tx.execute(
        f"SELECT {columns} FROM (SELECT seq, run, place, calls_size FROM states INDEXED BY states_deadlines"
        f" WHERE {STARTING} ORDER BY enqueue_after, seq LIMIT ?) AS due CROSS JOIN runs ON runs.id = run",
        (tx.now_ms, MAX_PER_STEP),
    ).fetchall()
    seqs = tx.items(claimable(tx, GRAPH_NODE, MAX_PER_STEP))
    of_earlier = f"SELECT {columns} FROM states JOIN runs ON runs.id = run WHERE {tx.any_of('seq')}"
    return rows + tx.execute(of_earlier, (seqs,)).fetchall()


def claimable(tx: Transaction, node_name: str, limit: int) -> list[int]:
    """Return some states of a node that no runtime runs, which a state manager of an earlier version created
    as ones that can be claimed."""
    nodes = tx.execute("SELECT id FROM nodes WHERE name = ? ORDER BY id", (node_name,))
    items, created = tx.items([row["id"] for row in nodes]), f"{tx.any_of('node_id')} AND status = 'CREATED'"
    rows = tx.execute(
        f"SELECT seq FROM states WHERE {created} AND lane IS NULL UNION ALL"
        f" SELECT seq FROM states WHERE {created} AND lane = '{LATER}' AND enqueue_after <= ? LIMIT ?",
        (items, items, tx.now_ms, limit),
    )
    return [row["seq"] for row in rows]


def _graphs_of(tx: Transaction, row: Row, calls: Mapping[int, Sequence[Call]]) -> Iterable[str]:
    """Return the names of the graphs that a state runs, or calls."""
    graph = tx.template(row["template"]).places[row["place"]].graph
    return (call.graph for call in calls.get(row["seq"], ())) if graph is None else (graph.name,)


def _wanted(tx: Transaction, state: State, calls: Sequence[Call], started_by: str | None) -> Iterable[Wanted]:
    """Return the runs that a state wants and does not have."""
    for call in calls:
        yield Wanted(state, call.key, call.graph, call.inputs, started_by)
    graph = state.scope(tx).template.places[state.place].graph
    if graph is not None:
        yield Wanted(state, "", graph.name, from_json(state.inputs), started_by)


def _pinned(tx: Transaction, graphs: Iterable[tuple[str, str]]) -> dict[tuple[str, str], Row]:
    """Return those of these graphs that exist; they stay as they are until the end of the transaction."""
    pinned = {}
    for namespace, name in sorted(graphs):
        try:
            pinned[namespace, name] = pin_graph(tx, namespace, name)
        except NotFound:
            continue
    return pinned


def _in_flight_below(tx: Transaction, runs: Iterable[RunRow]) -> Counter[int]:
    """Return how many runs are in flight below each run above which there is none."""
    rows = tx.execute(
        f"SELECT root, count(*) AS number FROM runs INDEXED BY runs_by_root WHERE {tx.any_of('root')}"
        " AND root IS NOT NULL AND pending > 0 GROUP BY root",
        (tx.items(sorted({run.top for run in runs})),),
    )
    return Counter({row["root"]: row["number"] for row in rows})


def _why_not(tx: Transaction, wanted: Wanted, below: Counter[int]) -> str | None:
    """Return why a state may start no further run below its own; None if it may."""
    run = wanted.state.run_row
    place = run.scope(tx).template.places[wanted.state.place]
    rounds = None if place.graph is None else place.graph.max_rounds
    if rounds is not None and wanted.graph == run.graph_name and run.round + 1 >= rounds:
        return f"it has had its {rounds} rounds (max_rounds)"
    if run.depth >= MAX_DEPTH:
        return f"there are {MAX_DEPTH} runs above it, and more are not allowed"
    if below[run.top] >= MAX_BELOW:
        return f"there are {MAX_BELOW:,} runs in flight that one run led to, and more are not allowed"
    return None


def _start(
    tx: Transaction, graph: tuple[str, str, str], row: Row | None, wanted: Sequence[Wanted], cipher: Cipher
) -> WithEffects[list[tuple[Wanted, str]]]:
    """Start runs of one graph, by runs of one version; return those that are refused, and why."""
    namespace, name, version = graph
    if row is None:
        return WithEffects([(each, "it does not exist") for each in wanted], NO_EFFECTS)
    if (status := row["validation_status"]) != ValidationStatus.VALID:
        return WithEffects([(each, f"it is {status}") for each in wanted], NO_EFFECTS)
    template = tx.template(row["template"])
    refused: list[tuple[Wanted, str]] = []
    effects = Effects()
    waiting = [list(wanted)]
    while waiting:
        batch = waiting.pop()
        try:
            with tx.attempt():
                runs = [_new_run(template, name, each) for each in batch]
                effects.add(start_runs(tx, namespace, name, runs, cipher, version or None).effects)
        except EntriesRefused as error:
            refused += [(batch[index], each.detail) for index, each in error.entries.items()]
            if left := [each for index, each in enumerate(batch) if index not in error.entries]:
                waiting.append(left)
        except InvalidRequest as error:  # too large together
            if len(batch) > 1:
                waiting += [batch[: len(batch) // 2], batch[len(batch) // 2 :]]
            else:
                refused.append((batch[0], error.detail))
        except Refused as error:
            refused += [(each, error.detail) for each in batch]
    return WithEffects(refused, effects)


def _new_run(template: Template, graph: str, wanted: Wanted) -> NewRun:
    run = wanted.state.run_row
    inputs, store = divided(wanted.values, template)
    return NewRun(
        inputs=inputs,
        store=store,
        trace=wanted.state.parent_trace,
        origin=GRAPH,
        priority=run.priority,
        share=run.share,
        fair_key=run.fair_key,
        parent=Parent(
            parent_run=run.id,
            parent_state=wanted.state.seq,
            call=wanted.call,
            depth=run.depth + 1,
            round=run.round + 1 if graph == run.graph_name else 0,
            root=run.top,
            started_by=wanted.started_by,
        ),
    )


def deliver_ends(tx: Transaction) -> WithEffects[int]:
    """Tell states of some runs, for which they waited, that have ended; return how many runs those were.
    Call it again until it returns 0."""
    parents: dict[int, int] = {
        row["id"]: row["parent_state"]
        for row in tx.execute(
            "SELECT id, parent_state FROM runs INDEXED BY runs_to_deliver"
            " WHERE awaited = 1 AND finished_at IS NOT NULL ORDER BY id LIMIT ?",
            (MAX_PER_STEP,),
        )
    }
    if not parents:
        return WithEffects(0, NO_EFFECTS)
    seqs = tx.items(sorted(set(parents.values())))
    above = {row["run"] for row in tx.execute(f"SELECT run FROM states WHERE {tx.any_of('seq')}", (seqs,))}
    locked = locked_runs(tx, tx.any_of("runs.id"), (tx.items(sorted({*parents, *above})),))
    # One that was retried by hand just now goes on.
    ended = [run for run in locked.values() if run.id in parents and run.awaited and not run.pending]
    which = f"{numbered(tx, CREATED)} AND lane = 'waiting' AND event IS NULL"
    states = {state.seq: state for state in read_states(tx, locked, which, (seqs,), tx.for_update("states"))}
    changes = Changes(tx, locked.values())
    delivered = [(run, states[parents[run.id]]) for run in ended if parents[run.id] in states]
    results = results_of(tx, [run for run, _ in delivered])
    shared = read_shared(tx, (need_to_follow(state.scope(tx), state) for _, state in delivered))
    read_texts(tx, "inputs", [state for run, state in delivered if isinstance(results[run.id], str)])
    called = [
        _result(state, run, results[run.id]) for run, state in delivered if state.calls_size is not None
    ]
    for seq in sorted(add_results(tx, {result.seq for result in called}, called)):
        resume(changes, states[seq], RUNS_ENDED)
    for run, state in delivered:
        result = results[run.id]
        if state.calls_size is not None:
            continue
        if isinstance(result, str):
            _fail(changes, state, result)
        else:
            _end(changes, shared, state, SUCCESS, outputs=result)
    tx.execute(
        f"UPDATE runs SET awaited = 0 WHERE {tx.any_of('id')} AND awaited = 1",
        (tx.items([run.id for run in ended]),),
    )
    commit_changes(changes)
    return WithEffects(len(ended), changes.effects)


def _result(state: State, run: RunRow, result: Mapping[str, str] | str) -> Result:
    outputs, error = (None, result) if isinstance(result, str) else (result, None)
    return Result(state.seq, str(run.call), run.run_id, outputs, error)


def _fail(changes: Changes, state: State, error: str) -> None:
    """End a state that waited for runs, by an error; its inputs have been read."""
    tx, run, status = changes.tx, state.scope(changes.tx), ERRORED
    if state.retry_count < run.template.places[state.place].retry_policy.max_retries:
        status = RETRY_CREATED
        attempt = next_attempt(run, state, tx.now_ms)
        attempt.waits = True
        changes.insert(run, attempt)
    _end(changes, Shared(), state, status, error=error)


def _end(
    changes: Changes,
    shared: Shared,
    state: State,
    status: str,
    *,
    outputs: Mapping[str, str] | None = None,
    error: str | None = None,
) -> None:
    """End a state that waited for runs. Its lane says that it did, and no runtime had it."""
    now = changes.tx.now_ms
    end_state(changes, shared, state, status, outputs=outputs or {}, error=error, until=now, lane=WAITING)
