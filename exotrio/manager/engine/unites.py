"""Deciding groups: when does a united node run?

Counters tell how many members of each place are pending, failed and succeeded for each state of
a united target. Every use case that changes states ends in ``decide``, in the same transaction. So a complete
group is never missed, and the cost does not grow with its size.
"""

from __future__ import annotations

import heapq

from pydantic_core import from_json, to_json

from exotrio.graph import UnitesStrategyEnum
from exotrio.manager.engine.inputs import InputsError, Sources, build_for, group_lists
from exotrio.manager.engine.states import (
    CREATED,
    ERRORED,
    SUCCESS,
    Changes,
    NewState,
    RunScope,
    child_path,
    extend_groups,
)
from exotrio.manager.rules.template import Unite


def decide(changes: Changes) -> None:
    """Write the changes, then run every united node whose group they completed.

    Inner groups come first: a united node that runs, or cannot, is itself a member of outer groups.
    """
    waiting: list[tuple[tuple[int, int], int, int]] = []
    scopes: dict[int, tuple[RunScope, int]] = {}

    def apply() -> None:
        for target_state, (run, target) in changes.apply().items():
            scopes[target_state] = run, target
            for index, unite in enumerate(run.template.uniters[target]):
                heapq.heappush(waiting, (unite.rank, target_state, index))

    apply()
    last = None
    while waiting:
        entry = heapq.heappop(waiting)
        if entry == last:
            continue
        last = entry
        _, target_state, index = entry
        run, target = scopes[target_state]
        if _fire(changes, run, target_state, run.template.uniters[target][index]):
            apply()


def _fire(changes: Changes, run: RunScope, target_state: int, unite: Unite) -> bool:
    """Insert the united state if its group is complete and it does not exist yet; return whether."""
    tx = changes.tx
    pending = failed = 0
    reached = False
    for place, waiting, broken, succeeded in tx.execute(
        "SELECT place, pending, failed, succeeded FROM unite_counters WHERE target_state = ?", (target_state,)
    ):
        if place in unite.region:
            pending += waiting
            failed += broken
            reached = reached or (succeeded > 0 and place in unite.predecessors)
    if pending:
        return False
    if unite.strategy is UnitesStrategyEnum.ALL_SUCCESS and (failed or not reached):
        return False
    if tx.row(
        "SELECT 1 FROM states WHERE parent = ? AND place = ?"
        " AND united = 1 AND retry_count = 0 AND manual_fanout_id IS NULL",
        (target_state, unite.place),
    ):
        return False
    changes.insert(run, united_state(changes, run, target_state, unite))
    return True


def united_state(changes: Changes, run: RunScope, target_state: int, unite: Unite) -> NewState:
    """Return the state of a united node: ERRORED with the reason if its inputs cannot be built."""
    tx = changes.tx
    place = run.template.places[unite.place]
    row = tx.row("SELECT parent, outputs, groups, path, status FROM states WHERE seq = ?", (target_state,))
    assert row is not None
    assert row["status"] == SUCCESS, "only a success has something below it"
    node = tx.registered(place.namespace, place.node_name)
    assert node is not None, "a run starts only with registered nodes, which are never removed"
    status, inputs, error = CREATED, {}, None
    try:
        inputs = build_for(
            node,
            place,
            Sources(tx, run, row["parent"]),
            run.template.places[unite.target].identifier,
            from_json(row["outputs"]),
            group_lists(tx, run, target_state, unite),
        )
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
        groups=extend_groups(row["groups"], target_state, unite.target),
        path=child_path(row["path"], unite.place),
        enqueue_after=tx.now_ms,
    )
