"""Writing states, and the counters that every transition changes.

Each use case that changes states makes one ``Changes``, tells it every new state and every transition, and
lets ``unites.commit_changes`` apply it. Rows, updates and counters are gathered first and written together,
with one statement for each table, however many states there are.

Transactions that run side by side take their locks in one order, so that none waits for another in a circle:
runs by id, then states by number, then counters by key.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from functools import cache
from typing import Literal

from exotrio._wire.vocabulary import StateStatus
from exotrio.manager.engine.ended_runs import EndedRuns
from exotrio.manager.rules.errors import NotFound
from exotrio.manager.rules.lineage import split_groups
from exotrio.manager.rules.template import Template
from exotrio.manager.rules.traces import parent_in
from exotrio.manager.store.driver import Row
from exotrio.manager.store.effects import Effects
from exotrio.manager.store.tallies import bucket_of
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

PENDING = frozenset({CREATED, QUEUED, EXECUTED})
STATUSES = (CREATED, QUEUED, EXECUTED, SUCCESS, ERRORED, NEXT_CREATED_ERROR, RETRY_CREATED, PRUNED)
ENDED = frozenset({SUCCESS, ERRORED, NEXT_CREATED_ERROR, RETRY_CREATED, PRUNED})

_COUNTS = ("pending", "success", "errored", "next_created_error", "retry_created", "pruned")
_COLUMN = {status: 0 if status in PENDING else _COUNTS.index(status.lower()) for status in STATUSES}
_RUNS = ("pending", "success", "errored", "retried")
_RUN_COLUMN = {
    CREATED: 0, QUEUED: 0, EXECUTED: 0, SUCCESS: 1, PRUNED: 1,
    ERRORED: 2, NEXT_CREATED_ERROR: 2, RETRY_CREATED: 3,
}  # fmt: skip
_FINISHED_AT = (
    "finished_at",
    "CASE WHEN {pending} > 0 THEN NULL"
    " WHEN {pending} = pending AND {retried} = retried THEN finished_at ELSE {finished_at} END",
)
"""Of a run: when pending last became 0, or a failed state was replaced without that."""
_UNITE_COUNTERS = ("pending", "failed", "succeeded")
# A pruned or replaced member counts in none.
_UNITE_COLUMN = {CREATED: 0, QUEUED: 0, EXECUTED: 0, ERRORED: 1, NEXT_CREATED_ERROR: 1, SUCCESS: 2}


@dataclass(frozen=True, slots=True)
class RunScope:
    """The run that changes happen in."""

    id: int
    template: Template


@dataclass(slots=True, kw_only=True)
class NewState:
    """A state to insert. ``inputs`` and ``outputs`` are JSON text."""

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


@dataclass(slots=True)
class State:
    """A state as it was read, to be changed: whoever changes it in the database changes it here, too.

    ``inputs`` and ``outputs`` may be large. They are there only once ``read_texts`` was asked for them.
    ``execution`` is the trace context of the execution that ends now.
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


_STATE = (
    "SELECT states.seq, run, place, node_id, status, error, data, parent, united, groups, path,"
    " enqueue_after, retry_count, manual_fanout_id, token, requeued, claimed_at, trace, runs.template,"
    " runs.graph, runs.cancelled_at, runs.pending, runs.finished_at"
    " FROM states CROSS JOIN runs ON runs.id = states.run"
    # Not the other way round: from all nodes of a namespace to all of their states.
    " CROSS JOIN nodes ON nodes.id = states.node_id"
)


def states_to_change(tx: Transaction, namespace: str, seqs: Collection[int]) -> dict[int, State]:
    """Return those of these states that are of a namespace, by number.

    From now on nobody else changes them, or the counters of their runs, until the transaction ends.
    """
    if not seqs:
        return {}
    numbers = sorted(seqs)
    tx.lock_runs_of(numbers)
    rows = tx.execute(
        f"{_STATE} WHERE {tx.any_of('states.seq')} AND nodes.namespace = ? ORDER BY states.seq"
        + tx.for_update("states"),
        (tx.items(numbers), namespace),
    )
    return {row[0]: State(*row) for row in rows}


def failed_to_change(tx: Transaction, run: int) -> list[State]:
    """Return the failed states of a run, which is locked, by number. Nobody else changes them meanwhile."""
    rows = tx.execute(
        f"{_STATE} WHERE run = ? AND status IN ('ERRORED', 'NEXT_CREATED_ERROR') ORDER BY states.seq"
        + tx.for_update("states"),
        (run,),
    )
    return [State(*row) for row in rows]


def numbered(view: View, status: str) -> str:
    """Return the condition that states have the numbers of one parameter, and are still in a status.

    Only the primary key serves it. PostgreSQL keeps plans: one over an index of the states in that status,
    made while those were few, would later read all that wait for each claim.
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
    """Add the same to the history of states (seq, worker), with the runtimes that held them."""
    rows = [(state["seq"], tx.now_ms, kind, state["worker"]) for state in states]
    tx.insert("events", ("state", "at", "kind", "worker"), rows)


_COLUMNS = (
    "seq", "run", "place", "node_id", "status", "inputs", "outputs", "error", "parent", "united", "groups",
    "path", "enqueue_after", "retry_count", "manual_fanout_id", "created_at", "updated_at", "finished_at",
    "retry_of", "size", "trace",
)  # fmt: skip
"""Of a new state."""

MAX_GATHERED = 8 * 1024 * 1024
"""Bytes of new states that are inserted together, or of one. A statement has to fit into memory several
times, and siblings may each have the same large inputs. It also has to be made in a moment: PostgreSQL ends a
transaction that sends nothing for ten seconds, of which a busy machine may give this process a part."""
STATE_SIZE = 1024
"""Bytes of a new state besides its inputs and outputs."""


@cache
def _added(table: str, keys: tuple[str, ...], columns: tuple[str, ...]) -> str:
    """Return what follows ON CONFLICT if the columns of a row that exists are to grow by the given ones."""
    sums = ", ".join(f"{column} = {table}.{column} + excluded.{column}" for column in columns)
    return f"({', '.join(keys)}) DO UPDATE SET {sums}"


class Changes:
    """What one use case does to states: gathered first, written by ``apply``. Only new states that are large
    are inserted before. What ``states``, which were read before, say of their runs need not be read again."""

    def __init__(self, tx: Transaction, states: Iterable[State] = ()) -> None:
        self.tx = tx
        self._open = {state.run: state.run_pending for state in states if state.run_finished_at is None}
        self._rows: list[tuple[object, ...]] = []
        self._gathered = 0
        self._updates: defaultdict[tuple[str, ...], list[tuple[object, ...]]] = defaultdict(list)
        self._events: list[tuple[object, ...]] = []
        self._unite_members: dict[tuple[int, int, bytes], int] = {}
        self._counts: defaultdict[tuple[int, int], list[int]] = defaultdict(lambda: [0] * len(_COUNTS))
        self._runs: defaultdict[int, list[int]] = defaultdict(lambda: [0] * len(_RUNS))
        self._unite_counters: defaultdict[tuple[int, int], list[int]] = defaultdict(
            lambda: [0] * len(_UNITE_COUNTERS)
        )
        self._touched: dict[int, tuple[RunScope, int]] = {}
        self._executions: defaultdict[int, list[str]] = defaultdict(list)
        self.effects = Effects()
        self._ended_runs = EndedRuns(tx, self.effects)

    def insert(self, run: RunScope, state: NewState, *, seq: int | None = None) -> int:
        """Add a state and return its number."""
        seq = self._gather(run, state, seq)
        self.transition(run, state.place, state.groups, None, state.status)
        if state.status == SUCCESS:
            self.succeeded(run, seq, state.place, state.groups, state.path)
        return seq

    def insert_first(self, run: RunScope, state: NewState) -> None:
        """Add the state with which a run begins, and which the row of the run counts already.

        Not counting it saves two statements for a run or a list of them, and an eighth of the time of a list.
        """
        self._gather(run, state)
        self._counts[run.id, state.place][_COLUMN[state.status]] += 1

    def _gather(self, run: RunScope, state: NewState, seq: int | None = None) -> int:
        """Add the row of a state, announce it if it can be claimed, and return its number."""
        if seq is None:
            seq = self.tx.allocate()
        now, size = self.tx.now_ms, size_of(state.inputs)
        if self._gathered >= MAX_GATHERED:
            self._insert_rows()
        self._gathered += STATE_SIZE + size + len(state.outputs)
        self._rows.append(
            (
                seq, run.id, state.place, state.node_id, state.status, state.inputs, state.outputs,
                state.error, state.parent, state.united, state.groups, state.path, state.enqueue_after,
                state.retry_count, state.manual_fanout_id, now, now,
                None if state.status == CREATED else now, state.retry_of, size, state.trace,
            )
        )  # fmt: skip
        if state.status == CREATED:
            self.effects.claimable[seq] = run.id, state.node_id
        return seq

    def _insert_rows(self) -> None:
        self.tx.insert("states", _COLUMNS, sorted(self._rows))
        self._rows.clear()
        self._gathered = 0

    def transition(self, run: RunScope, place: int, groups: str, old: str | None, new: str) -> None:
        """Count the transition of a state of ``place`` from ``old`` (None: it is new) to ``new``."""
        self.transition_uncounted(run.id, place, old, new)
        if new in ENDED and new != old:
            self.announce_final(run.template, place, new)
        for target_state, target in split_groups(groups):
            counters = self._unite_counters[target_state, place]
            if new in _UNITE_COLUMN:
                counters[_UNITE_COLUMN[new]] += 1
            if old in _UNITE_COLUMN:
                counters[_UNITE_COLUMN[old]] -= 1
            self._touched[target_state] = (run, target)

    def update(self, state: State, **values: object) -> None:
        """Give columns of a state new values, provided that it still has its status and its token."""
        self._updates[tuple(values)].append((state.seq, state.status, state.token, *values.values()))

    def ended(self, state: State) -> None:
        """Keep the execution that ended a state for the united nodes whose groups it may complete."""
        for target_state, _ in split_groups(state.groups) if state.execution else ():
            self._executions[target_state].append(str(state.execution))

    def executions_in(self, target_state: int) -> list[str]:
        """Return the executions that ended in a group, oldest first."""
        return self._executions[target_state]

    def add_event(self, seq: int, kind: str) -> None:
        """Add something exceptional to a state's history."""
        self._events.append((seq, self.tx.now_ms, kind))

    def tally(self, graph: int, node_id: int, began_at: int | None, status: str) -> None:
        """Count a status that the state's own node caused, with the time that it took."""
        took_ms = self.tx.now_ms - (began_at or self.tx.now_ms)
        self.effects.tally[graph, node_id, status, bucket_of(took_ms)] += 1

    def transition_uncounted(self, run_id: int, place: int, old: str | None, new: str) -> None:
        """Count a transition for its place and its run, but not for groups."""
        counts = self._counts[run_id, place]
        counts[_COLUMN[new]] += 1
        runs = self._runs[run_id]
        runs[_RUN_COLUMN[new]] += 1
        if old is not None:
            counts[_COLUMN[old]] -= 1
            runs[_RUN_COLUMN[old]] -= 1

    def announce_final(self, template: Template, place: int, status: str) -> None:
        """Announce that a state got a status in which it stays, for the metrics."""
        node = template.places[place]
        self.effects.final[node.namespace, node.node_name, status] += 1

    def succeeded(self, run: RunScope, seq: int, place: int, groups: str, path: bytes) -> None:
        """Keep a success for the united nodes that read it as a member of their group."""
        for target_state, target in split_groups(groups):
            if place in run.template.aggregated[target]:
                self._unite_members[target_state, place, path] = seq

    def apply(self) -> dict[int, tuple[RunScope, int]]:
        """Write everything gathered so far; return the groups that changed: target state to (run, place)."""
        tx = self.tx
        self._insert_rows()
        for columns, rows in self._updates.items():
            tx.update("states", ("seq", "status", "token"), columns, sorted(rows))
        tx.insert("events", ("state", "at", "kind"), self._events)
        tx.insert(
            "unite_members",
            ("target_state", "place", "path", "state"),
            sorted((*key, seq) for key, seq in self._unite_members.items()),
            "(target_state, place, path) DO UPDATE SET state = excluded.state",
        )
        for table, keys, columns, counted in (
            ("counts", ("run", "place"), _COUNTS, self._counts),
            ("unite_counters", ("target_state", "place"), _UNITE_COUNTERS, self._unite_counters),
        ):
            tx.insert(
                table,
                (*keys, *columns),
                sorted((*key, *deltas) for key, deltas in counted.items() if any(deltas)),
                _added(table, keys, columns),
            )
        self._apply_to_runs()
        touched, self._touched = self._touched, {}
        for gathered in (self._updates, self._events, self._unite_members):
            gathered.clear()
        for counters in (self._counts, self._runs, self._unite_counters):
            counters.clear()
        return touched

    def _apply_to_runs(self) -> None:
        tx = self.tx
        changed = {run: deltas for run, deltas in self._runs.items() if any(deltas)}
        rows = sorted((run, tx.now_ms, *deltas) for run, deltas in changed.items())
        tx.update("runs", ("id",), ("finished_at",), rows, add=_RUNS, computed=(_FINISHED_AT,))
        self._open = {run: n for run, was in self._open.items() if (n := was + changed.get(run, (0,))[0])}
        for run, (pending, _, errored, _) in changed.items():
            self._ended_runs.change(run, pending=pending, errored=errored)
        # Others go on: one state of theirs followed another, or some are left.
        self._ended_runs.find(run for run, (n, *_) in changed.items() if n < 0 and run not in self._open)


def find_state(view: View, namespace: str, state_id: str) -> Row | None:
    """Return a state of a namespace with what its run says, or None."""
    if (seq := view.seq(state_id)) is None:
        return None
    return view.row(
        "SELECT states.*, nodes.namespace, nodes.name, runs.template, runs.graph, runs.cancelled_at"
        " FROM states JOIN nodes ON nodes.id = states.node_id JOIN runs ON runs.id = states.run"
        " WHERE states.seq = ? AND nodes.namespace = ?",
        (seq, namespace),
    )


def get_state(view: View, namespace: str, state_id: str) -> Row:
    """Return a state as ``find_state`` does; refuse with 404 if there is none."""
    if (state := find_state(view, namespace, state_id)) is None:
        raise NotFound(f"there is no state {state_id!r} in namespace {namespace!r}")
    return state
