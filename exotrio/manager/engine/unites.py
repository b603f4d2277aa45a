"""When a united node runs: as soon as its group is complete.

Counters say how many members of each place are pending, failed and succeeded, for each state of a united
target. Every use case that changes states ends in ``commit_changes``, in the same transaction. So a complete
group is never missed, and the cost does not grow with its size.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from pydantic_core import to_json

from exotrio.graph import UnitesStrategyEnum
from exotrio.manager.engine.changes import Changes
from exotrio.manager.engine.inputs import (
    InputsError,
    Lists,
    Need,
    Shared,
    Sources,
    build_for,
    group_lists,
    read_shared,
)
from exotrio.manager.engine.states import CREATED, ERRORED, SUCCESS, NewState, RunScope
from exotrio.manager.rules.lineage import child_path, extend_groups, linked, parent_in
from exotrio.manager.rules.template import Unite
from exotrio.manager.store.driver import Row
from exotrio.manager.store.transaction import Transaction
from exotrio.manager.store.view import View

Group = tuple[RunScope, int, Unite]
"""A united node, and the state of its target whose group it unites."""


def commit_changes(changes: Changes) -> None:
    """Write the changes, then create the state of every united node whose group they completed.

    Inner groups come first: the state of a united node is itself a member of outer groups. Groups of several
    runs, and groups of one united node, do not depend on each other and are handled together.
    """
    waiting = changes.apply()
    while waiting:
        now, later = _complete(changes.tx, waiting)
        for (run, target_state, _), state in zip(now, united_states(changes.tx, now), strict=True):
            state.trace = linked(state.trace, changes.executions_in(target_state))
            changes.insert(run, state)
        waiting = {target_state: (run, unite.target) for run, target_state, unite in later}
        waiting.update(changes.apply())


def _complete(
    view: View, targets: Mapping[int, tuple[RunScope, int]]
) -> tuple[Sequence[Group], Sequence[Group]]:
    """Return the complete groups of these states that have no united state yet.

    Those are the innermost ones of each run, and the others, which a united state of an inner group may make
    incomplete again.
    """
    counters: defaultdict[int, list[Row]] = defaultdict(list)
    for row in view.execute(
        "SELECT target_state, place, pending, failed, succeeded FROM unite_counters"
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
        return (), ()
    existing = {
        (parent, place)
        for parent, place in view.execute(
            f"SELECT parent, place FROM states WHERE {view.any_of('parent')}"
            " AND united = 1 AND retry_count = 0 AND manual_fanout_id IS NULL",
            (view.items(sorted({target_state for _, target_state, _ in complete})),),
        )
    }
    missing = [group for group in complete if (group[1], group[2].place) not in existing]
    missing.sort(key=lambda group: (group[2].rank, group[1]))
    innermost: dict[int, tuple[int, int]] = {}
    for run, _, unite in missing:
        innermost.setdefault(run.id, unite.rank)
    now = [group for group in missing if group[2].rank == innermost[group[0].id]]
    return now, [group for group in missing if group[2].rank != innermost[group[0].id]]


def _is_complete(unite: Unite, counters: Sequence[Row]) -> bool:
    failed = 0
    reached = False
    for _, place, pending, broken, succeeded in counters:
        if place in unite.region:
            if pending:
                return False
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
    status, inputs, error = CREATED, {}, None
    try:
        inputs = build_for(node, place, Sources(tx, run, target_state, shared), "", {}, lists)
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
        enqueue_after=tx.now_ms,
        trace=parent_in(target["trace"]),
    )
