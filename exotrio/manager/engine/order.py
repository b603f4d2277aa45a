"""The order in which the waiting states of a node are claimed.

States of a higher priority come first. States of one priority come in the order of their *turns*, numbers
that let the runs share the node fairly, however many states each of them has (start-time fair queueing). A
state gets its turn when it is created, and keeps it; it is one *share* after the later one of:

- the turn of the state that was created before it, at this place of its run, or for its fairness key;
- the virtual time of its node: the turn of the state that was claimed last (``store.virtual_times``).

So the states of one run are a share apart. The first state of a run that begins now comes about where the
node is now, before those of others that are further away. A run of weight 2 has half a share. A run that has
waited, or claimed nothing for long, saves nothing up.

A state whose time has not come is in the lane ``LATER``, outside the index of the states that can be claimed.
When it is due, it takes its place next to those that are claimed now: so a retry does not go to the end of a
long queue, and ten thousand that come due together go before no other run. Those of each run, or fairness
key, are a share apart.

Claims restricted to one run take only its states, and move no virtual time.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from exotrio._wire.vocabulary import Priority
from exotrio.manager.rules.template import Place
from exotrio.manager.store.driver import Row
from exotrio.manager.store.heads import Position
from exotrio.manager.store.transaction import Transaction
from exotrio.manager.store.virtual_times import COLUMNS, LATER_TURN, SHARE

PRIORITIES = HIGH, NORMAL, LOW = -1, 0, 1
"""The priorities of runs, the first first. ``NORMAL`` is that of a run for which none is set."""
LEVELS = {Priority.HIGH: HIGH, Priority.NORMAL: NORMAL, Priority.LOW: LOW}
NAMES = {level: priority.value for priority, level in LEVELS.items()}
LATER = "later"
"""The lane of states that are not due yet."""
WAITING = "waiting"
"""The lane of states that wait for an event, until ``enqueue_after``. No claim finds them, and no number of
states that wait to be claimed counts them."""
NEVER = 253_370_764_800_000
"""``enqueue_after`` of those that wait without a limit: the year 9999."""

NEW_TURN = (
    "turn",
    "CASE WHEN {shares} = 0 THEN {turn} ELSE {shares} + coalesce((SELECT turn FROM counts"
    " WHERE run = {run} AND place = {place} AND turn > {turn}), {turn}) END",
)
"""The turn of a new state: ``turn`` is the virtual time, ``shares`` are those of the states that were created
together at one place of a run, up to this one; 0 for a state that has that turn."""
LAST_TURN = ("turn", "coalesce((SELECT turn FROM states WHERE seq = {turn}), 0)")
"""The turn of the state that was created last at a place of a run; ``turn`` is its number."""


def share_of(weight: float) -> int:
    return round(SHARE / weight)


def deadline_ms(now_ms: int, timeout_ms: int | None) -> int:
    """Return until when a state waits for an event that begins to wait now."""
    return NEVER if timeout_ms is None else now_ms + timeout_ms


def begins_at(place: Place, now_ms: int) -> int:
    """Return ``enqueue_after`` of a new state that is not delayed: the time, or until when it waits."""
    return now_ms if place.wait is None else deadline_ms(now_ms, place.wait.model.timeout_ms)


def waits_until(enqueue_after: int) -> int | None:
    """Return until when a state in the lane ``WAITING`` waits; None: without a limit."""
    # It is moved when a clock is set back.
    return enqueue_after if enqueue_after < NEVER // 2 else None


def weight_of(share: int) -> float:
    return round(SHARE / share, 2)


class Candidate(NamedTuple):
    """A state that a claim may take. Candidates sort in the order of claims."""

    priority: int
    turn: int
    seq: int
    node_id: int
    run: int
    enqueue_after: int
    size: int
    limits: str | None
    is_closed: bool
    lane: str | None

    @property
    def position(self) -> Position:
        """Its position in the order of claims."""
        return self[:3]


def take_places(tx: Transaction, due: Iterable[Candidate]) -> list[Candidate]:
    """Return states that came due with their turns: from the virtual time on, those of each run, or fairness
    key, a share apart."""
    taken: defaultdict[tuple[int, int, str], int] = defaultdict(int)
    # Of those that would have the same turn, the first that came due is the first.
    placed = []
    in_time = sorted(due, key=lambda state: (state.enqueue_after, state.seq))
    runs = tx.run_facts({state.run for state in in_time})
    for number, state in enumerate(in_time, 1):
        run = runs[state.run]
        flow = state.node_id, state.priority, run.fair_key or run.run_id
        taken[flow] += run.share
        turn = max(state.turn, tx.virtual_times.of(tx, *flow[:2]) + taken[flow]) + number
        placed.append(state._replace(turn=turn))
    return placed


def keyed_turns(tx: Transaction, states: Mapping[int, tuple[int, int, str, int]]) -> dict[int, int]:
    """Return the turns of new states of runs with a fairness key, by number.

    ``states`` has the node, the priority, the key and the share of each.
    """
    nodes = sorted({node_id for node_id, *_ in states.values()})
    priorities = sorted({priority for _, priority, *_ in states.values()})
    keys = sorted({key for *_, key, _ in states.values()})
    rows: Iterable[Row] = tx.execute(
        f"SELECT node_id, priority, fair_key, turn FROM turns WHERE {tx.any_of('node_id')}"
        f" AND {tx.any_of('priority')} AND {tx.any_of('fair_key')}",
        (tx.items(nodes), tx.items(priorities), tx.items(keys)),
    )
    last = {(node_id, priority, key): turn for node_id, priority, key, turn in rows}
    turns = {}
    for seq, (node_id, priority, key, share) in sorted(states.items()):
        of_key = node_id, priority, key
        turn = share + max(last.get(of_key, 0), tx.virtual_times.of(tx, node_id, priority))
        turns[seq] = last[of_key] = turn
    changed = {state[:3] for state in states.values()}
    tx.insert("turns", COLUMNS, sorted((*key, last[key]) for key in changed), LATER_TURN)
    return turns


def give_turns_back(tx: Transaction, states: Iterable[tuple[int, int, str, int]]) -> None:
    """Let the next states of fairness keys have the turns of these, which are given as in ``keyed_turns`` and
    wait no more."""
    shares: defaultdict[tuple[int, int, str], int] = defaultdict(int)
    for node_id, priority, key, share in states:
        shares[node_id, priority, key] += share
    tx.executemany(
        "UPDATE turns SET turn = turn - ? WHERE node_id = ? AND priority = ? AND fair_key = ?",
        [(unused, *of_key) for of_key, unused in sorted(shares.items())],
    )
