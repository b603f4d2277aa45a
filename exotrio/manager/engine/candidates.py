"""The states that a claim may take: finding and locking them, in their order (``engine.order``).

Those that are due are found next to those that waited for nothing but their turn; whether there is room for
them in their limits is decided afterwards (``engine.lanes``).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping
from functools import cache, partial
from operator import attrgetter

from exotrio.manager.engine.order import LATER, Candidate, take_places
from exotrio.manager.engine.unfinished import IS_CLOSED
from exotrio.manager.store.driver import Row
from exotrio.manager.store.heads import START, Position
from exotrio.manager.store.transaction import Transaction

MAX_LET_IN = 1_000
"""Maximum of states that came due and are let in at once."""
MAX_SEARCHES = 4
"""Maximum of searches of one claim."""
MAX_CLOSED = 1_000
"""States of runs that are being cancelled, or move, which a claim passes over to find others."""
_NOT_PAUSED = " AND (SELECT paused_at FROM nodes WHERE id = {node_id}) IS NULL"
_IN_RUN = " AND run = {run}"
_DUE = f"status = 'CREATED' AND lane = '{LATER}' AND enqueue_after <= {{now}}"
_FROM, _BEFORE = " AND (priority, turn, seq) >= ({priority}, {turn}, {seq})", " AND priority < {priority}"
_is_closed = attrgetter("is_closed")
_candidate: Callable[[Row], Candidate] = partial(tuple.__new__, Candidate)
"""As ``Candidate._make``, which is Python code, called for each state."""
CANDIDATE = (
    "priority, turn, seq, node_id, run, enqueue_after,"
    " size + coalesce(checkpoint_size, 0) + coalesce(calls_size, 0) AS size, limits,"
    f" {IS_CLOSED} AS is_closed"
)


def find_candidates(
    tx: Transaction, counts: Mapping[int, int], run: int | None, versions: Mapping[int, int]
) -> list[Candidate]:
    """Return the first states of each node in their order, locked: at most as many as ``counts`` says.

    ``versions`` has nodes of one version, each with the node in whose count its states are.

    Many states that came due are let in first.
    """
    limit = max(counts.values())
    let_in: set[int] = set()

    def search(begins: Mapping[int, Position]) -> list[Candidate]:
        return _find(tx, counts, begins, limit, run)

    for _ in range(MAX_SEARCHES):
        states = search({}) if run is not None else tx.heads.search(counts, search)
        due = [state for state in states if state.lane == LATER]
        found = Counter(state.node_id for state in due) if due else {}
        many = {node_id for node_id, count in found.items() if count == limit}
        if not many - let_in:
            break
        _let_in(tx, many - let_in, run)
        let_in |= many
    if any(map(_is_closed, states)):
        # A condition of the search would pass over all of them each time, perhaps hundreds of thousands.
        ahead = {node_id: count + MAX_CLOSED for node_id, count in counts.items()}
        states = [state for state in _find(tx, ahead, {}, limit + MAX_CLOSED, run) if not state.is_closed]
        due = [state for state in states if state.lane == LATER]
    if due:
        states = [*(state for state in states if state.lane is None), *take_places(tx, due)]
    left, chosen = dict(counts), []
    for state in sorted(states):
        node_id = versions.get(state.node_id, state.node_id)
        if left[node_id] > 0:
            left[node_id] -= 1
            chosen.append(state)
    return chosen


def _find(
    tx: Transaction, counts: Mapping[int, int], begins: Mapping[int, Position], limit: int, run: int | None
) -> list[Candidate]:
    """Lock and return the first states of each node, from where ``begins`` says on, and up to ``limit`` of
    those that came due in the lane ``LATER``; none of a node that is paused."""
    # If a search does not begin at the start, states of a higher priority may have come before that.
    is_full = all(at == START for at in begins.values())
    names: tuple[str, ...] = ("node_id", "count", "limit", "now")
    rows: list[tuple[int, ...]] = [(node_id, count, limit, tx.now_ms) for node_id, count in counts.items()]
    if run is not None:
        names, rows = (*names, "run"), [(*row, run) for row in rows]
    if not is_full:
        names, rows = (*names, "priority", "turn", "seq"), [(*row, *begins[row[0]]) for row in rows]
    selects = _selects(is_full, run is not None, tx.skip_locked("states"))
    return list(map(_candidate, tx.for_each(selects, names, rows)))


@cache
def _selects(is_full: bool, in_run: bool, skip_locked: str) -> tuple[str, ...]:
    of_run = _IN_RUN if in_run else ""
    # Separate ones: an index returns the states of each in order. Whether the node is paused (engine.pausing)
    # is read once, and not for each state.
    return (
        *(
            f"SELECT {CANDIDATE}, NULL AS lane FROM states WHERE status = 'CREATED' AND lane IS NULL"
            f" AND node_id = {{node_id}}{of_run}{start}{_NOT_PAUSED}"
            f" ORDER BY priority, turn, seq LIMIT {{count}}{skip_locked}"
            for start in (("",) if is_full else (_FROM, _BEFORE))
        ),
        f"SELECT {CANDIDATE}, lane FROM states WHERE {_DUE} AND node_id = {{node_id}}{of_run}{_NOT_PAUSED}"
        # In this order: without statistics PostgreSQL reads all delayed states by another index otherwise.
        f" ORDER BY enqueue_after, seq LIMIT {{limit}}{skip_locked}",
    )


def _let_in(tx: Transaction, node_ids: Collection[int], run: int | None) -> None:
    """Let many states that came due into the index of those that can be claimed."""
    in_run, of_run = ("", ()) if run is None else (" AND run = ?", (run,))
    which = f"{_DUE.format(now='?')} AND node_id IN ({', '.join('?' * len(node_ids))}){in_run}"
    rows = tx.execute(
        f"SELECT {CANDIDATE}, lane FROM states WHERE {which} LIMIT {MAX_LET_IN}{tx.skip_locked('states')}",
        (tx.now_ms, *node_ids, *of_run),
    )
    due = take_places(tx, map(_candidate, rows))
    tx.update("states", ("seq",), ("turn", "lane"), sorted((state.seq, state.turn, None) for state in due))


def next_due(tx: Transaction, node_ids: Collection[int], run: int | None) -> dict[int, int]:
    """Return when the next state of each node is due, in Unix ms, of those that are not due yet."""
    of_run, in_run = ((), "") if run is None else ((run,), _IN_RUN)
    later = (
        f"SELECT node_id, enqueue_after FROM states WHERE status = 'CREATED' AND lane = '{LATER}'"
        f" AND node_id = {{node_id}}{in_run} AND enqueue_after > {{now}}{_NOT_PAUSED}"
        " ORDER BY enqueue_after LIMIT 1"
    )
    rows = [(node_id, tx.now_ms, *of_run) for node_id in node_ids]
    return dict(map(tuple, tx.for_each((later,), ("node_id", "now", "run")[: 2 + len(of_run)], rows)))
