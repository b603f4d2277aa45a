"""The states that a claim may take: finding and locking them, in their order (``engine.order``).

Those that are due are found next to those that waited for nothing but their turn; whether there is room for
them in their limits is decided afterwards (``engine.lanes``).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping
from functools import cache, partial

from exotrio.manager.engine.order import LATER, Candidate, take_places
from exotrio.manager.store.driver import Row
from exotrio.manager.store.heads import START, Position
from exotrio.manager.store.transaction import Transaction

NODES_PER_STATEMENT = 100
"""SQLite accepts at most 500 parts of one statement."""
MAX_LET_IN = 1_000
"""Maximum of states that came due and are let in at once."""
MAX_EARLY_MS = 50
"""By how much the clocks of two state managers on one database may differ: a state that another one created
is due."""
MAX_SEARCHES = 4
"""Maximum of searches of one claim."""
_NOT_PAUSED = " AND (SELECT paused_at FROM nodes WHERE id = ?) IS NULL"
_DUE = f"status = 'CREATED' AND lane = '{LATER}' AND enqueue_after <= ?"
_FROM, _BEFORE = " AND (priority, turn, seq) >= (?, ?, ?)", " AND priority < ?"
_candidate: Callable[[Row], Candidate] = partial(tuple.__new__, Candidate)
"""As ``Candidate._make``, which is Python code, called for each state."""
_CANDIDATE = (
    "priority, turn, seq, node_id, run, enqueue_after, size + coalesce(checkpoint_size, 0) AS size, limits"
)


def find_candidates(tx: Transaction, counts: Mapping[int, int], run: int | None) -> list[Candidate]:
    """Return the first states of each node in their order, locked: at most as many as ``counts`` says.

    Many states that came due are let in first; those that are not due yet are put aside.
    """
    limit = max(counts.values())
    let_in: set[int] = set()

    def search(begins: Mapping[int, Position]) -> list[Candidate]:
        return _find(tx, counts, begins, limit, run)

    for _ in range(MAX_SEARCHES):
        states = search({}) if run is not None else tx.heads.search(counts, search)
        latest = tx.now_ms + MAX_EARLY_MS
        others = [state for state in states if state.lane or state.enqueue_after > latest]
        due = [state for state in others if state.lane == LATER]
        found = Counter(state.node_id for state in due) if due else {}
        many = {node_id for node_id, count in found.items() if count == limit}
        early = {state.seq for state in others if state.enqueue_after > latest}
        if early:
            # A state manager of an earlier version stored them.
            tx.update("states", ("seq",), ("lane",), [(seq, LATER) for seq in sorted(early)])
        elif many - let_in:
            _let_in(tx, many - let_in, run)
            let_in |= many
        else:
            break
    if others:
        ready = (state for state in states if state.lane is None and state.seq not in early)
        states = [*ready, *take_places(tx, due)]
    left, chosen = dict(counts), []
    for state in sorted(states):
        if left[state.node_id] > 0:
            left[state.node_id] -= 1
            chosen.append(state)
    return chosen


def _find(
    tx: Transaction, counts: Mapping[int, int], begins: Mapping[int, Position], limit: int, run: int | None
) -> list[Candidate]:
    """Lock and return the first states of each node, from where ``begins`` says on, and up to ``limit`` of
    those that came due in the lane ``LATER``; none of a node that is paused."""
    in_run = "" if run is None else " AND run = ?"
    of_run = () if run is None else (run,)
    # If a search does not begin at the start, states of a higher priority may have come before that.
    starts = ("",) if all(at == START for at in begins.values()) else (_FROM, _BEFORE)
    found: list[Candidate] = []
    nodes = list(counts.items())
    for start in range(0, len(nodes), NODES_PER_STATEMENT):
        part = dict(nodes[start : start + NODES_PER_STATEMENT])
        values: list[int] = []
        for node_id, count in part.items():
            for each in starts:
                at = begins[node_id][: each.count("?")] if each else ()
                values += (node_id, *of_run, *at, node_id, count)
            values += (tx.now_ms, node_id, *of_run, node_id, limit)
        sql = _find_statement(len(part), starts, in_run, tx.skip_locked("states"))
        found += map(_candidate, tx.execute(sql, tuple(values)))
    return found


@cache
def _find_statement(nodes: int, starts: tuple[str, ...], in_run: str, skip_locked: str) -> str:
    """Return the statement of ``_find`` for so many nodes."""
    # Each in a separate SELECT: PostgreSQL locks no rows of a UNION, and an index returns them in order.
    # Whether the node is paused (engine.pausing) is read once, and not for each state.
    ready = [
        f"SELECT * FROM (SELECT {_CANDIDATE}, NULL AS lane FROM states WHERE status = 'CREATED'"
        f" AND lane IS NULL AND node_id = ?{in_run}{start}{_NOT_PAUSED}"
        f" ORDER BY priority, turn, seq LIMIT ?{skip_locked}) AS waiting"
        for start in starts
    ]
    later = (
        f"SELECT * FROM (SELECT {_CANDIDATE}, lane FROM states WHERE {_DUE} AND node_id = ?{in_run}"
        f"{_NOT_PAUSED} LIMIT ?{skip_locked}) AS waiting"
    )
    return " UNION ALL ".join([*ready, later] * nodes)


def _let_in(tx: Transaction, node_ids: Collection[int], run: int | None) -> None:
    """Let many states that came due into the index of those that can be claimed."""
    in_run, of_run = ("", ()) if run is None else (" AND run = ?", (run,))
    numbers = ", ".join("?" * len(node_ids))
    rows = tx.execute(
        f"SELECT {_CANDIDATE}, lane FROM states WHERE {_DUE} AND node_id IN ({numbers}){in_run}"
        f" LIMIT {MAX_LET_IN}{tx.skip_locked('states')}",
        (tx.now_ms, *node_ids, *of_run),
    )
    due = take_places(tx, map(_candidate, rows))
    tx.update("states", ("seq",), ("turn", "lane"), sorted((state.seq, state.turn, None) for state in due))


def next_due(tx: Transaction, node_ids: Collection[int], run: int | None) -> dict[int, int]:
    """Return when the next state of each node is due, in Unix ms, of those that are not due yet."""
    in_run, of_run = ("", ()) if run is None else (" AND run = ?", (run,))
    later = (
        "SELECT * FROM (SELECT node_id, enqueue_after FROM states WHERE status = 'CREATED'"
        f" AND lane = '{LATER}' AND node_id = ?{in_run} AND enqueue_after > ?"
        f"{_NOT_PAUSED} ORDER BY enqueue_after LIMIT 1) AS waiting"
    )
    next_at: dict[int, int] = {}
    nodes = list(node_ids)
    for start in range(0, len(nodes), NODES_PER_STATEMENT):
        part = nodes[start : start + NODES_PER_STATEMENT]
        values = [value for node_id in part for value in (node_id, *of_run, tx.now_ms, node_id)]
        next_at.update(map(tuple, tx.execute(" UNION ALL ".join([later] * len(part)), tuple(values))))
    return next_at
