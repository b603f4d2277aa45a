"""States: their statuses, and reading them, also to change them (``engine.changes``)."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from exotrio._wire.vocabulary import StateStatus
from exotrio.manager.rules.errors import NotFound
from exotrio.manager.rules.lineage import parent_in
from exotrio.manager.rules.template import Template
from exotrio.manager.store.driver import Row
from exotrio.manager.store.transaction import Transaction
from exotrio.manager.store.view import View

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


@dataclass(frozen=True, slots=True)
class RunScope:
    """The run that changes happen in."""

    id: int
    template: Template


@dataclass(slots=True, kw_only=True)
class NewState:
    """A state to insert. ``inputs`` and ``outputs`` are JSON text.

    ``limits`` is that column of the state that it replaces; otherwise ``limit_keys`` has the names of its
    limits, with the keys.
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
    limit_keys: Mapping[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class State:
    """A state as it was read, to be changed: code that changes it in the database also changes it here.

    ``inputs`` and ``outputs`` may be large; ``read_texts`` sets them. ``execution`` is the trace context of
    the execution that ends now.
    """

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
    limits: str | None
    template: int
    graph: int
    cancelled_at: int | None
    run_pending: int
    run_finished_at: int | None
    inputs: str = ""
    outputs: str = ""
    execution: str | None = None

    @property
    def parent_trace(self) -> str | None:
        """The trace context under which what follows it is executed."""
        return self.execution or parent_in(self.trace)

    def scope(self, view: View) -> RunScope:
        """Return its run."""
        return RunScope(self.run, view.template(self.template))


def waits_since(enqueue_after: int, updated_at: int, claimed_at: int | None) -> int:
    """Return since when a state waited for its claim, or waits: since it was due or, if it was held before,
    since it was given back.

    ``updated_at`` is the time of its creation, until the state is given back; one after the claim is that
    of its end, which a state manager of an earlier version stored.
    """
    is_end = claimed_at is not None and updated_at > claimed_at
    return enqueue_after if is_end else max(enqueue_after, updated_at)


_STATE = (
    "SELECT states.seq, run, place, node_id, status, error, data, parent, united, groups, path,"
    " enqueue_after, retry_count, manual_fanout_id, token, requeued, claimed_at, trace,"
    " states.finished_at, failed_since, checkpoint_size, states.updated_at, states.limits, runs.template,"
    " runs.graph, runs.cancelled_at, runs.pending, runs.finished_at"
    " FROM states CROSS JOIN runs ON runs.id = states.run"
    # In this order, so that SQLite does not go from all nodes of a namespace to all of their states.
    " CROSS JOIN nodes ON nodes.id = states.node_id"
)


def states_to_change(tx: Transaction, namespace: str, seqs: Collection[int]) -> dict[int, State]:
    """Lock those of these states that are of a namespace, and return them by number.

    No other transaction changes them, or the counters of their runs, until this one ends.
    """
    if not seqs:
        return {}
    numbers = sorted(seqs)
    tx.lock_runs_of(numbers)
    which = f"{tx.any_of('states.seq')} AND nodes.namespace = ?"
    states = read_states(tx, which, (tx.items(numbers), namespace), tx.for_update("states"))
    return {state.seq: state for state in states}


def read_states(view: View, which: str, parameters: tuple[object, ...], locked: str = "") -> list[State]:
    """Return the states that meet a condition by number, locked with ``Transaction.for_update``."""
    rows = view.execute(f"{_STATE} WHERE {which} ORDER BY states.seq{locked}", parameters)
    return [State(*row) for row in rows]


def numbered(view: View, status: str) -> str:
    """Return the condition that states have the numbers of one parameter, and are still in a status.

    Only the primary key can serve it. PostgreSQL keeps plans: one that uses the index of the states in that
    status, made while those were few, would later read all waiting states for each claim.
    """
    return f"{view.any_of('seq')} AND status || '' = '{status}'"


def read_texts(view: View, column: Literal["inputs", "outputs"], states: Collection[State]) -> None:
    """Read the inputs, or outputs, of these states."""
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


def find_state(view: View, namespace: str, state_id: str, *, or_run: bool = False) -> Row | None:
    """Return a state whose node is of a namespace, with its node, run and graph; None if there is none.

    With ``or_run`` it suffices that its run is of that namespace.
    """
    row = view.row(
        "SELECT states.*, nodes.namespace, nodes.name, nodes.runtime_name, runs.namespace AS run_namespace,"
        " runs.run_id, runs.template, runs.graph, runs.cancelled_at, graphs.name AS graph_name"
        " FROM states JOIN nodes ON nodes.id = states.node_id JOIN runs ON runs.id = states.run"
        " JOIN graphs ON graphs.id = runs.graph WHERE states.seq = ?",
        (view.seq(state_id),),
    )
    if row is None or namespace not in (row["namespace"], row["run_namespace"] if or_run else None):
        return None
    return row


def get_state(view: View, namespace: str, state_id: str, *, or_run: bool = False) -> Row:
    """Return a state as ``find_state`` does; raise NotFound if there is none."""
    if (state := find_state(view, namespace, state_id, or_run=or_run)) is None:
        raise NotFound(f"there is no state {state_id!r} in namespace {namespace!r}")
    return state
