"""Runs that states start, for whose ends they wait: of a place that runs a graph, or called by a node.

A state that waits for runs is CREATED, in the lane ``WAITING`` and without an ``event``. Its runs are neither
started in the commit that creates it nor is their end delivered in the commit that ends them: a graph is
locked before runs are, and a run before those that it started. So each commit records what is due, in what it
writes anyway, and a transaction after it does that: at once (``background.Deliveries``), or after the next
sweep of any state manager. It locks, and reads again whether it is still due; so everything happens once.

====================== ======================================================================================
record                 what is done
====================== ======================================================================================
the state is due       ``start_children``: its runs are started, and it waits without a limit
``runs.awaited``       ``deliver_ends``, once the run has ended: the state ends with its outputs or its error;
                       that of a node gets them (``calls``) and, once it has all, is claimed again
``children_to_cancel`` ``child_cancellation``: the state ended while it waited, so its runs are cancelled
====================== ======================================================================================
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from pydantic_core import from_json

from exotrio._wire.children import CalledChild
from exotrio._wire.vocabulary import ValidationStatus
from exotrio.manager.engine.attempts import next_attempt
from exotrio.manager.engine.calls import Result, add_results, unstarted
from exotrio.manager.engine.changes import Changes
from exotrio.manager.engine.due_work import MAX_PER_STEP
from exotrio.manager.engine.following import need_to_follow
from exotrio.manager.engine.graphs import pin_graph
from exotrio.manager.engine.mailbox import end_state, resume
from exotrio.manager.engine.order import NEVER, WAITING
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
from exotrio.manager.rules.template import Place, Template
from exotrio.manager.store.cipher import Cipher
from exotrio.manager.store.driver import Row
from exotrio.manager.store.effects import NO_EFFECTS, Effects, WithEffects
from exotrio.manager.store.transaction import Transaction
from exotrio.manager.store.view import View

MAX_DEPTH = 100
"""Runs that may be above a run."""
MAX_BELOW = 100_000
"""Runs in flight below one run, at any depth: a graph that runs itself twice would have no other limit. What
transactions start at the same time comes on top."""
RUNS_ENDED = "its run ended"
"""Why the state of a node goes on, in its history."""
_WAITING = "lane = 'waiting' AND event IS NULL"


@dataclass(frozen=True, slots=True)
class Child:
    """A run to start: for which state, as which of its calls, of which graph, and with which values."""

    state: State
    call: str
    graph: str
    values: Mapping[str, str]
    started_by: str | None


def start_children(tx: Transaction, numbers: Sequence[int], cipher: Cipher) -> WithEffects[int]:
    """Start some of the runs that these states wait for, and return how many states were handled."""
    due = _due(tx, numbers)
    if not due:
        return WithEffects(0, NO_EFFECTS)
    seqs = sorted(row["seq"] for row in due)
    calling = [row["seq"] for row in due if row["calls_size"] is not None]
    named, _ = unstarted(tx, calling, MAX_PER_STEP)
    names = {(row["namespace"], name) for row in due for name in _graphs_of(tx, row, named)}
    pinned = _pinned(tx, names)
    runs = locked_runs_of(tx, seqs)
    which = f"{numbered(tx, CREATED)} AND {_WAITING} AND enqueue_after <= ?"
    states = read_states(tx, runs, which, (tx.items(seqs), tx.now_ms), tx.for_update("states"))
    # The states of a run that is being cancelled are about to end.
    states = [state for state in states if state.run_row.cancelled_at is None]
    read_texts(tx, "inputs", states)
    changes = Changes(tx, runs.values())
    started_by = {row["seq"]: row["started_by"] for row in due}
    by_graph: defaultdict[tuple[str, str, str], list[Child]] = defaultdict(list)
    failed: list[tuple[Child, str]] = []
    calling = [state.seq for state in states if state.calls_size is not None]
    calls, left = unstarted(tx, calling, MAX_PER_STEP)
    below = _in_flight_below(tx, runs.values())
    ended = set()
    for state in states:
        for child in _children_of(tx, state, calls.get(state.seq, ()), started_by[state.seq]):
            graph = state.run_row.namespace, child.graph
            if problem := _why_not(tx, child, below):
                failed.append((child, problem))
            elif graph not in names:  # it was called just now
                left.add(state.seq)
            else:
                below[state.run_row.top] += 1
                by_graph[*graph, state.scope(tx).template.version or ""].append(child)
    for each in sorted(by_graph):
        refused, effects = _start(tx, each, pinned.get(each[:2]), by_graph[each], cipher)
        failed += refused
        changes.effects.add(effects)
    results = []
    for child, problem in failed:
        error = f"graph {child.graph!r} cannot be run: {problem}"
        if child.state.calls_size is None:
            ended.add(child.state.seq)
            _fail(changes, child.state, error)
        else:
            results.append(Result(child.state.seq, child.call, None, error=error))
    complete = add_results(tx, calling, results)
    for state in states:
        if state.seq in complete:
            resume(changes, state, RUNS_ENDED)
        elif state.seq not in ended | left:
            # A place waits from now on; a node has waited since its execution ended.
            since = tx.now_ms if state.calls_size is None else state.updated_at
            changes.update(state, lane=WAITING, enqueue_after=NEVER, updated_at=since)
    commit_changes(changes)
    return WithEffects(len(states), changes.effects)


def _due(tx: Transaction, seqs: Sequence[int]) -> list[Row]:
    """Return what is needed to find the graphs of states whose runs are to be started."""
    columns = "seq, place, calls_size, runs.namespace, runs.template, started_by"
    return tx.execute(
        f"SELECT {columns} FROM states JOIN runs ON runs.id = run WHERE {tx.any_of('seq')}", (tx.items(seqs),)
    ).fetchall()


def _place(view: View, state: State) -> Place:
    return state.scope(view).template.places[state.place]


def _graphs_of(tx: Transaction, row: Row, calls: Mapping[int, Sequence[CalledChild]]) -> Iterable[str]:
    """Return the names of the graphs that a state runs, or calls."""
    graph = tx.template(row["template"]).places[row["place"]].graph
    return (call.graph for call in calls.get(row["seq"], ())) if graph is None else (graph.name,)


def _children_of(
    tx: Transaction, state: State, calls: Sequence[CalledChild], started_by: str | None
) -> Iterable[Child]:
    """Return the runs that a state wants and does not have."""
    for call in calls:
        yield Child(state, call.id, call.graph, call.inputs, started_by)
    graph = _place(tx, state).graph
    if graph is not None:
        yield Child(state, "", graph.name, from_json(state.inputs), started_by)


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


def _why_not(tx: Transaction, child: Child, below: Counter[int]) -> str | None:
    """Return why a state may start no further run below its own; None if it may."""
    run, place = child.state.run_row, _place(tx, child.state)
    rounds = None if place.graph is None else place.graph.max_rounds
    if rounds is not None and child.graph == run.graph_name and run.round + 1 >= rounds:
        return f"it has had its {rounds} rounds (max_rounds)"
    if run.depth >= MAX_DEPTH:
        return f"there are {MAX_DEPTH} runs above it, and more are not allowed"
    if below[run.top] >= MAX_BELOW:
        return f"there are {MAX_BELOW:,} runs in flight that one run led to, and more are not allowed"
    return None


def _start(
    tx: Transaction, graph: tuple[str, str, str], row: Row | None, children: Sequence[Child], cipher: Cipher
) -> WithEffects[list[tuple[Child, str]]]:
    """Start runs of one graph, by runs of one version; return those that are refused, and why."""
    namespace, name, version = graph
    if row is None:
        return WithEffects([(each, "it does not exist") for each in children], NO_EFFECTS)
    if (status := row["validation_status"]) != ValidationStatus.VALID:
        return WithEffects([(each, f"it is {status}") for each in children], NO_EFFECTS)
    template = tx.template(row["template"])
    refused: list[tuple[Child, str]] = []
    effects = Effects()
    waiting = [list(children)]
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


def _new_run(template: Template, graph: str, child: Child) -> NewRun:
    run = child.state.run_row
    inputs, store = divided(child.values, template)
    return NewRun(
        inputs=inputs,
        store=store,
        trace=child.state.parent_trace,
        origin=GRAPH,
        priority=run.priority,
        share=run.share,
        fair_key=run.fair_key,
        parent=Parent(
            parent_run=run.id,
            parent_state=child.state.seq,
            call=child.call,
            depth=run.depth + 1,
            round=run.round + 1 if graph == run.graph_name else 0,
            root=run.top,
            started_by=child.started_by,
        ),
    )


def deliver_ends(tx: Transaction, numbers: Sequence[int]) -> WithEffects[int]:
    """Tell states of these runs, for which they waited, that have ended; return how many runs those were."""
    rows = tx.execute(
        "SELECT id, parent_state, states.run FROM runs LEFT JOIN states ON seq = parent_state"
        f" WHERE {tx.any_of('id')}",
        (tx.items(numbers),),
    ).fetchall()
    parents: dict[int, int] = {row["id"]: row["parent_state"] for row in rows}
    above = {row["run"] for row in rows if row["run"] is not None}
    seqs = tx.items(sorted(set(parents.values())))
    locked = locked_runs(tx, tx.any_of("runs.id"), (tx.items(sorted({*parents, *above})),))
    # One that was retried by hand just now goes on.
    ended = [run for run in locked.values() if run.id in parents and run.awaited and not run.pending]
    which = f"{numbered(tx, CREATED)} AND {_WAITING}"
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
    if state.retry_count < _place(tx, state).retry_policy.max_retries:
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
