"""When a united node runs: as soon as its group is complete.

Counters say how many members of each place are pending, failed and succeeded, for each state of a united
target. Every use case that changes states ends in ``commit_changes``, in the same transaction. So a complete
group is never missed, and the cost does not grow with its size.

When a member of a group is retried by hand after the united node ran, its result is out of date. So the group
is opened again: the state of the united node, and all that follow it, are replaced (RETRY_CREATED), and it
runs once more when the group is complete again. Which states follow is told by their paths, which begin with
that of the united state: in one run, nothing else has such a path.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from pydantic_core import to_json

from exotrio.graph import UnitesStrategyEnum
from exotrio.manager.engine.changes import Changes
from exotrio.manager.engine.failures import record_failures
from exotrio.manager.engine.inputs import Lists, build_for, event_name, group_lists, limit_keys
from exotrio.manager.engine.mailbox import deliver
from exotrio.manager.engine.order import begins_at
from exotrio.manager.engine.slots import end_otherwise, free
from exotrio.manager.engine.sources import InputsError, Need, Shared, Sources, read_shared
from exotrio.manager.engine.states import (
    CREATED,
    ERRORED,
    RETRY_CREATED,
    SUCCESS,
    NewState,
    RunScope,
    State,
    add_events,
    cancel_children_later,
)
from exotrio.manager.engine.unfinished import RETRY, RUN, key_of
from exotrio.manager.rules.errors import Conflict
from exotrio.manager.rules.lineage import (
    child_path,
    extend_groups,
    is_below,
    is_further,
    linked,
    outermost,
    parent_in,
    split_groups,
)
from exotrio.manager.rules.template import Template, Unite
from exotrio.manager.store.driver import Row
from exotrio.manager.store.transaction import Transaction
from exotrio.manager.store.view import View

Group = tuple[RunScope, int, Unite]
"""A united node, and the state of its target whose group it unites."""
MAX_REPLACED = 100_000
"""States that one retry may replace: other requests wait while that happens."""
REPLACED = "replaced: a state before it was retried"
"""The event of such a state."""


def commit_changes(changes: Changes) -> None:
    """Write the changes as ``write_changes`` does, and leave checks for the limits of states that ended."""
    write_changes(changes)
    ended, changes.ended = changes.ended, []
    free(changes.tx, changes.effects, ended)


def write_changes(changes: Changes) -> None:
    """Write the changes, give states that begin to wait the events that were sent before, and create the
    state of every united node whose group is complete then. Runs that end with errors are recorded.

    Inner groups come first: the state of a united node is itself a member of outer groups. Groups of several
    runs, and groups of one united node, do not depend on each other and are handled together.
    """
    waiting = changes.apply()
    while waiting or changes.waiting:
        while changes.waiting:
            deliver(changes)
            waiting |= changes.apply()
        now, later, earlier = _complete(changes.tx, waiting)
        for (run, target_state, _), state in zip(now, united_states(changes.tx, now), strict=True):
            state.trace = linked(state.trace, changes.executions_in(target_state))
            state.retry_of = earlier.get((target_state, state.place))
            changes.insert(run, state)
        waiting = {target_state: (run, unite.target) for run, target_state, unite in later}
        waiting.update(changes.apply())
    record_failures(changes)


def _complete(
    view: View, targets: Mapping[int, tuple[RunScope, int]]
) -> tuple[Sequence[Group], Sequence[Group], Mapping[tuple[int, int], int]]:
    """Return the complete groups of these states that have no united state, or only replaced ones.

    Those are the innermost ones of each run, and the others, which a united state of an inner group may make
    incomplete again. The third value has the united states that were replaced, by target state and place.
    """
    counters: defaultdict[int, list[Row]] = defaultdict(list)
    for row in view.execute(
        "SELECT target_state, place, pending, failed, succeeded, replaced FROM unite_counters"
        f" WHERE {view.any_of('target_state')}",
        (view.items(sorted(targets)),),
    ):
        counters[row["target_state"]].append(row)
    complete = [
        (run, target_state, unite)
        for target_state, (run, target) in targets.items()
        for unite in run.template.uniters[target]
        if _is_complete(unite, counters[target_state])
    ]
    if not complete:
        return (), (), {}
    ones = (
        f"SELECT parent, place FROM states WHERE {view.any_of('parent')}"
        " AND united = 1 AND retry_count = 0 AND manual_fanout_id IS NULL"
    )
    parameters = [view.items(sorted({target_state for _, target_state, _ in complete}))]
    with_failed = {seq for _, seq, _ in complete if any(row["failed"] for row in counters[seq])}
    if with_failed:
        # A retry that goes on may replace those; when it has reached all, it lets the group be checked again.
        ones += f" UNION ALL SELECT {RUN}, -1 FROM meta WHERE {view.any_of('key')}"
        runs = {run.id for run, seq, _ in complete if seq in with_failed}
        parameters.append(view.items([key_of(RETRY, run) for run in sorted(runs)]))
    existing = set(map(tuple, view.execute(ones, tuple(parameters))))
    missing = [
        group
        for group in complete
        if (group[1], group[2].place) not in existing
        and not (group[1] in with_failed and (group[0].id, -1) in existing)
    ]
    missing.sort(key=lambda group: (group[2].rank, group[1]))
    innermost: dict[int, tuple[int, int]] = {}
    for run, _, unite in missing:
        innermost.setdefault(run.id, unite.rank)
    now = [group for group in missing if group[2].rank == innermost[group[0].id]]
    later = [group for group in missing if group[2].rank != innermost[group[0].id]]
    replaced = {
        (target_state, row["place"]): row["replaced"]
        for target_state in {target_state for _, target_state, _ in now}
        for row in counters[target_state]
        if row["replaced"] is not None
    }
    return now, later, replaced


def _is_complete(unite: Unite, counters: Sequence[Row]) -> bool:
    failed = 0
    reached = False
    for _, place, pending, broken, succeeded, _ in counters:
        if pending and place in unite.waits_for:
            return False
        if place in unite.region:
            failed += broken
            reached = reached or (succeeded > 0 and place in unite.predecessors)
    return unite.strategy is not UnitesStrategyEnum.ALL_SUCCESS or (reached and not failed)


def united_states(tx: Transaction, groups: Sequence[Group]) -> list[NewState]:
    """Return the states of united nodes: ERRORED with the reason if their inputs cannot be built."""
    if not groups:
        return []
    targets = {
        row["seq"]: row
        for row in tx.execute(
            f"SELECT seq, groups, path, status, trace FROM states WHERE {tx.any_of('seq')}",
            (tx.items(sorted({target_state for _, target_state, _ in groups})),),
        )
    }
    shared = read_shared(
        tx,
        (
            Need(
                run=run,
                above=target_state,
                places=(run.template.places[unite.place],),
                known={run.template.places[index].identifier for index in unite.aggregated},
            )
            for run, target_state, unite in groups
        ),
    )
    lists = group_lists(tx, groups)
    return [_united_state(tx, group, targets[group[1]], shared, lists.get(group[1], {})) for group in groups]


def _united_state(tx: Transaction, group: Group, target: Row, shared: Shared, lists: Lists) -> NewState:
    run, target_state, unite = group
    assert target["status"] == SUCCESS, "only a success has something below it"
    place = run.template.places[unite.place]
    node = tx.registered(place.namespace, place.node_name)
    assert node is not None, "a run starts only with registered nodes, which are never removed"
    status, error = CREATED, None
    inputs: dict[str, str] = {}
    keys: dict[str, str] = {}
    sources, event = Sources(tx, run, target_state, shared), None
    try:
        inputs = build_for(node, place, sources, "", {}, lists)
        keys = limit_keys(place, sources, "", {})
        if place.wait is not None:
            event = event_name(place.wait, sources, "", {})
    except InputsError as problem:
        status, error = ERRORED, f"cannot run: {problem}"
    return NewState(
        place=unite.place,
        node_id=node.id,
        status=status,
        inputs=to_json(inputs).decode(),
        error=error,
        parent=target_state,
        united=True,
        groups=extend_groups(target["groups"], target_state, unite.target),
        path=child_path(target["path"], unite.place),
        enqueue_after=begins_at(place, tx.now_ms),
        trace=parent_in(target["trace"]),
        limit_keys=keys,
        event=event,
        waits=event is not None or place.graph is not None,
    )


def ran_before(view: View, template: Template, states: Iterable[tuple[int, str]]) -> list[Row]:
    """Return the first state (seq, target state, place, path of the target state) of each united node that
    ran although a state of its group, given as (place, groups), may be retried; or although another such
    united node is one of its group."""
    groups: set[tuple[int, int]] = set()
    waiting = list(states)
    while waiting:
        place, chain = waiting.pop()
        above = ""
        for target_state, target in split_groups(chain):
            above = extend_groups(above, target_state, target)
            for unite in template.uniters[target]:
                if place in unite.region and (target_state, unite.place) not in groups:
                    groups.add((target_state, unite.place))
                    waiting.append((unite.place, above))
    if not groups:
        return []
    rows = view.execute(
        "SELECT one.seq, one.parent, one.place, target.path FROM states AS one"
        f" CROSS JOIN states AS target ON target.seq = one.parent WHERE {view.any_of('one.parent')}"
        " AND one.united = 1 AND one.retry_count = 0 AND one.manual_fanout_id IS NULL",
        (view.items(sorted({target_state for target_state, _ in groups})),),
    )
    return [row for row in rows if (row["parent"], row["place"]) in groups]


@dataclass(slots=True)
class Reruns:
    """United nodes that run again, since members of their groups are retried.

    Attributes:
        first: By target state and place, the number of the united state that keeps another from being
            created: the first attempt.
        replaced: The numbers of the states to replace: the united ones, and all that follow them.
    """

    first: dict[tuple[int, int], int] = field(default_factory=dict)
    replaced: set[int] = field(default_factory=set)

    def find(self, view: View, run: RunScope, retried: Iterable[State]) -> None:
        """Add those for states of a run that are to be retried; raise Conflict if they are too many."""
        tops = []
        for seq, target_state, place, path in ran_before(
            view, run.template, [(state.place, state.groups) for state in retried]
        ):
            self.first[target_state, place] = seq
            tops.append(child_path(path, place))
        if not tops:
            return
        tops = outermost(tops)
        self.replaced.update(
            seq
            for seq, path in view.execute(
                # What follows a state has a higher number. SQLite reads large outputs to find the path behind
                # them, so those of all states before are left out.
                "SELECT seq, path FROM states WHERE run = ? AND seq >= ? AND status <> 'RETRY_CREATED'"
                " AND path >= ? AND path < ?",
                (run.id, min(self.first.values()), tops[0], tops[-1] + b"\xff"),
            )
            if is_below(path, tops)
        )
        if len(self.replaced) > MAX_REPLACED:
            raise Conflict(
                f"{len(self.replaced):,} states would run again with it, since they follow a united node that"
                f" ran without it; at most {MAX_REPLACED:,} can; trigger the graph again instead"
            )

    def replace(self, changes: Changes, run: RunScope, states: Sequence[Row]) -> None:
        """Replace the states, which are locked, and let their united nodes run again."""
        if not states:
            return
        tx = changes.tx
        numbers = tx.items([state["seq"] for state in states])
        tx.execute(
            # A waiting state has the time of its last claim, under which it did not end.
            "UPDATE states SET status = 'RETRY_CREATED',"
            " finished_at = COALESCE(finished_at, ?),"
            f" claimed_at = CASE WHEN status <> 'CREATED' THEN claimed_at END WHERE {tx.any_of('seq')}",
            (tx.now_ms, numbers),
        )
        end_otherwise(tx, changes.effects, states)
        first = tx.items(sorted(self.first.values()))
        tx.execute(f"UPDATE states SET united = 2 WHERE {tx.any_of('seq')}", (first,))
        alike = Counter((state["place"], state["groups"], state["status"]) for state in states)
        for (place, groups, status), count in alike.items():
            changes.transition(run, place, groups, status, RETRY_CREATED, count)
        changes.close_groups(self.replaced)
        further = Counter(
            state["place"] for state in states if state["status"] == SUCCESS and is_further(state["path"])
        )
        tx.executemany(
            "UPDATE counts SET further = further - ? WHERE run = ? AND place = ?",
            [(count, run.id, place) for place, count in sorted(further.items())],
        )
        targets = {target_state for _, groups, _ in alike for target_state, _ in split_groups(groups)}
        tx.execute(
            f"DELETE FROM unite_members WHERE {tx.any_of('target_state')} AND {tx.any_of('state')}",
            (tx.items(sorted(targets)), numbers),
        )
        add_events(tx, REPLACED, states)
        changes.effects.deliveries |= cancel_children_later(tx, states)
        last = [
            (state["parent"], state["place"], state["seq"])
            for state in states
            if state["united"] and (state["parent"], state["place"]) in self.first
        ]
        tx.update("unite_counters", ("target_state", "place"), ("replaced",), sorted(last))
