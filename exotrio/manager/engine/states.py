"""States: their statuses, and reading them, also to change them (``engine.changes``)."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import starmap
from typing import Literal, NamedTuple

from exotrio._wire.vocabulary import StateStatus
from exotrio.manager.engine.order import NORMAL, WAITING
from exotrio.manager.rules.errors import NotFound
from exotrio.manager.rules.lineage import parent_in
from exotrio.manager.rules.template import Template
from exotrio.manager.store.driver import Row, Rows
from exotrio.manager.store.transaction import Transaction
from exotrio.manager.store.view import View
from exotrio.manager.store.virtual_times import SHARE

CREATED = StateStatus.CREATED.value
QUEUED = StateStatus.QUEUED.value
EXECUTED = StateStatus.EXECUTED.value
SUCCESS = StateStatus.SUCCESS.value
ERRORED = StateStatus.ERRORED.value
NEXT_CREATED_ERROR = StateStatus.NEXT_CREATED_ERROR.value
RETRY_CREATED = StateStatus.RETRY_CREATED.value
PRUNED = StateStatus.PRUNED.value

STATUSES = (CREATED, QUEUED, EXECUTED, SUCCESS, ERRORED, NEXT_CREATED_ERROR, RETRY_CREATED, PRUNED)
RETRYABLE = (ERRORED, NEXT_CREATED_ERROR, PRUNED)
"""Those of a state that may be retried by hand."""
ENDED = frozenset({SUCCESS, ERRORED, NEXT_CREATED_ERROR, RETRY_CREATED, PRUNED})


class RunScope(NamedTuple):
    """The run that changes happen in, and in which order its states are claimed (``engine.order``)."""

    id: int
    template: Template
    priority: int = NORMAL
    share: int = SHARE
    fair_key: str | None = None


@dataclass(slots=True)
class RunRow:
    """A run that is locked, and its graph. Code that changes its numbers in the database also changes them
    here."""

    id: int
    run_id: str
    graph: int
    template: int
    created_at: int
    finished_at: int | None
    cancelled_at: int | None
    pending: int
    errored: int
    retried: int
    priority: int
    share: int
    fair_key: str | None
    depth: int
    round: int
    awaited: int
    root: int | None
    call: str | None
    namespace: str
    graph_name: str
    _scope: RunScope | None = None

    @property
    def top(self) -> int:
        """Id of the run above which there is none."""
        return self.root or self.id

    def scope(self, view: View) -> RunScope:
        """Return what changes need to know of the run: the same for all its states."""
        if self._scope is None:
            template = view.template(self.template)
            self._scope = RunScope(self.id, template, self.priority, self.share, self.fair_key)
        return self._scope


@dataclass(slots=True, kw_only=True)
class NewState:
    """A state to insert. ``inputs`` and ``outputs`` are JSON text.

    ``limits`` is that column of the state that it replaces; otherwise ``limit_keys`` has the names of its
    limits, with the keys. Without a ``turn`` it gets a new one. One that ``comes_due`` takes its place when
    it is claimed, as delayed ones do. One that ``waits`` does so for ``event``, until ``enqueue_after``.
    """

    place: int
    node_id: int
    status: str
    inputs: str
    parent: int | None
    groups: str
    path: bytes
    enqueue_after: int
    outputs: str = "{}"
    error: str | None = None
    united: bool = False
    retry_count: int = 0
    manual_fanout_id: str | None = None
    retry_of: int | None = None
    trace: str | None = None
    failed_since: int | None = None
    limits: str | None = None
    limit_keys: Mapping[str, str] | None = None
    turn: int | None = None
    comes_due: bool = False
    event: str | None = None
    waits: bool = False
    calls_size: int | None = None


@dataclass(slots=True)
class State:
    """A state as it was read, to be changed: code that changes it in the database also changes it here.
    Its run is locked.

    ``inputs`` and ``outputs`` may be large; ``read_texts`` sets them. ``execution`` is the trace context of
    the execution that ends now.

    ``owner`` is the name of the key with which it was claimed last. Only callers with a key of that name may
    report it, release it, renew its lease or read its secrets; and those without a name: they have the root
    key, or are state managers themselves.
    """

    run_row: RunRow
    seq: int
    run: int
    place: int
    node_id: int
    status: str
    error: str | None
    data: str | None
    parent: int | None
    united: int
    groups: str
    path: bytes
    enqueue_after: int
    retry_count: int
    manual_fanout_id: str | None
    token: str | None
    requeued: int
    claimed_at: int | None
    trace: str | None
    finished_at: int | None
    failed_since: int | None
    checkpoint_size: int | None
    updated_at: int
    priority: int
    turn: int
    limits: str | None
    event: str | None
    owner: str | None
    calls_size: int | None
    inputs: str = ""
    outputs: str = ""
    execution: str | None = None

    @property
    def parent_trace(self) -> str | None:
        """The trace context under which what follows it is executed."""
        return self.execution or parent_in(self.trace)

    @property
    def turn_again(self) -> int | None:
        """The turn of an attempt that replaces it; None for a new one, if its run has another priority since:
        those of two priorities cannot be compared."""
        return self.turn if self.priority == self.run_row.priority else None

    def scope(self, view: View) -> RunScope:
        return self.run_row._scope or self.run_row.scope(view)


def shown_status(status: str, lane: str | None) -> str:
    """Return the status of a state as the native API and pages show it."""
    return StateStatus.WAITING.value if lane == WAITING and status == CREATED else status


def waits_for_run(state: Row) -> bool:
    """Whether a state waits for the end of runs that it started, or is about to start."""
    return state["status"] == CREATED and state["lane"] == WAITING and state["event"] is None


def waits_since(enqueue_after: int, updated_at: int, claimed_at: int | None) -> int:
    """Return since when a state waited for its claim, or waits: since it was due or, if it was held before,
    since it was given back.

    ``updated_at`` is the time of its creation, until the state is given back; one after the claim is that
    of its end, which a state manager of an earlier version stored.
    """
    is_end = claimed_at is not None and updated_at > claimed_at
    return enqueue_after if is_end else max(enqueue_after, updated_at)


def locked_runs(tx: Transaction, which: str, parameters: tuple[object, ...]) -> dict[int, RunRow]:
    """Lock the runs that meet a condition until the end of the transaction, and return them by number.

    A use case that changes states of a run does this before it reads them. Claims and heartbeats need not,
    since they change no counter.
    """
    return {row.id: row for row in starmap(RunRow, _lock_runs(tx, which, parameters))}


def _lock_runs(tx: Transaction, which: str, parameters: tuple[object, ...]) -> Rows:
    return tx.execute(
        "SELECT runs.id, run_id, graph, runs.template, runs.created_at, finished_at, cancelled_at, pending,"
        " errored, retried, priority, share, fair_key, depth, round, awaited, root, call, graphs.namespace,"
        " name"
        " FROM runs CROSS JOIN graphs ON graphs.id = graph"
        f" WHERE {which} ORDER BY runs.id{tx.for_update('runs')}",
        parameters,
    )


def locked_runs_of(tx: Transaction, seqs: Sequence[int]) -> dict[int, RunRow]:
    """Lock the runs of these states, as ``locked_runs`` does."""
    return {row.id: row for row in starmap(RunRow, _lock_runs_of(tx, seqs))}


def _lock_runs_of(tx: Transaction, seqs: Sequence[int]) -> Rows:
    if (runs := tx.catalog.runs_of(seqs)) is not None:
        return _lock_runs(tx, tx.any_of("runs.id"), (tx.items(sorted(runs)),))
    which = f"runs.id IN (SELECT run FROM states WHERE {tx.any_of('seq')})"
    return _lock_runs(tx, which, (tx.items(seqs),))


def states_to_change(tx: Transaction, namespace: str, seqs: Collection[int]) -> dict[int, State]:
    """Lock those of these states that are of a namespace, and return them by number.

    No other transaction changes them, or the counters of their runs, until this one ends.
    """
    if not seqs:
        return {}
    numbers = sorted(seqs)
    locked = _lock_runs_of(tx, numbers)
    # Before the runs are read, so that both statements are sent together.
    rows = _select(tx, tx.any_of("seq"), (tx.items(numbers),), tx.for_update("states"))
    runs = {row.id: row for row in starmap(RunRow, locked)}
    places = {run.id: run.scope(tx).template.places for run in runs.values()}
    states = _states_of(runs, rows)
    return {state.seq: state for state in states if places[state.run][state.place].namespace == namespace}


def read_states(
    view: View, runs: Mapping[int, RunRow], which: str, parameters: tuple[object, ...], locked: str = ""
) -> list[State]:
    """Return the states of these runs, which are locked, that meet a condition, by number.

    ``locked`` is what ``Transaction.for_update`` returns, to lock the states as well.
    """
    return _states_of(runs, _select(view, which, parameters, locked))


def _select(view: View, which: str, parameters: tuple[object, ...], locked: str) -> Rows:
    return view.execute(
        "SELECT seq, run, place, node_id, status, error, data, parent, united, groups, path, enqueue_after,"
        " retry_count, manual_fanout_id, token, requeued, claimed_at, trace, finished_at, failed_since,"
        " checkpoint_size, updated_at, priority, turn, limits, event, owner, calls_size"
        f" FROM states WHERE {which} ORDER BY seq{locked}",
        parameters,
    )


def _states_of(runs: Mapping[int, RunRow], rows: Iterable[Row]) -> list[State]:
    # Of a deleted run some states may still be there.
    return [State(runs[run], seq, run, *others) for seq, run, *others in rows if run in runs]


def numbered(view: View, status: str) -> str:
    """Return the condition that states have the numbers of one parameter, and are still in a status.

    Only the primary key can serve it. PostgreSQL keeps plans: one that uses the index of the states in that
    status, made while those were few, would later read all waiting states for each claim.
    """
    return f"{view.any_of('seq')} AND status || '' = '{status}'"


def read_texts(view: View, column: Literal["inputs", "outputs"], states: Collection[State]) -> None:
    by_seq = {state.seq: state for state in states}
    if by_seq:
        texts = view.execute(
            f"SELECT seq, {column} FROM states WHERE {view.any_of('seq')}", (view.items(sorted(by_seq)),)
        )
        for seq, text in texts:
            setattr(by_seq[seq], column, text)


def size_of(text: str) -> int:
    """Return how many bytes a text takes."""
    return len(text) if text.isascii() else len(text.encode())


def add_events(tx: Transaction, kind: str, states: Iterable[Row]) -> None:
    """Add the same event to the histories of states (seq, worker), with the runtimes that held them."""
    rows = [(state["seq"], tx.now_ms, kind, state["worker"]) for state in states]
    tx.insert("events", ("state", "at", "kind", "worker"), rows)


def cancel_children_later(tx: Transaction, states: Iterable[Row]) -> bool:
    """Let the runs be cancelled for which states (seq, status, lane, event) wait that end now (``children``);
    return whether any waits for runs."""
    rows = [(state["seq"],) for state in states if waits_for_run(state)]
    return tx.insert_new("children_to_cancel", ("state",), rows) > 0


def find_state(view: View, namespace: str, state_id: str) -> Row | None:
    """Return a state whose run or node is of a namespace, with its node, run and graph; None if there is
    none."""
    row = view.row(
        "SELECT states.*, nodes.namespace, nodes.name, nodes.runtime_name, runs.namespace AS run_namespace,"
        " runs.run_id, runs.template, runs.graph, runs.cancelled_at, graphs.name AS graph_name"
        " FROM states JOIN nodes ON nodes.id = states.node_id JOIN runs ON runs.id = states.run"
        " JOIN graphs ON graphs.id = runs.graph WHERE states.seq = ?",
        (view.seq(state_id),),
    )
    return None if row is None or namespace not in (row["namespace"], row["run_namespace"]) else row


def get_state(view: View, namespace: str, state_id: str) -> Row:
    """Return a state as ``find_state`` does; raise NotFound if there is none."""
    if (state := find_state(view, namespace, state_id)) is None:
        raise NotFound(f"there is no state {state_id!r} in namespace {namespace!r}")
    return state
