"""The limits of a namespace: what holds them, what waits for them, and which one a state waits for."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
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
from exotrio.manager.engine.limits import find_limit, named_by_graphs
from exotrio.manager.engine.slots import (
    ALL_KEYS,
    IS_HELD,
    Pair,
    Slots,
    ids_in,
    lane_of,
    lanes_of,
    pairs_of,
)
from exotrio.manager.queries.audit import last_changes
from exotrio.manager.store.driver import Row
from exotrio.manager.store.view import View

MAX_READ = 20_000
"""Counts of starts of one limit that are read to find keys in use: a limit may have a million."""
MAX_READY = 1_000
"""States of one node that can be claimed, the first ones, that are read to see which limits they take."""
FOR_LIMITS = "seq, limits, lane, priority, turn"
"""Columns of a state for ``waits_of``."""
_IN_LANES = "FROM states WHERE status = 'CREATED' AND lane IS NOT NULL AND lane >= {first} AND lane < {last}"


def list_limits(view: View, namespace: str) -> list[LimitInfo]:
    """Return the limits of a namespace, by name."""
    rows = view.execute("SELECT * FROM limits WHERE namespace = ? ORDER BY name", (namespace,)).fetchall()
    return [LimitInfo(**fields) for fields in _fields_of_info(view, namespace, rows)]


def show_limit(view: View, namespace: str, name: str) -> LimitDetail:
    """Return a limit with its keys in use and the states that hold it; raise NotFound if there is none."""
    row = find_limit(view, namespace, name)
    (fields,) = _fields_of_info(view, namespace, [row])
    holders = _holders(view, row["id"], MAX_SHOWN)
    found = view.execute(
        "SELECT seq, run_id, worker FROM states CROSS JOIN runs ON runs.id = states.run"
        f" WHERE {view.any_of('seq')}",
        (view.items([each["state"] for each in holders]),),
    )
    states = {each["seq"]: each for each in found}
    keys, changes = _keys(view, row["id"]), last_changes(view, namespace, name, "limit.set")
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
            )
            for each in holders
        ],
    )


def _fields_of_info(view: View, namespace: str, rows: Sequence[Row]) -> list[dict[str, Any]]:
    held, waiting = count_states(view, [row["id"] for row in rows])
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
        (view.now_ms, limit, *keys, most),
    ).fetchall()


def count_states(view: View, ids: Collection[int]) -> tuple[dict[int, tuple[int, int]], dict[int, int]]:
    """Return how many states hold each limit, with how many of these are stopping, and how many wait for it.

    Those that it has room for only wait for a claim, which lets them in.
    """
    if not ids:
        return {}, {}
    held = view.execute(
        f"SELECT limit_id, count(*), count(check_at) FROM slots WHERE {IS_HELD} AND {view.any_of('limit_id')}"
        " GROUP BY limit_id",
        (view.now_ms, view.items(sorted(ids))),
    )
    waiting = view.for_each(
        (f"SELECT {{id}} AS id, count(*) FROM (SELECT 1 {_IN_LANES} LIMIT {MAX_COUNTED}) AS waiting",),
        ("id", "first", "last"),
        [(limit, *lanes_of(limit)) for limit in sorted(ids)],
    )
    counts = dict(map(tuple, waiting))
    for limit, number in _let_in_next(view, ids):
        counts[limit] = max(0, counts[limit] - number)
    return {limit: (number, stopping) for limit, number, stopping in held.fetchall()}, counts


def _let_in_next(view: View, ids: Collection[int]) -> list[tuple[int, int]]:
    """Return how many states of lanes that have room the next claims let in: limit and number.

    Only where a check is due may a lane have room (``engine.slots``).
    """
    pairs: set[Pair] = set()
    for limit, key, is_all in view.execute(
        "SELECT DISTINCT limit_id, key, CASE WHEN state = ? THEN 1 ELSE 0 END FROM slots"
        f" WHERE {view.any_of('limit_id')} AND check_at IS NOT NULL AND check_at <= ? LIMIT {MAX_READ}",
        (ALL_KEYS, view.items(sorted(ids)), view.now_ms),
    ).fetchall():
        keys = keys_after(view, limit, key) if is_all else [key]
        pairs |= {(limit, each) for each in keys}
    if not pairs:
        return []
    slots = Slots(view, {limit for limit, _ in pairs})
    slots.load(pairs)
    rooms = [(pair[0], lane_of(pair), room) for pair, room in _rooms(view, slots, pairs).items()]
    in_lane = "SELECT 1 FROM states WHERE status = 'CREATED' AND lane IS NOT NULL AND lane = {lane}"
    let_in = f"SELECT {{id}} AS id, count(*) FROM ({in_lane} LIMIT {{room}}) AS let_in"
    return [(limit, number) for limit, number in view.for_each((let_in,), ("id", "lane", "room"), rooms)]


def _rooms(view: View, slots: Slots, pairs: Iterable[Pair]) -> dict[Pair, int]:
    """Return how many states of lanes the next claims let in at most, without those that let none in.

    States that can be claimed already, such as those that a lost runtime held, take their part of the room.
    """
    rooms = {pair: room for pair in pairs if (room := slots.room(pair, MAX_COUNTED))}
    if not rooms:
        return {}
    limits = {limit for limit, _ in rooms}
    nodes = view.execute("SELECT id, limits FROM nodes WHERE limits IS NOT NULL").fetchall()
    ready = (
        "SELECT limits, count(*) AS number FROM (SELECT limits FROM states WHERE node_id = {node_id}"
        " AND status = 'CREATED' AND lane IS NULL ORDER BY priority, turn, seq LIMIT {count}) AS ready"
        " WHERE limits IS NOT NULL GROUP BY limits"
    )
    named = [(node["id"], MAX_READY) for node in nodes if not limits.isdisjoint(ids_in(node["limits"]))]
    for text, number in view.for_each((ready,), ("node_id", "count"), named):
        for pair in pairs_of(text):
            if pair in rooms:
                rooms[pair] -= number
    return {pair: room for pair, room in rooms.items() if room > 0}


def load_of_limits(view: View, limit: int) -> dict[tuple[str, str], tuple[int, int]]:
    """Return how many states hold the oldest limits of all namespaces, and how many wait for each."""
    rows = view.execute("SELECT id, namespace, name FROM limits ORDER BY id LIMIT ?", (limit,)).fetchall()
    held, waiting = count_states(view, [row["id"] for row in rows])
    return {
        (row["namespace"], row["name"]): (held.get(row["id"], (0, 0))[0], waiting.get(row["id"], 0))
        for row in rows
    }


def waits_of(view: View, states: Iterable[Row]) -> dict[int, LimitWait]:
    """Return the limits that states wait for, by the states' numbers; without those that wait for none.

    Each has the columns ``FOR_LIMITS``, and is CREATED.
    """
    limited = [(state, pairs_of(state["limits"])) for state in states if state["limits"] is not None]
    if not limited:
        return {}
    slots = Slots(view, {limit for _, pairs in limited for limit, _ in pairs})
    slots.load(pair for _, pairs in limited for pair in pairs)
    names = dict(
        view.execute(
            f"SELECT id, name FROM limits WHERE {view.any_of('id')}", (view.items(slots.ids),)
        ).fetchall()
    )
    by_pair: dict[Pair, list[Row]] = {}
    for state, pairs in limited:
        # A claim has put it into the lane of one, or will once it comes to it.
        in_lane = [pair for pair in pairs if lane_of(pair) == state["lane"]]
        full = [pair for pair in pairs if slots.room(pair) == 0]
        for pair in ([pair for pair in in_lane if pair in full] or full or in_lane)[:1]:
            by_pair.setdefault(pair, []).append(state)
    waits, rooms = {}, _rooms(view, slots, by_pair)
    for pair, waiting in by_pair.items():
        if pair[0] in names:
            wait = _wait(view, slots, names[pair[0]], pair)
            for seq, before in _before(view, lane_of(pair), waiting).items():
                if before < rooms.get(pair, 0):
                    continue  # the next claim lets it in
                waits[seq] = wait.model_copy(update={"before": before})
    return waits


def _wait(view: View, slots: Slots, name: str, pair: Pair) -> LimitWait:
    """Return why states wait for a limit with a key, as of the first of them."""
    limit, room_at = slots.limits[pair[0]], slots.room_at(pair)
    holders = _holders(view, pair[0], MAX_HOLDERS, pair[1])
    return LimitWait(
        limit=name,
        key=pair[1],
        at_most=limit.at_most,
        starts=limit.starts,
        period_ms=None if limit.starts is None else limit.period_ms,
        held=slots.held(pair),
        stopping=slots.stopping(pair),
        holders=[view.state_id(row["state"]) for row in holders],
        held_ms=max(0, view.now_ms - holders[0]["claimed_at"]) if holders else None,
        started=None if limit.starts is None else slots.started(pair),
        room_in_ms=None if room_at is None else max(0, room_at - view.now_ms),
        before=0,
    )


def _before(view: View, lane: str, states: Sequence[Row]) -> dict[int, int]:
    """Return how many states of a lane are before each of these, by their numbers."""
    in_lane = "FROM states WHERE status = 'CREATED' AND lane IS NOT NULL AND lane = ?"
    if len(states) == 1:
        (state,) = states
        counted = view.one(
            f"SELECT count(*) AS number FROM (SELECT 1 {in_lane}"
            " AND (priority, turn, seq) < (?, ?, ?) LIMIT ?) AS earlier",
            (lane, state["priority"], state["turn"], state["seq"], MAX_COUNTED),
        )
        return {state["seq"]: counted["number"]}
    # To count for each of a thousand would read the lane a thousand times.
    numbered = (
        "SELECT seq, row_number() OVER (ORDER BY priority, turn, seq) - 1 AS number"
        f" FROM (SELECT seq, priority, turn {in_lane} LIMIT ?) AS waiting"
    )
    seqs = [state["seq"] for state in states]
    rows = view.execute(
        f"SELECT seq, number FROM ({numbered}) AS numbered WHERE {view.any_of('seq')}",
        (lane, MAX_COUNTED, view.items(seqs)),
    ).fetchall()
    # One that no claim has put there yet comes after those that are there, as far as is known.
    last = max((number for _, number in rows), default=0)
    return {**dict.fromkeys(seqs, last), **dict(rows)}


def _keys(view: View, limit: int) -> list[LimitKey]:
    """Return keys in use, those with the most waiting states first."""
    in_lanes = _IN_LANES.format(first="?", last="?")
    waiting = {
        lane.partition(":")[2]: count
        for lane, count in view.execute(
            f"SELECT lane, count(*) AS number FROM (SELECT lane {in_lanes} LIMIT ?) AS waiting"
            " GROUP BY lane ORDER BY number DESC, lane LIMIT ?",
            (*lanes_of(limit), MAX_COUNTED, MAX_SHOWN),
        )
    }
    rows_held = f"SELECT key, count(*) AS number FROM slots WHERE {IS_HELD} AND limit_id = ?"
    held = _first_keys(view, rows_held, view.now_ms, limit)
    recent = f"SELECT key, count FROM starts WHERE limit_id = ? ORDER BY key LIMIT {MAX_READ}"
    started = _first_keys(view, f"SELECT key, sum(count) AS number FROM ({recent}) AS recent", limit)
    keys = list(dict.fromkeys([*waiting, *held, *started]))[:MAX_SHOWN]
    slots = Slots(view, [limit])
    slots.load((limit, key) for key in keys)
    rooms = _rooms(view, slots, [(limit, key) for key in waiting])
    shown = []
    for key in keys:
        pair = (limit, key)
        counted, started_now = slots.limits[limit].starts is not None, slots.started(pair)
        if key in waiting or slots.held(pair) or started_now:
            shown.append(
                LimitKey(
                    key=key,
                    held=slots.held(pair),
                    waiting=max(0, waiting.get(key, 0) - rooms.get(pair, 0)),
                    started=started_now if counted else None,
                    room_at=from_unix_ms(slots.room_at(pair)),
                )
            )
    return shown


def _first_keys(view: View, select: str, *values: int) -> Sequence[str]:
    rows = view.execute(f"{select} GROUP BY key ORDER BY number DESC, key LIMIT ?", (*values, MAX_SHOWN))
    return [row["key"] for row in rows]
