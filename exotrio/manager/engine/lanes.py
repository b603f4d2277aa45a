"""Claims of states that have limits: which of them are taken, also out of lanes, and which wait there.

``engine.slots`` says how this works, and why no state waits although there is room.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

from exotrio.manager.engine.candidates import CANDIDATE
from exotrio.manager.engine.order import Candidate
from exotrio.manager.engine.slots import (
    ALL_KEYS,
    HAS_WAITING,
    IS_CHECK,
    MAX_ROOM,
    ONE_KEY,
    Hold,
    Pair,
    Slots,
    drop,
    free,
    lane_of,
    lanes_of,
    lock,
    name_at_node,
    pairs_of,
    put_slots,
)
from exotrio.manager.engine.unfinished import IS_CLOSED
from exotrio.manager.store.driver import Row, Rows
from exotrio.manager.store.effects import Effects
from exotrio.manager.store.transaction import Transaction
from exotrio.manager.store.view import View

MAX_LANES = 100
"""Lanes that one claim checks."""
MAX_PUT_ASIDE = 1_000
"""States without room after which a claim searches no further. The next one goes on behind them."""
LOCKED_FOR_MS = 100
"""Time after which a lane is checked again whose states another transaction had locked."""


class LimitedClaim:
    """The part of a claim that is about limits.

    ``search`` returns the first states of each node that can be claimed, at most as many as its argument
    says, locked and in the order of claims. ``counts`` and ``limit`` say how many the claim wants of each
    node, and of all, ``versions`` which nodes share a count (``find_candidates``); ``run`` is the one that it
    is restricted to.

    Attributes:
        effects: Those of the use case; what to announce is added to them.
        is_unfinished: Whether there may be states with room behind those that were put aside.
    """

    def __init__(
        self,
        tx: Transaction,
        search: Callable[[Mapping[int, int]], list[Candidate]],
        counts: Mapping[int, int],
        limit: int,
        run: int | None,
        versions: Mapping[int, int],
        effects: Effects,
    ) -> None:
        self.effects = effects
        self.is_unfinished = False
        self._tx = tx
        self._search = search
        self._counts = counts
        self._limit = limit
        self._run = run
        self._versions = versions
        self._slots: Slots | None = None
        self._next_check: float | None = None
        self._ended: list[tuple[int, Pair]] = []
        self._from_lanes: dict[int, Candidate] = {}
        self._let_in: dict[int, Candidate] = {}
        self._checks: dict[Pair, int] = {}
        self._full: set[Pair] = set()

    def choose(self, ended: Sequence[Hold]) -> list[Candidate]:
        """Return those of the first states, and of those behind, for which there is room.

        ``ended`` are holds that this transaction ended, without checks: this claim looks into their lanes.
        """
        tx = self._tx
        of_nodes = tx.limited_nodes.limits_of(tx, self._counts)
        # Sent with the search.
        first_check = _first_check(tx, of_nodes)
        due = self._search(self._counts)
        ids = {limit for state in due if state.limits for limit, _ in pairs_of(state.limits)}
        free(tx, self.effects, self._keep(ended, ids | of_nodes))
        self._next_check = _time_of(first_check)
        is_due = self._next_check <= tx.now_ms
        if not (ids or self._ended or is_due or (self._run is not None and of_nodes and not due)):
            return due
        slots = self._slots = lock(tx, ids | of_nodes)
        # All three are sent together: nothing was read since the states.
        checks = _take_checks(tx, slots) if is_due else None
        slots.load({pair for _, pair in self._ended}.union(*(pairs_of(state.limits) for state in due)))
        self._check_lanes(slots, () if checks is None else checks.fetchall())
        due = sorted([*due, *self._from_lanes.values()])
        put_aside, ahead = 0, self._limit
        while True:
            taken, blocked, others = self._split(slots, due)
            self._put_aside(slots, blocked)
            put_aside += len(blocked)
            if not blocked or len(taken) >= self._limit or put_aside >= MAX_PUT_ASIDE:
                break
            self._find_more(slots, taken, [state for state, _ in blocked], ahead)
            due = self._search({node_id: count + ahead for node_id, count in self._counts.items()})
            due = sorted([*due, *self._from_lanes.values()])
            ahead = min(2 * ahead, MAX_PUT_ASIDE)
        self.is_unfinished = bool(blocked) and not taken
        self._announce(others)
        return taken

    def next_in(self) -> float:
        """Return the seconds until a claim of these nodes may find something without an announcement, or
        infinity. Call it after ``take``."""
        if self.is_unfinished:
            return 0.0
        at = self._next_check
        if at is None or self._slots is not None:
            of_nodes = self._tx.limited_nodes.limits_of(self._tx, self._counts)
            at = _time_of(_first_check(self._tx, of_nodes))
        return max(0.0, (at - self._tx.now_ms) / 1000)

    def shares_with(self, node_id: int) -> list[int]:
        """Return the nodes that share the count of a node, and may be behind it in the fair order."""
        if not self._versions:
            return []
        first = self._versions.get(node_id, node_id)
        return [each for each in (first, *self._versions) if self._versions.get(each, each) == first]

    def take(self, states: Iterable[Candidate]) -> None:
        """Record that the claim takes these of the chosen states. Call it in any case, also for none."""
        tx, slots = self._tx, self._slots
        if slots is None:
            return
        taken = [*states]
        drop(tx, self._ended)
        pairs = sorted((pair, state.seq) for state in taken for pair in pairs_of(state.limits))
        held = [(*pair, seq, None) for pair, seq in pairs if pair[0] in slots.limits]
        tx.insert(
            "starts",
            ("limit_id", "key", "slot", "count"),
            slots.start(pair for pair, _ in pairs),
            "(limit_id, key, slot) DO UPDATE SET count = starts.count + excluded.count",
        )
        # Not before: what this claim starts may be what leaves no room.
        self._checks |= {pair: at for pair in self._full if (at := slots.room_at(pair)) is not None}
        put_slots(tx, sorted([*held, *((*pair, ONE_KEY, at) for pair, at in self._checks.items())]))
        # The others that found room can be claimed from now on, also by other runtimes.
        let_in = self._let_in | self._from_lanes
        for state in taken:
            let_in.pop(state.seq, None)
        rows = [(seq, "CREATED", None) for seq in sorted(let_in)]
        tx.update("states", ("seq", "status"), ("lane",), rows)
        for state in let_in.values():
            self.effects.reopen(state.run, state.node_id)
        # Claims that wait learn of what is left to them of the room that holds left which ended just now.
        of_ended = {limit for _, (limit, _) in self._ended}
        self.effects.freed |= {
            limit for (limit, _), at in self._checks.items() if at <= tx.now_ms or limit in of_ended
        }

    def _split(
        self, slots: Slots, due: Sequence[Candidate]
    ) -> tuple[list[Candidate], list[tuple[Candidate, Pair]], list[Candidate]]:
        """Return the states to take, those without room, each with what it lacks, and the others."""
        pairs_of_due = {pair for state in due for pair in pairs_of(state.limits)}
        slots.load(pairs_of_due)
        room = {pair: slots.room(pair) for pair in pairs_of_due}
        of_node: Counter[int] = Counter()
        taken: list[Candidate] = []
        blocked: list[tuple[Candidate, Pair]] = []
        others: list[Candidate] = []
        for state in due:
            pairs = pairs_of(state.limits)
            node_id = self._versions.get(state.node_id, state.node_id)
            if len(taken) == self._limit or of_node[node_id] == self._counts[node_id]:
                others.append(state)
            elif any(limit not in slots.ids for limit, _ in pairs):
                # To lock one more limit now might wait in a circle: this state is left to the next claim.
                others.append(state)
            elif full := [pair for pair in pairs if room[pair] <= 0]:
                blocked.append((state, full[0]))
                # In its other lanes this state took the room for one that is behind it.
                self._checks |= {pair: 0 for pair in pairs if pair not in full and pair[0] in slots.limits}
            else:
                for pair in pairs:
                    room[pair] -= 1
                of_node[node_id] += 1
                taken.append(state)
        return taken, blocked, others

    def _put_aside(self, slots: Slots, blocked: Iterable[tuple[Candidate, Pair]]) -> None:
        tx, rows = self._tx, []
        for state, pair in blocked:
            node_id = state.node_id
            if pair[0] not in tx.limited_nodes.limits_of(tx, [node_id]):
                # The limit was made again since the graph was stored. Others may wait without looking for it.
                name_at_node(tx, node_id, {limit for limit, _ in pairs_of(state.limits)})
                self._announce([state])
            if state.lane != lane_of(pair):
                # It came due in this claim, perhaps, and has a new turn.
                rows.append((state.seq, "CREATED", lane_of(pair), state.turn))
            self._from_lanes.pop(state.seq, None)
            self._full.add(pair)
        tx.update("states", ("seq", "status"), ("lane", "turn"), sorted(rows))

    def _keep(self, ended: Iterable[Hold], ids: Collection[int]) -> list[Hold]:
        """Keep those of the holds whose lanes this claim checks, and return the others."""
        others, pairs = [], set[Pair]()
        for seq, limits in ended:
            of_state = pairs_of(limits)
            if len(pairs) < MAX_LANES and all(limit in ids for limit, _ in of_state):
                pairs.update(of_state)
                self._ended += [(seq, pair) for pair in of_state]
            else:
                others.append((seq, limits))
        return others

    def _check_lanes(self, slots: Slots, checks: Iterable[Row]) -> None:
        """Find states with room in lanes where holds have ended."""
        tx = self._tx
        checked = {pair for _, pair in self._ended if slots.has_waiting(pair)} | _lanes_to_check(tx, checks)
        of_run = set() if self._run is None else self._lanes_of_run(slots)
        slots.load(checked | of_run)
        # A check is taken for the states of all runs.
        firsts = self._first_with_room(slots, checked, None) | self._first_with_room(slots, of_run, self._run)
        found = self._lock({seq for seqs in firsts.values() for seq in seqs})
        for (pair, _), seqs in firsts.items():
            if len(seqs) >= (room := slots.room(pair)):
                # More states may be behind them.
                at = 0 if room == MAX_ROOM else slots.next_lapse(pair)
                self._checks |= {} if at is None else {pair: at}
            if not found >= seqs:
                self._checks[pair] = tx.now_ms + LOCKED_FOR_MS

    def _first_with_room(
        self, slots: Slots, pairs: Iterable[Pair], run: int | None
    ) -> dict[tuple[Pair, int | None], set[int]]:
        """Return the first states of lanes, of one run or of all, by (lane, run): of each node as many as
        there is room. Note which lanes have none."""
        rooms: list[tuple[Pair, int, int]] = []
        for pair in sorted(pairs):
            if (room := slots.room(pair)) > 0:
                nodes = self._tx.limited_nodes.nodes_of(self._tx, [pair[0]]) | self._counts.keys()
                rooms += [(pair, node_id, room) for node_id in sorted(nodes)]
            else:
                self._full.add(pair)
        return {(pair, run): seqs for pair, seqs in _first_in_lanes(self._tx, rooms, run).items()}

    def _find_more(
        self, slots: Slots, taken: Iterable[Candidate], blocked: Iterable[Candidate], count: int
    ) -> None:
        """Find more states, so many of each node, in lanes whose room blocked states left: those behind may
        be blocked, too, as may thousands."""
        used = Counter(pair for state in taken for pair in pairs_of(state.limits))
        left = {pair for state in blocked for pair in pairs_of(state.limits) if used[pair] < slots.room(pair)}
        rooms = [(pair, node_id, count) for pair in sorted(left) for node_id in sorted(self._counts)]
        firsts = _first_in_lanes(self._tx, rooms, self._run)
        self._lock({seq for seqs in firsts.values() for seq in seqs})

    def _lock(self, seqs: Collection[int]) -> set[int]:
        """Lock states in lanes, unless another transaction has locked them, or no claim may take them; return
        the rest. This claim may take those of its nodes and its run, and lets the others in."""
        if not seqs:
            return set()
        tx = self._tx
        rows = tx.execute(
            f"SELECT {CANDIDATE}, lane, (SELECT paused_at FROM nodes WHERE nodes.id = node_id) AS paused_at"
            f" FROM states WHERE {tx.any_of('seq')} AND status || '' = 'CREATED' AND NOT {IS_CLOSED}"
            f" ORDER BY seq{tx.skip_locked('states')}",
            (tx.items(sorted(seqs)),),
        )
        locked = set()
        for *values, paused_at in rows:
            state = Candidate(*values)
            is_own = state.node_id in self._counts and self._run in (None, state.run) and paused_at is None
            (self._from_lanes if is_own else self._let_in)[state.seq] = state
            locked.add(state.seq)
        return locked

    def _lanes_of_run(self, slots: Slots) -> set[Pair]:
        """Return lanes in which states of the claim's run wait: states of other runs may be before them that
        no runtime claims."""
        lanes = self._tx.execute(
            "SELECT DISTINCT lane FROM (SELECT lane FROM states WHERE run = ? AND status = 'CREATED'"
            f" AND lane IS NOT NULL AND {self._tx.any_of('node_id')} LIMIT ?) AS waiting",
            (self._run, self._tx.items(sorted(self._counts)), MAX_ROOM),
        )
        parts = [lane.partition(":") for (lane,) in lanes]
        pairs = {(int(limit), key) for limit, colon, key in parts if colon}
        return {pair for pair in pairs if pair[0] in slots.ids}

    def _announce(self, states: Iterable[Candidate]) -> None:
        """Announce states that are not taken: another claim may have left them out as locked."""
        for state in states:
            node_id = state.node_id
            self.effects.announced.add(node_id if self._run is None else (self._run, node_id))


def _first_check(tx: Transaction, ids: Collection[int]) -> Rows | None:
    """Return the first check of these limits, or None without limits."""
    due = f"SELECT min(check_at) FROM slots WHERE {tx.any_of('limit_id')} AND {IS_CHECK}"
    return tx.execute(due, (tx.items(sorted(ids)),)) if ids else None


def _time_of(check: Rows | None) -> float:
    """Return when a check is due, in Unix ms, or infinity if there is none."""
    row = None if check is None else check.fetchone()
    return math.inf if row is None or row[0] is None else float(row[0])


def _take_checks(tx: Transaction, slots: Slots) -> Rows:
    """Take away some checks that are due; return whether states wait in the lane of each."""
    return tx.execute(
        "DELETE FROM slots WHERE (limit_id, key, state) IN (SELECT limit_id, key, state FROM slots"
        f" WHERE {tx.any_of('limit_id')} AND {IS_CHECK} AND check_at <= ?"
        f" ORDER BY check_at, limit_id, key LIMIT ?{tx.skip_locked('slots')})"
        f" RETURNING limit_id, key, state, {HAS_WAITING}",
        (tx.items(slots.ids), tx.now_ms, MAX_LANES),
    )


def _lanes_to_check(tx: Transaction, checks: Iterable[Row]) -> set[Pair]:
    """Return the lanes of checks that were taken away, if states wait in them."""
    pairs = set()
    for limit, key, state, waits in checks:
        if state == ALL_KEYS:
            keys = keys_after(tx, limit, key)
            pairs |= {(limit, each) for each in keys}
            if len(keys) == MAX_LANES:
                put_slots(tx, [(limit, keys[-1], ALL_KEYS, 0)])
        elif waits:
            pairs.add((limit, key))
    return pairs


def keys_after(view: View, limit: int, key: str) -> list[str]:
    """Return the next keys for which states wait, in their order."""
    first, last = lanes_of(limit)
    waiting = "SELECT min(lane) AS lane FROM states WHERE status = 'CREATED' AND lane IS NOT NULL AND lane"
    rows = view.execute(
        f"WITH RECURSIVE lanes(lane) AS ({waiting} >= ? AND lane < ? UNION ALL"
        f" SELECT ({waiting} > lanes.lane AND lane < ?) FROM lanes WHERE lanes.lane IS NOT NULL)"
        " SELECT lane FROM lanes WHERE lane IS NOT NULL LIMIT ?",
        # The character after a key: the one that is smallest.
        (first if key == "" else f"{lane_of((limit, key))}\x01", last, last, MAX_LANES),
    )
    return [lane.partition(":")[2] for (lane,) in rows]


def _first_in_lanes(
    tx: Transaction, rooms: Sequence[tuple[Pair, int, int]], run: int | None
) -> dict[Pair, set[int]]:
    """Return the first states of lanes, given as (lane, node, how many)."""
    firsts: defaultdict[Pair, set[int]] = defaultdict(set)
    of_run, in_run = ((), "") if run is None else ((run,), " AND run = {run}")
    first = (
        "SELECT seq, lane FROM states WHERE status = 'CREATED' AND lane IS NOT NULL AND lane = {lane}"
        f" AND node_id = {{node_id}}{in_run} ORDER BY priority, turn, seq LIMIT {{count}}"
    )
    names = ("lane", "node_id", "count", "run")[: 3 + len(of_run)]
    rows = [(lane_of(pair), node_id, count, *of_run) for pair, node_id, count in rooms]
    for seq, lane in tx.for_each((first,), names, rows):
        limit, _, key = lane.partition(":")
        firsts[int(limit), key].add(seq)
    return firsts
