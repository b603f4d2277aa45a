"""States of a run that move together: to another priority, or to the nodes of another version.

The run and its new states have the new priority, or version, from the commit that decides on it. Its pending
states follow by number, in portions (``unfinished``).

They keep their distance from the virtual time of their node, as it was when that was decided: claims go on
meanwhile. Those of a fairness key come behind those that wait there, and leave it their turns here.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple

from exotrio.manager.engine.order import give_turns_back, keyed_turns
from exotrio.manager.engine.states import RunRow
from exotrio.manager.engine.unfinished import MOVE, PORTION, REPIN, drop, keep, kept
from exotrio.manager.store.effects import Effects, WithEffects
from exotrio.manager.store.transaction import Transaction


class Move(NamedTuple):
    """What states of a place get that have a priority: a node, and so much more than their turn."""

    place: int
    priority: int
    node_id: int
    by: int


def move_pending(
    tx: Transaction, run: RunRow, level: int, nodes: Mapping[int, tuple[int, int]], change: str = MOVE
) -> WithEffects[int]:
    """Let states of a run that wait, or come back, be claimed for other nodes or in another priority; return
    how many of them follow in later transactions.

    ``nodes`` has the node of each place before and after. With the change ``REPIN`` none is claimed until all
    have moved: the old version gets none from now on.
    """
    times = tx.virtual_times
    begins = {} if run.fair_key is None else _begins_in_key(tx, run, level, nodes)
    by = {
        place: begins.get(after, times.of(tx, after, level)) - times.of(tx, before, run.priority)
        for place, (before, after) in nodes.items()
    }
    tx.executemany(
        "UPDATE counts SET turn = turn + ? WHERE run = ? AND place = ?",
        [(by[place], run.id, place) for place in sorted(by)],
    )
    moves = [Move(place, run.priority, after, by[place]) for place, (_, after) in nodes.items()]
    # Of an earlier change, some may still be to be moved; none of places whose nodes this version lacks.
    going_on = kept(tx, run.id)
    _, earlier = going_on.get(REPIN, going_on.get(MOVE, [0, ()]))
    moves += [
        move._replace(node_id=nodes[move.place][1], by=move.by + by[move.place])
        for move in (Move(*each) for each in earlier)
        if move.priority != level and move.place in nodes
    ]
    drop(tx, run.id, [MOVE])
    moved, effects = _move(tx, run.id, level, REPIN if REPIN in going_on else change, 0, moves)
    # A retry that goes on counts as one more pending state, which does not move.
    return WithEffects(run.pending - moved if moved == PORTION else 0, effects)


def move_portion(
    tx: Transaction, run: RunRow, change: str, last: int, moves: Iterable[Iterable[int]]
) -> Effects:
    """Move the next states after the number ``last``."""
    return _move(tx, run.id, run.priority, change, last, [Move(*each) for each in moves]).effects


def _move(
    tx: Transaction, run: int, level: int, change: str, last: int, moves: Collection[Move]
) -> WithEffects[int]:
    """Move the next states after the number ``last``, of a run that is locked; return how many."""
    effects = Effects()
    # Found by run and number only.
    rows = tx.execute(
        "SELECT seq, place, priority FROM states WHERE run = ? AND seq > ?"
        f" AND status || '' IN ('CREATED', 'QUEUED') ORDER BY seq LIMIT ?{tx.for_update('states')}",
        (run, last, PORTION),
    ).fetchall()
    found = defaultdict(list)
    for seq, place, priority in rows:
        found[place, priority].append(seq)
    for move in moves:
        if seqs := found.get(move[:2]):
            tx.execute(
                f"UPDATE states SET node_id = ?, priority = ?, turn = turn + ? WHERE {tx.any_of('seq')}"
                " AND status || '' IN ('CREATED', 'QUEUED')",
                (move.node_id, level, move.by, tx.items(seqs)),
            )
        # After the last portion all that a version waited for can be claimed.
        if seqs or len(rows) < PORTION:
            effects.reopen(run, move.node_id)
    if len(rows) == PORTION:
        keep(tx, effects, run, change, (rows[-1]["seq"], moves))
    else:
        drop(tx, run, [change])
    return WithEffects(len(rows), effects)


def _begins_in_key(
    tx: Transaction, run: RunRow, level: int, nodes: Mapping[int, tuple[int, int]]
) -> dict[int, int]:
    """Move the part that waiting states have of a fairness key; return, by the new node, the turn behind
    which they come."""
    key, share = str(run.fair_key), run.share
    waiting = tx.execute(
        "SELECT place, count(*) FROM states WHERE run = ? AND status = 'CREATED'"
        " AND coalesce(lane, '') <> 'waiting' GROUP BY place",
        (run.id,),
    ).fetchall()
    shares = {place: share * count for place, count in waiting if place in nodes}
    ids = {node_id for place in shares for node_id in nodes[place]}
    # In the order in which new states lock them, not those with one priority after those with another.
    tx.execute(
        f"SELECT 1 FROM turns WHERE {tx.any_of('node_id')} AND priority IN (?, ?) AND fair_key = ?"
        f" ORDER BY node_id, priority{tx.for_update('turns')}",
        (tx.items(sorted(ids)), run.priority, level, key),
    )
    give_turns_back(tx, [(nodes[place][0], run.priority, key, each) for place, each in shares.items()])
    together: Counter[int] = Counter()
    for place, each in shares.items():
        together[nodes[place][1]] += each
    turns = keyed_turns(tx, {node_id: (node_id, level, key, each) for node_id, each in together.items()})
    return {node_id: turn - together[node_id] for node_id, turn in turns.items()}
