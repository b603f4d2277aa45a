"""The limits of a namespace: what holds them, what waits for them, and which one a state waits for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import cached_property
from itertools import chain
from typing import Any

from exotrio._util.times import from_unix_ms
from exotrio._wire.limits import (
    MAX_COUNTED,
    MAX_HOLDERS,
    MAX_SHOWN,
    LimitDetail,
    LimitHolder,
    LimitInfo,
    LimitKey,
    LimitWait,
)
from exotrio.manager.engine.lanes import keys_after
from exotrio.manager.engine.limits import IS_LIMIT, find_limit, named_by_graphs
from exotrio.manager.engine.order import LATER
from exotrio.manager.engine.slots import (
    ALL_KEYS,
    IS_CHECK,
    IS_HELD,
    Pair,
    Slots,
    ids_in,
    lane_of,
    lanes_of,
    pairs_of,
)
from exotrio.manager.engine.states import QUEUED
from exotrio.manager.queries.audit import last_changes
from exotrio.manager.queries.load import stages_among
from exotrio.manager.queries.obstacles import Obstacles
from exotrio.manager.store.driver import Row
from exotrio.manager.store.view import View

MAX_READ = 20_000
"""Counts of starts of one limit that are read to find keys in use: a limit may have a million."""
MAX_READY = 10_000
"""States of one node that are due and in no lane, the first ones, that are read to see their limits."""
FOR_LIMITS = "seq, limits, lane, priority, turn"
"""Columns of a state for ``waits_of``."""
_IN_LANE = "FROM states WHERE status = 'CREATED' AND lane IS NOT NULL AND lane = {lane}"
_IN_LANES = "FROM states WHERE status = 'CREATED' AND lane IS NOT NULL AND lane >= {first} AND lane < {last}"


def list_limits(view: View, namespace: str) -> list[LimitInfo]:
    """Return the limits of a namespace, by name."""
    rows = view.execute(
        f"SELECT * FROM limits WHERE namespace = ? AND {IS_LIMIT} ORDER BY name", (namespace,)
    ).fetchall()
    return [LimitInfo(**fields) for fields in _fields_of_info(view, namespace, rows)]


def show_limit(view: View, namespace: str, name: str) -> LimitDetail:
    """Return a limit with its keys in use and the states that hold it; raise NotFound if there is none."""
    row = find_limit(view, namespace, name)
    (fields,) = _fields_of_info(view, namespace, [row])
    holders = _holders(view, row["id"], MAX_SHOWN)
    stages = _stages(view, holders)
    found = view.execute(
        "SELECT seq, run_id, worker FROM states CROSS JOIN runs ON runs.id = states.run"
        f" WHERE {view.any_of('seq')}",
        (view.items([each["state"] for each in holders]),),
    )
    states = {each["seq"]: each for each in found}
    keys, changes = _keys(view, namespace, row["id"]), last_changes(view, namespace, name, "limit.set")
    fields["keyed"] |= any(each.key for each in keys)
    return LimitDetail(
        **fields,
        keys=keys,
        set_by=changes[0].who if changes else None,
        holders=[
            LimitHolder(
                state_id=view.state_id(each["state"]),
                run_id=states[each["state"]]["run_id"],
                key=each["key"],
                held_ms=max(0, view.now_ms - each["claimed_at"]),
                worker=states[each["state"]]["worker"],
                stopping=each["check_at"] is not None,
                stage=stages.get(each["state"]),
            )
            for each in holders
        ],
    )


def _fields_of_info(view: View, namespace: str, rows: Sequence[Row]) -> list[dict[str, Any]]:
    held, waiting = count_states(view, [namespace], [row["id"] for row in rows])
    named = named_by_graphs(view, namespace) if rows else {}
    return [
        {
            **{name: row[name] for name in ("name", "at_most", "starts", "period_ms")},
            "updated_at": from_unix_ms(row["updated_at"]),
            "created_at": from_unix_ms(row["created_at"]),
            **dict(zip(("held", "stopping"), held.get(row["id"], (0, 0)), strict=True)),
            "waiting": waiting.get(row["id"], 0),
            "graphs": [graph for graph, names in named.items() if row["name"] in names],
            "keyed": any(names.get(row["name"]) for names in named.values()),
        }
        for row in rows
    ]


def _holders(view: View, limit: int, most: int, key: str | None = None) -> list[Row]:
    """Return the states that hold a limit longest, without those whose runs were deleted."""
    which, keys = ("", ()) if key is None else (" AND key = ?", (key,))
    return view.execute(
        "SELECT state, key, check_at, claimed_at FROM (SELECT state, key, check_at,"
        " (SELECT claimed_at FROM states CROSS JOIN runs ON runs.id = states.run WHERE seq = slots.state)"
        " AS claimed_at"
        f" FROM slots WHERE {IS_HELD} AND limit_id = ?{which}) AS holders"
        " WHERE claimed_at IS NOT NULL ORDER BY claimed_at, state LIMIT ?",
        (limit, *keys, most),
    ).fetchall()


def _stages(view: View, holders: Iterable[Row]) -> dict[int, str]:
    """Return ``buffered`` and ``reporting`` of those holders to which they apply, by number."""
    claimed = {each["state"]: QUEUED for each in holders if each["check_at"] is None}
    return {seq: stage.lower() for seq, stage in stages_among(view, claimed).items()}


class Queue:
    """What waits for limits. A state does if it is due, has no obstacle (``Obstacles``), and finds no room:

    - in a lane, if others before it take what room that lane has, it waits for the limit of the lane;
    - otherwise, if any of its limits has no room at all, it waits for the first of these.

    What else is due waits for a claim. Lists count the states of limits, and pages ask for single ones.
    """

    def __init__(self, view: View, obstacles: Obstacles, ids: Collection[int]) -> None:
        self._view, self._ids = view, ids
        nodes = {
            node["id"]: ((node["namespace"], node["name"]), ids_in(node["limits"]))
            for node in view.execute("SELECT id, namespace, name, limits FROM nodes WHERE limits IS NOT NULL")
        }
        nodes = {number: node for number, node in nodes.items() if not node[1].isdisjoint(ids)}
        self.slots = Slots(view, {*ids}.union(*(named for _, named in nodes.values())))
        self._nodes = nodes.keys()
        self._claimable = obstacles.outside({number: node for number, (node, _) in nodes.items()})

    @cached_property
    def _outside_lanes(self) -> Counter[str]:
        """How many states that are due are in no lane, by column ``limits``, of the first of each node."""
        of_node = (
            f"SELECT limits FROM states WHERE node_id = {{node_id}} AND status = 'CREATED'{self._claimable}"
        )
        selects = tuple(
            f"SELECT limits, count(*) AS number FROM ({of_node} AND {which} LIMIT {MAX_READY}) AS due"
            " WHERE limits IS NOT NULL GROUP BY limits"
            for which in (
                "lane IS NULL ORDER BY priority, turn, seq",
                f"lane = '{LATER}' AND enqueue_after <= {{now}} ORDER BY enqueue_after, seq",
            )
        )
        counts: Counter[str] = Counter()
        rows = [(number, self._view.now_ms) for number in self._nodes]
        for limits, number in self._view.for_each(selects, ("node_id", "now"), rows):
            counts[limits] += number
        self.slots.load(pair for limits in counts for pair in pairs_of(limits))
        return counts

    def full(self, limits: str | None) -> Pair | None:
        """Return the first of a state's limits without room, with its key."""
        return next((pair for pair in pairs_of(limits) if self.slots.room(pair) == 0), None)

    def rooms(self, pairs: Iterable[Pair]) -> dict[Pair, int]:
        """Return how many states of lanes the next claims let in at most, without those that let none in.

        States that can be claimed already, such as those that a lost runtime held, take their part of it.
        """
        self.slots.load(pairs := set(pairs))
        rooms = {pair: room for pair in pairs if (room := self.slots.room(pair, MAX_COUNTED))}
        for limits, number in self._outside_lanes.items() if rooms else ():
            if self.full(limits) is None:
                for pair in pairs_of(limits):
                    if pair in rooms:
                        rooms[pair] -= number
        return {pair: room for pair, room in rooms.items() if room > 0}

    def in_lanes(self) -> Counter[int]:
        """Return how many states are in the lanes of each limit."""
        count = (
            f"SELECT {{id}} AS id, count(*) FROM (SELECT 1 {_IN_LANES}{self._claimable} LIMIT {MAX_COUNTED})"
        )
        limits = [(limit, *lanes_of(limit)) for limit in sorted(self._ids)]
        rows = self._view.for_each((f"{count} AS waiting",), ("id", "first", "last"), limits)
        return Counter(dict(map(tuple, rows)))

    def in_lanes_by_key(self, limit: int) -> dict[str, int]:
        """Return how many states are in the lanes of a limit, those with the most of them first."""
        in_lanes = _IN_LANES.format(first="?", last="?")
        rows = self._view.execute(
            f"SELECT lane, count(*) AS number FROM (SELECT lane {in_lanes}{self._claimable} LIMIT ?)"
            " AS waiting GROUP BY lane ORDER BY number DESC, lane LIMIT ?",
            (*lanes_of(limit), MAX_COUNTED, MAX_SHOWN),
        )
        return {lane.partition(":")[2]: count for lane, count in rows}

    def moves(self) -> Counter[Pair]:
        """Return how many states wait for limits outside their lanes, less those that find room in these."""
        moves: Counter[Pair] = Counter()
        for limits, number in self._outside_lanes.items():
            if (pair := self.full(limits)) is not None:
                moves[pair] += number
        rooms = self.rooms(self._lanes_with_checks())
        first = (
            f"SELECT limits {_IN_LANE.format(lane='{lane}')}{self._claimable} ORDER BY priority, turn, seq"
        )
        let_in = (
            f"SELECT {{id}} AS id, {{key}} AS key, limits, count(*) FROM ({first} LIMIT {{room}}) AS let_in"
            " GROUP BY limits"
        )
        rows = [(*pair, lane_of(pair), room) for pair, room in rooms.items()]
        found = [tuple(row) for row in self._view.for_each((let_in,), ("id", "key", "lane", "room"), rows)]
        self.slots.load(pair for *_, limits, _ in found for pair in pairs_of(limits))
        for limit, key, limits, number in found:
            moves[limit, key] -= number
            if (pair := self.full(limits)) is not None:
                moves[pair] += number
        return moves

    def _lanes_with_checks(self) -> set[Pair]:
        """Return the only lanes that may have room: those where a check is due (``engine.slots``)."""
        pairs: set[Pair] = set()
        for limit, key, is_all in self._view.execute(
            "SELECT DISTINCT limit_id, key, CASE WHEN state = ? THEN 1 ELSE 0 END FROM slots"
            f" WHERE {self._view.any_of('limit_id')} AND {IS_CHECK} AND check_at <= ?"
            f" LIMIT {MAX_READ}",
            (ALL_KEYS, self._view.items(sorted(self.slots.ids)), self._view.now_ms),
        ).fetchall():
            keys = keys_after(self._view, limit, key) if is_all else [key]
            pairs |= {(limit, each) for each in keys}
        return pairs

    def before(self, lane: str, states: Sequence[Row]) -> dict[int, int]:
        """Return how many states of a lane are before each of these, by their numbers."""
        in_lane = f"{_IN_LANE.format(lane='?')}{self._claimable}"
        if len(states) == 1:
            (state,) = states
            counted = self._view.one(
                f"SELECT count(*) AS number FROM (SELECT 1 {in_lane}"
                " AND (priority, turn, seq) < (?, ?, ?) LIMIT ?) AS earlier",
                (lane, state["priority"], state["turn"], state["seq"], MAX_COUNTED),
            )
            return {state["seq"]: counted["number"]}
        # To count for each of a thousand would read the lane a thousand times. Some may not be in it yet: a
        # claim puts them there.
        seqs, is_asked = self._view.items([state["seq"] for state in states]), self._view.any_of("seq")
        numbered = (
            "SELECT seq, row_number() OVER (ORDER BY priority, turn, seq) - 1 AS number FROM"
            f" (SELECT * FROM (SELECT seq, priority, turn {in_lane} LIMIT ?) AS waiting"
            f" UNION SELECT seq, priority, turn FROM states WHERE {is_asked}) AS each_once"
        )
        rows = self._view.execute(
            f"SELECT seq, number FROM ({numbered}) AS numbered WHERE {is_asked}",
            (lane, MAX_COUNTED, seqs, seqs),
        )
        return dict(rows.fetchall())


def count_states(
    view: View, namespaces: Collection[str], ids: Collection[int]
) -> tuple[dict[int, tuple[int, int]], Counter[int]]:
    """Return how many states hold each limit of namespaces, with how many of these are stopping, and how many
    wait for it."""
    if not ids:
        return {}, Counter()
    held = view.execute(
        f"SELECT limit_id, count(*), count(check_at) FROM slots WHERE {IS_HELD} AND {view.any_of('limit_id')}"
        " GROUP BY limit_id",
        (view.items(sorted(ids)),),
    )
    queue = Queue(view, Obstacles(view, namespaces), ids)
    waiting = queue.in_lanes()
    for (limit, _), number in queue.moves().items():
        waiting[limit] = min(MAX_COUNTED, max(0, waiting[limit] + number))
    return {limit: (number, stopping) for limit, number, stopping in held.fetchall()}, waiting


def load_of_limits(view: View, limit: int) -> dict[tuple[str, str], tuple[int, int]]:
    """Return how many states hold the oldest limits of all namespaces, and how many wait for each."""
    rows = view.execute(
        f"SELECT id, namespace, name FROM limits WHERE {IS_LIMIT} ORDER BY id LIMIT ?", (limit,)
    ).fetchall()
    held, waiting = count_states(view, {row["namespace"] for row in rows}, [row["id"] for row in rows])
    return {
        (row["namespace"], row["name"]): (held.get(row["id"], (0, 0))[0], waiting.get(row["id"], 0))
        for row in rows
    }


def waits_of(view: View, states: Iterable[Row], obstacles: Obstacles) -> dict[int, LimitWait]:
    """Return the limits that states without obstacles wait for, by the states' numbers; without those that
    wait for none.

    Each has the columns ``FOR_LIMITS``, and is CREATED.
    """
    limited = [state for state in states if state["limits"] is not None]
    if not limited:
        return {}
    queue = Queue(view, obstacles, {limit for state in limited for limit, _ in pairs_of(state["limits"])})
    queue.slots.load(pair for state in limited for pair in pairs_of(state["limits"]))
    names = dict(
        view.execute(
            f"SELECT id, name FROM limits WHERE {view.any_of('id')}", (view.items(queue.slots.ids),)
        ).fetchall()
    )
    in_lanes: dict[Pair, list[Row]] = {}
    others: dict[Pair, list[Row]] = {}
    for state in limited:
        lane = next((pair for pair in pairs_of(state["limits"]) if lane_of(pair) == state["lane"]), None)
        if lane is not None:
            in_lanes.setdefault(lane, []).append(state)
        elif (full := queue.full(state["limits"])) is not None:
            others.setdefault(full, []).append(state)
    found: dict[Pair, dict[int, int]] = {}
    rooms = queue.rooms(in_lanes)
    for pair, waiting in in_lanes.items():
        before, room = queue.before(lane_of(pair), waiting), rooms.get(pair, 0)
        found[pair] = {seq: number for seq, number in before.items() if number >= room}
        for state in waiting:
            # It finds room in its lane, but perhaps not in another one.
            if before[state["seq"]] < room and (full := queue.full(state["limits"])) is not None:
                others.setdefault(full, []).append(state)
    for pair, waiting in others.items():
        found[pair] = queue.before(lane_of(pair), waiting) | found.get(pair, {})
    waits: dict[int, LimitWait] = {}
    shown = [pair for pair, of_pair in found.items() if of_pair and pair[0] in names]
    holders = {pair: _holders(view, pair[0], MAX_HOLDERS, pair[1]) for pair in shown}
    stages = _stages(view, chain.from_iterable(holders.values()))
    for pair in shown:
        wait = _wait(view, queue.slots, names[pair[0]], pair, holders[pair], stages)
        waits |= {seq: wait.model_copy(update={"before": number}) for seq, number in found[pair].items()}
    return waits


def _wait(
    view: View, slots: Slots, name: str, pair: Pair, holders: Sequence[Row], stages: Mapping[int, str]
) -> LimitWait:
    """Return why states wait for a limit with a key, as of the first of them."""
    limit, room_at = slots.limits[pair[0]], slots.room_at(pair)
    return LimitWait(
        limit=name,
        key=pair[1],
        at_most=limit.at_most,
        starts=limit.starts,
        period_ms=None if limit.starts is None else limit.period_ms,
        held=slots.held(pair),
        stopping=slots.stopping(pair),
        holders=[view.state_id(row["state"]) for row in holders],
        stages={view.state_id(seq): stages[seq] for row in holders if (seq := row["state"]) in stages},
        held_ms=max(0, view.now_ms - holders[0]["claimed_at"]) if holders else None,
        started=None if limit.starts is None else slots.started(pair),
        room_in_ms=None if room_at is None else max(0, room_at - view.now_ms),
        before=0,
    )


def _keys(view: View, namespace: str, limit: int) -> list[LimitKey]:
    """Return keys in use, those with the most waiting states first."""
    queue = Queue(view, Obstacles(view, [namespace]), [limit])
    waiting = Counter(queue.in_lanes_by_key(limit))
    for (of_limit, key), number in queue.moves().items():
        waiting[key] += number if of_limit == limit else 0
    rows_held = f"SELECT key, count(*) AS number FROM slots WHERE {IS_HELD} AND limit_id = ?"
    held = _first_keys(view, rows_held, limit)
    recent = f"SELECT key, count FROM starts WHERE limit_id = ? ORDER BY key LIMIT {MAX_READ}"
    started = _first_keys(view, f"SELECT key, sum(count) AS number FROM ({recent}) AS recent", limit)
    keys = list(
        dict.fromkeys([*(key for key, number in waiting.most_common() if number > 0), *held, *started])
    )[:MAX_SHOWN]
    slots = queue.slots
    slots.load((limit, key) for key in keys)
    shown = []
    for key in keys:
        pair = (limit, key)
        counted, started_now = slots.limits[limit].starts is not None, slots.started(pair)
        if waiting[key] > 0 or slots.held(pair) or started_now:
            shown.append(
                LimitKey(
                    key=key,
                    held=slots.held(pair),
                    waiting=max(0, waiting[key]),
                    started=started_now if counted else None,
                    room_at=from_unix_ms(slots.room_at(pair)),
                )
            )
    return shown


def _first_keys(view: View, select: str, *values: int) -> Sequence[str]:
    rows = view.execute(f"{select} GROUP BY key ORDER BY number DESC, key LIMIT ?", (*values, MAX_SHOWN))
    return [row["key"] for row in rows]
