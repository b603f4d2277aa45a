"""``Changes``: what one use case does to states, and the counters that every transition changes.

Each use case that changes states makes one ``Changes``, adds every new state and every transition, and lets
``unites.commit_changes`` apply it. Rows, updates and counters are gathered first and written together, with
one statement for each table, however many states there are.

Concurrent transactions take their locks in one order, so that none waits for another in a circle: runs by id,
then states by number, then counters by key.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from functools import cache
from itertools import repeat
from typing import Any

from exotrio._wire.vocabulary import PENDING
from exotrio.manager.engine.calls import CallChanges
from exotrio.manager.engine.checkpoints import CheckpointChanges
from exotrio.manager.engine.ended_runs import EndedRuns, ended_key
from exotrio.manager.engine.order import LAST_TURN, LATER, NEW_TURN, NORMAL, WAITING, keyed_turns
from exotrio.manager.engine.slots import columns_of
from exotrio.manager.engine.states import (
    CREATED,
    ENDED,
    ERRORED,
    EXECUTED,
    NEXT_CREATED_ERROR,
    PRUNED,
    QUEUED,
    RETRY_CREATED,
    STATUSES,
    SUCCESS,
    NewState,
    RunRow,
    RunScope,
    State,
    size_of,
)
from exotrio.manager.rules.lineage import is_further, split_groups
from exotrio.manager.store.effects import Effects
from exotrio.manager.store.tallies import ANY_GRAPH, BUFFERED, WAITED, bucket_of, minute_of
from exotrio.manager.store.transaction import Transaction

_COUNTS = ("pending", "success", "errored", "next_created_error", "retry_created", "pruned", "further")
_FURTHER = _COUNTS.index("further")
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
"""``finished_at`` of a run: when pending last became 0, or a failed state was replaced while it was 0."""
_LAST_TURN = "turn = CASE WHEN excluded.turn > counts.turn THEN excluded.turn ELSE counts.turn END"
_UNITE_COUNTERS = ("pending", "failed", "succeeded")
# A pruned or replaced member counts in none.
_UNITE_COLUMN = {CREATED: 0, QUEUED: 0, EXECUTED: 0, ERRORED: 1, NEXT_CREATED_ERROR: 1, SUCCESS: 2}


_COLUMNS: tuple[str, ...] = (
    "seq", "run", "place", "node_id", "status", "inputs", "parent", "groups", "path", "enqueue_after",
    "created_at", "updated_at", "size", "turn",
)  # fmt: skip
"""Columns of each new state."""
_TURN = _COLUMNS.index("turn")
_SELDOM: Mapping[str, object] = {
    "outputs": "{}", "error": None, "united": False, "retry_count": 0, "manual_fanout_id": None,
    "finished_at": None, "retry_of": None, "trace": None, "failed_since": None, "priority": NORMAL,
    "lane": None, "calls_size": None, "limits": None, "event": None,
}  # fmt: skip
"""Columns that new states seldom need, and what they have then. Without them the statement is shorter and
takes a third less time."""
_DEFAULTS = tuple(_SELDOM.values())
_MANY = 8
"""New states that are inserted only with those of these columns which one of them needs. Of fewer with all,
if one needs any: for each set of columns there is another statement to prepare."""

MAX_GATHERED = 8 * 1024 * 1024
"""Bytes of new states that are inserted together, or of one. A statement has to fit into memory several
times, and siblings may each have the same large inputs. It also has to be built quickly, even on a busy
machine: PostgreSQL ends a transaction that sends nothing for ten seconds."""
STATE_SIZE = 1024
"""Bytes of a new state besides its inputs and outputs."""


@cache
def _added(table: str, keys: tuple[str, ...], columns: tuple[str, ...]) -> str:
    """Return what follows ON CONFLICT to add the columns to those of an existing row."""
    sums = ", ".join(f"{column} = {table}.{column} + excluded.{column}" for column in columns)
    return f"({', '.join(keys)}) DO UPDATE SET {sums}"


class Changes:
    """What one use case does to states: gathered first, and written by ``apply``; large new states are
    written earlier.

    ``runs`` are those that it may end, as they are now: locked. ``effects`` are those that the use case
    returns in the end. ``waiting`` has the states that begin to wait for an event, which may have been sent
    before: the run and the name, by the number of the state. ``ended`` has those that hold their limits no
    more, as ``slots.free`` takes them.
    """

    def __init__(self, tx: Transaction, runs: Iterable[RunRow] = ()) -> None:
        self.tx = tx
        self._minute = minute_of(tx.now_ms)
        self.locked = {run.id: run for run in runs}
        self.waiting: dict[int, tuple[int, str]] = {}
        self.ended: list[tuple[int, str | None]] = []
        self._rows: list[tuple[Any, ...]] = []
        self._seldom: list[tuple[object, ...]] = []
        self._gathered = 0
        self._limit_keys: dict[int, tuple[int, Mapping[str, str]]] = {}
        self._updates: defaultdict[tuple[str, ...], list[tuple[object, ...]]] = defaultdict(list)
        self._virtual_times: dict[tuple[int, int], int] = {}
        self._shares: defaultdict[tuple[int, int], int] = defaultdict(int)
        self._newest: dict[tuple[int, int], int] = {}
        self._first: set[int] = set()
        self._keyed: dict[int, tuple[int, int, str, int]] = {}
        self._events: list[tuple[object, ...]] = []
        self._unite_members: dict[tuple[int, int, bytes], int] = {}
        self._counts: defaultdict[tuple[int, int], list[int]] = defaultdict(lambda: [0] * len(_COUNTS))
        self._runs: defaultdict[int, list[int]] = defaultdict(lambda: [0] * len(_RUNS))
        self._transitions: defaultdict[tuple[RunScope, int, str | None, str], int] = defaultdict(int)
        self._unite_counters: defaultdict[tuple[int, int], list[int]] = defaultdict(
            lambda: [0] * len(_UNITE_COUNTERS)
        )
        self._touched: dict[int, tuple[RunScope, int]] = {}
        self._reopened: set[int] = set()
        self._executions: defaultdict[int, list[str]] = defaultdict(list)
        self.checkpoints = CheckpointChanges()
        self.calls = CallChanges()
        self.effects = Effects()
        self.ended_runs = EndedRuns(tx, self.effects)

    def insert(self, run: RunScope, state: NewState, *, seq: int | None = None) -> int:
        """Add a state and return its number."""
        seq = self._gather(run, state, seq)
        if state.status == CREATED and state.waits and state.event is not None:
            self.waiting[seq] = run.id, state.event
        self.transition(run, state.place, state.groups, None, state.status)
        if state.status == SUCCESS:
            self.add_member(run, seq, state.place, state.groups, state.path)
            self._counts[run.id, state.place][_FURTHER] += is_further(state.path)
        return seq

    def insert_first(self, run: RunScope, state: NewState) -> None:
        """Add the pending state with which a new run begins, and which the row of the run counts already.

        Nothing is counted yet at its place, so neither its turn nor that count depends on what is stored.
        """
        seq = self.tx.allocate()
        self._first.add(seq)
        self._gather(run, state, seq)

    def _gather(self, run: RunScope, state: NewState, seq: int | None = None) -> int:
        """Add the row of a state, announce it if it can be claimed, and return its number."""
        if seq is None:
            seq = self.tx.allocate()
        now, size = self.tx.now_ms, size_of(state.inputs)
        self._gathered += STATE_SIZE + size + len(state.outputs)
        turn = shares = 0
        lane = LATER if state.comes_due or state.enqueue_after > now else None
        if state.status == CREATED and state.waits:
            lane = WAITING
            self.effects.deliveries |= state.event is None
        elif state.status == CREATED:
            self.effects.claimable[seq] = run.id, state.node_id
            turn, shares = self._turn(run, state, seq)
        self._rows.append((
            seq, run.id, state.place, state.node_id, state.status, state.inputs, state.parent,
            state.groups, state.path, state.enqueue_after, now, now, size, turn, shares,
        ))  # fmt: skip
        self._seldom.append((
            state.outputs, state.error, state.united, state.retry_count, state.manual_fanout_id,
            None if state.status == CREATED else now, state.retry_of, state.trace, state.failed_since,
            run.priority, lane, state.calls_size, state.limits, state.event,
        ))  # fmt: skip
        if state.limit_keys:
            self._limit_keys[seq] = run.id, state.limit_keys
        if self._gathered >= MAX_GATHERED:
            self._insert_rows()
        return seq

    def _turn(self, run: RunScope, state: NewState, seq: int) -> tuple[int, int]:
        """Return the turn of a new state, and the shares to add to the last one of its place."""
        if state.turn is not None:
            return state.turn, 0
        place, is_first = (run.id, state.place), seq in self._first
        if not is_first:
            self._newest[place] = seq
        if run.fair_key is not None:
            self._keyed[seq] = state.node_id, run.priority, run.fair_key, run.share
            return 0, 0
        node = state.node_id, run.priority
        if node not in self._virtual_times:
            self._virtual_times[node] = self.tx.virtual_times.of(self.tx, *node)
        if is_first:
            return self._virtual_times[node] + run.share, 0
        self._shares[place] += run.share
        return self._virtual_times[node], self._shares[place]

    def _insert_rows(self) -> None:
        if not self._gathered:
            return
        rows, count = self._rows, len(self._rows)
        seldom: dict[str, tuple[object, ...]] = {}
        if self._seldom.count(_DEFAULTS) < count:
            seldom = dict(zip(_SELDOM, zip(*self._seldom, strict=True), strict=True))
            if count >= _MANY:
                seldom = {name: seldom[name] for name in _SELDOM if seldom[name].count(_SELDOM[name]) < count}
        if self._limit_keys:
            limits, copied = columns_of(self.tx, self._limit_keys), seldom.get("limits", repeat(None))
            seldom["limits"] = tuple(map(limits.get, (row[0] for row in rows), copied))
        if self._keyed:
            turns = keyed_turns(self.tx, self._keyed)
            rows = [(*row[:_TURN], turns.get(row[0], row[_TURN]), *row[_TURN + 1 :]) for row in rows]
        if seldom:
            others = zip(*seldom.values(), strict=True)
            rows = [(*row[:-1], *more, row[-1]) for row, more in zip(rows, others, strict=True)]
        columns_given = (*_COLUMNS, *seldom)
        if any(row[-1] for row in rows):
            self.tx.insert("states", columns_given, sorted(rows), computed=(NEW_TURN,), more=("shares",))
        else:
            self.tx.insert("states", columns_given, sorted(row[:-1] for row in rows))
        first = [(*row[1:3], 1, row[_TURN]) for row in rows if row[0] in self._first]
        self.tx.insert("counts", ("run", "place", "pending", "turn"), first)
        for gathered in (self._rows, self._seldom, self._limit_keys, self._keyed, self._first):
            gathered.clear()
        self._gathered = 0

    def transition(
        self, run: RunScope, place: int, groups: str, old: str | None, new: str, states: int = 1
    ) -> None:
        """Count the transition of states of ``place`` from ``old`` (None: they are new) to ``new``."""
        self._transitions[run, place, old, new] += states
        for target_state, target in split_groups(groups):
            counters = self._unite_counters[target_state, place]
            if new in _UNITE_COLUMN:
                counters[_UNITE_COLUMN[new]] += states
            if old in _UNITE_COLUMN:
                counters[_UNITE_COLUMN[old]] -= states
            self._touched[target_state] = (run, target)

    def update(self, state: State, **values: object) -> None:
        """Give columns of a state new values, provided that it still has its status and its token."""
        self._updates[tuple(values)].append((state.seq, state.status, state.token, *values.values()))
        if state.limits is not None and state.status in (QUEUED, CREATED) and "status" in values:
            # One that waits, since its lease ended, may have been let in.
            self.ended.append((state.seq, state.limits))

    def add_execution(self, state: State) -> None:
        """Keep the execution that ended a state, for the united nodes whose groups it may complete."""
        for target_state, _ in split_groups(state.groups) if state.execution else ():
            self._executions[target_state].append(str(state.execution))

    def executions_in(self, target_state: int) -> list[str]:
        """Return the executions that ended in a group, oldest first."""
        return self._executions[target_state]

    def add_event(self, seq: int, kind: str, at: int | None = None) -> None:
        """Add something exceptional to a state's history, which happened now, or at a time in Unix ms."""
        self._events.append((seq, self.tx.now_ms if at is None else at, kind))

    def tally(
        self,
        graph: int,
        node_id: int,
        status: str,
        *,
        waited_ms: int | None,
        buffered_ms: int | None,
        took_ms: int,
    ) -> None:
        """Count a status that the node of a state caused, with the times that it waited for a runtime and
        took. A place that waits takes as long as it waits, and for no runtime."""
        tally, minute = self.effects.tally, self._minute
        tally[graph, node_id, status, bucket_of(took_ms), minute] += 1
        if waited_ms is not None:
            tally[ANY_GRAPH, node_id, WAITED, bucket_of(waited_ms), minute] += 1
        if buffered_ms is not None:
            tally[ANY_GRAPH, node_id, BUFFERED, bucket_of(buffered_ms), minute] += 1

    def tally_wait(self, node_id: int, waited_ms: int) -> None:
        """Count how long a state of a node waited for events or runs until it goes on."""
        self.effects.tally[ANY_GRAPH, -node_id, WAITED, bucket_of(waited_ms), self._minute] += 1

    def reopen(self, run: int) -> None:
        """Let a run that had ended go on: it has been idle since, and counts again when it ends again.

        The run is locked, and what ``apply`` has still to write does not end it.
        """
        row, now = self.locked[run], self.tx.now_ms
        since = row.finished_at
        if since is None or run in self._reopened:
            return
        self._reopened.add(run)
        self.effects.tally[ended_key(self.tx, row, since)] -= 1
        if since < now:
            self.tx.insert_new("idle_times", ("run", "since", "until"), [(run, since, now)])

    def hold(self, run: int, by: int = 1) -> None:
        """Keep a run from ending, as one more pending state would; -1: no longer."""
        self._runs[run][_RUN_COLUMN[CREATED]] += by

    def touch(self, run: RunScope, target_state: int, target: int) -> None:
        """Let the group of a state be checked although nothing in it changed: nothing was created."""
        self._touched[target_state] = (run, target)

    def close_groups(self, targets: Collection[int]) -> None:
        """Let the groups of these states complete no united node: they are replaced with all below them."""
        self._touched = {seq: group for seq, group in self._touched.items() if seq not in targets}

    def add_member(self, run: RunScope, seq: int, place: int, groups: str, path: bytes) -> None:
        """Add a success to the groups of the united nodes that read its outputs."""
        for target_state, target in split_groups(groups):
            if place in run.template.aggregated[target]:
                self._unite_members[target_state, place, path] = seq

    def apply(self) -> dict[int, tuple[RunScope, int]]:
        """Write everything gathered so far; return the groups that changed: target state to (run, place)."""
        tx = self.tx
        self._insert_rows()
        for columns, rows in self._updates.items():
            tx.update("states", ("seq", "status", "token"), columns, sorted(rows))
        self.checkpoints.apply(tx)
        self.calls.apply(tx)
        tx.insert("events", ("state", "at", "kind"), self._events)
        if self._unite_members:
            tx.insert(
                "unite_members",
                ("target_state", "place", "path", "state"),
                sorted((*key, seq) for key, seq in self._unite_members.items()),
                "(target_state, place, path) DO UPDATE SET state = excluded.state",
            )
        self._count_transitions()
        self._apply_to_places()
        if self._unite_counters:
            columns = "target_state", "place"
            tx.insert(
                "unite_counters",
                (*columns, *_UNITE_COUNTERS),
                sorted((*key, *deltas) for key, deltas in self._unite_counters.items() if any(deltas)),
                _added("unite_counters", columns, _UNITE_COUNTERS),
            )
        self._apply_to_runs()
        touched, self._touched = self._touched, {}
        for gathered in (self._updates, self._events, self._unite_members):
            gathered.clear()
        for counters in (self._counts, self._runs, self._unite_counters, self._shares, self._newest):
            counters.clear()
        return touched

    def _count_transitions(self) -> None:
        for (run, place, old, new), states in self._transitions.items():
            counts, runs = self._counts[run.id, place], self._runs[run.id]
            counts[_COLUMN[new]] += states
            runs[_RUN_COLUMN[new]] += states
            if old is not None:
                counts[_COLUMN[old]] -= states
                runs[_RUN_COLUMN[old]] -= states
            if new in ENDED and new != old:
                node = run.template.places[place]
                self.effects.final[node.namespace, node.node_name, new] += states
        self._transitions.clear()

    def _apply_to_places(self) -> None:
        columns: tuple[str, ...] = ("run", "place")
        newest = self._newest
        changed = {key: deltas for key, deltas in self._counts.items() if any(deltas) or key in newest}
        added = _added("counts", columns, _COUNTS)
        if newest:
            rows = sorted((*key, *deltas, newest.get(key, 0)) for key, deltas in changed.items())
            columns, added = (*columns, *_COUNTS, "turn"), f"{added}, {_LAST_TURN}"
            self.tx.insert("counts", columns, rows, added, computed=(LAST_TURN,))
        else:
            rows = sorted((*key, *deltas) for key, deltas in changed.items())
            self.tx.insert("counts", (*columns, *_COUNTS), rows, added)

    def _apply_to_runs(self) -> None:
        tx = self.tx
        changed = {run: deltas for run, deltas in self._runs.items() if any(deltas)}
        rows = sorted((run, tx.now_ms, *deltas) for run, deltas in changed.items())
        tx.update("runs", ("id",), ("finished_at",), rows, add=_RUNS, computed=(_FINISHED_AT,))
        for run, (pending, _, errored, retried) in changed.items():
            row = self.locked[run]
            row.pending += pending
            row.errored += errored
            row.retried += retried
            # A run that is reopened may end without running a state: what follows one is created.
            self.ended_runs.change(row, may_end=pending < 0 or run in self._reopened)
