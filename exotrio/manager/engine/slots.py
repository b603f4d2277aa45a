"""Slots of limits: which states of a claim find room, which wait for it, and when those are let in.

**Held leases are the slots.** A state counts for its limits while it is QUEUED: from its claim to its
outcome, its release or the end of its lease. The table ``slots`` is an index of such states by limit and key,
not a second ledger: a row counts only if its state is QUEUED, or if it has a lease itself, so no row can take
a slot without end.

**Stopping.** A state that is cancelled or replaced while a runtime holds it has ended, but its node goes on
until its runtime learns that; or one whose outcome says that its node is stuck. The slot belongs to the
lease, not to the state: the row takes over the lease, which ends at ``check_at``, and heartbeats renew it. It
ends when the runtime says that the node has stopped, by a release or an outcome that comes late; or as all
leases do, by a sweep, and by no clock that a claim reads. No heartbeat names a state that was deleted.

**Exact.** A claim locks the rows of the limits that its states name, in the order of their ids, and only then
counts. Only claims, heartbeats that regain a lease, and changes of limits take these locks. While a claim
has them it waits for no other lock, since it leaves out states that others have locked.

**Lanes.** A state without room is put into the lane of its limit and key, and so out of the index of states
that can be claimed. A later claim does not read it, however many there are. A lane is in the order of claims.

**Checks.** Whatever ends the hold of states sets ``check_at`` in a row of ``slots`` for each of their limits
and keys, in the same commit: its lane may have room. The next claim for a node of the limit takes such rows
away, under the lock, counts, and finds as many states of the lane as there is room, of each node. Those that
it does not take itself it lets in, so that each runtime can claim them. A claim that comes with a report
looks into the lanes of the holds that the report ends, which then leave no checks. No check is lost:

- if the hold ended before a claim counted, the claim saw the room;
- if it ended later, the claim put its states into the lane before it gave up the lock. The check was not
  committed when the claim looked for checks, before it had the lock, so it is still there, and the next claim
  takes it, after it can see the lane.

A state that was let in, and ends without being claimed, leaves a check, too.

A check says "look at this lane", not "let one in": a check too many lets no state in. The commit that
leaves a check announces the nodes of the limit, so that claims that wait look at once. The row of a node has
the limits that its places ever named (``store.limited_nodes``): claims of other nodes do not look for checks.
A limit that was deleted has room for all. Its row stays while it is named, so that it has the same id if it
is made again.

**Rates.** ``engine.starts`` counts claims. A lane in which states stay gets a check at the time when the next
start may be possible.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

from pydantic_core import from_json, to_json

from exotrio.manager.engine.starts import length_of_part
from exotrio.manager.store.driver import Row
from exotrio.manager.store.effects import Effects
from exotrio.manager.store.transaction import Transaction
from exotrio.manager.store.view import View

MAX_ROOM = 1_000
"""Room of what is not limited, and the maximum that one claim uses."""
ONE_KEY, ALL_KEYS = 0, -1
"""Instead of a state, in a row of ``slots`` that is only a check. Also ``-1 - state``, with one of the states
whose holds ended together."""
MAX_STOPPING_MS = 30_000
"""How long a state that ended while it was held keeps its slots, if its claim had no end."""
IS_STOPPING = "state > 0 AND check_at > 0"
"""Whether a row of ``slots`` has a lease: until ``check_at``, on the clock of leases."""
OF_ANY_LIMIT = "limit_id IN (SELECT id FROM limits)"
"""With which the index finds such rows."""
IS_HELD = "state > 0 AND (check_at > 0 OR (SELECT status FROM states WHERE seq = slots.state) = 'QUEUED')"
"""Whether a row of ``slots`` counts. PostgreSQL would read all states for a join."""
IS_CHECK = "check_at IS NOT NULL AND (state < 1 OR check_at = 0)"
"""Whether a row of ``slots`` is a check: due at ``check_at``, in Unix ms."""
HAS_WAITING = (
    "EXISTS (SELECT 1 FROM states WHERE status = 'CREATED' AND lane IS NOT NULL"
    " AND lane = limit_id || ':' || slots.key)"
)
"""Whether states wait in the lane of a row of ``slots``."""
NONE_HELD = 0, 0, True
"""Of a pair without rows in ``slots``: how many hold it, and are stopping, and whether states may wait."""

Pair = tuple[int, str]
"""The id of a limit, and a key."""
Hold = tuple[int, str | None]
"""The number of a state that was held, and its column ``limits``."""


@lru_cache(maxsize=1_000)
def pairs_of(limits: str | None) -> tuple[Pair, ...]:
    """Return what a state takes part in, given its column ``limits``: most have the same as others."""
    return () if limits is None else tuple((limit, key) for limit, key in from_json(limits))


def lane_of(pair: Pair) -> str:
    return f"{pair[0]}:{pair[1]}"


def lanes_of(limit: int) -> tuple[str, str]:
    """Return what all lanes of a limit are above, and below."""
    return f"{limit}:", f"{limit};"


@dataclass(frozen=True, slots=True)
class Limit:
    at_most: int | None
    starts: int | None
    period_ms: int

    @property
    def part_ms(self) -> int:
        return length_of_part(self.period_ms)


class Slots:
    """How much room limits have. ``lock`` is the end of the statement that reads them, if it locks them."""

    def __init__(self, view: View, ids: Iterable[int], lock: str = "") -> None:
        self.view = view
        self.ids = sorted(set(ids))
        # Read later, so that statements after this one are sent with it.
        self._rows = view.execute(
            f"SELECT id, at_most, starts, period_ms FROM limits WHERE {view.any_of('id')} ORDER BY id{lock}",
            (view.items(self.ids),),
        )
        self._held: dict[Pair, tuple[int, int, bool]] = {}
        self._started: dict[Pair, list[tuple[int, int]]] = {}

    @cached_property
    def limits(self) -> dict[int, Limit]:
        """Those that are not deleted, by id."""
        return {
            number: Limit(at_most, starts, period_ms or 0)
            for number, at_most, starts, period_ms in self._rows
        }

    def load(self, pairs: Iterable[Pair]) -> None:
        """Read how much of these is used, unless that was read before. In a statement after the lock, which
        therefore sees all that was committed before it."""
        view = self.view
        new = {pair for pair in pairs if pair not in self._held}
        if not new:
            return
        of_new = (
            view.items(sorted({limit for limit, _ in new})),
            view.items(sorted({key for _, key in new})),
        )
        self._held |= dict.fromkeys(new, NONE_HELD)
        for limit, key, *counts in view.execute(
            f"SELECT limit_id, key, count(*) FILTER (WHERE {IS_HELD}),"
            f" count(*) FILTER (WHERE {IS_STOPPING}), {HAS_WAITING} FROM slots"
            f" WHERE {view.any_of('limit_id')} AND {view.any_of('key')} GROUP BY limit_id, key",
            of_new,
        ):
            if (limit, key) in new:  # others come with them
                self._held[limit, key] = (counts[0], counts[1], bool(counts[2]))
        if any(limit in self.limits and self.limits[limit].starts is not None for limit, _ in new):
            for limit, key, slot, count in view.execute(
                "SELECT limit_id, key, slot, count FROM starts"
                f" WHERE {view.any_of('limit_id')} AND {view.any_of('key')} AND count > 0 ORDER BY slot",
                of_new,
            ):
                if (limit, key) in new:
                    self._started.setdefault((limit, key), []).append((slot, count))

    def held(self, pair: Pair) -> int:
        """Return how many states hold the limit with this key."""
        return self._held.get(pair, NONE_HELD)[0]

    def stopping(self, pair: Pair) -> int:
        """Return how many of these have ended, while their nodes have not stopped as far as is known."""
        return self._held.get(pair, NONE_HELD)[1]

    def has_waiting(self, pair: Pair) -> bool:
        """Return whether states may wait in this lane."""
        return self._held.get(pair, NONE_HELD)[2]

    def started(self, pair: Pair) -> int:
        """Return how many starts count now."""
        return sum(count for _, count in self._counted(pair))

    def room(self, pair: Pair, most: int = MAX_ROOM) -> int:
        """Return how many more states may be claimed, up to ``most``; one that names a deleted limit always
        may."""
        room = most
        if (limit := self.limits.get(pair[0])) is None:
            return room
        if limit.at_most is not None:
            room = min(room, limit.at_most - self.held(pair))
        if limit.starts is not None:
            room = min(room, limit.starts - self.started(pair))
        return max(0, room)

    def room_at(self, pair: Pair) -> int | None:
        """Return when, in Unix ms, the next start is possible; None if starts are not what is missing, or
        none ever is."""
        limit = self.limits.get(pair[0])
        if limit is None or not limit.starts:
            return None
        counted = self._counted(pair)
        left = sum(count for _, count in counted)
        for slot, count in counted if left >= limit.starts else ():
            left -= count
            if left < limit.starts:
                return slot + limit.part_ms + limit.period_ms
        return None

    def next_lapse(self, pair: Pair) -> int | None:
        """Return when, in Unix ms, the first start will count no more, of those that count and one now; None
        if starts are not limited."""
        if (limit := self.limits.get(pair[0])) is None or limit.starts is None:
            return None
        first = min((slot for slot, _ in self._counted(pair)), default=self.view.now_ms)
        return first + limit.part_ms + limit.period_ms

    def start(self, pairs: Iterable[Pair]) -> list[tuple[int, str, int, int]]:
        """Count new starts, as far as they are limited; return the rows to add to ``starts``."""
        now_ms, rows = self.view.now_ms, []
        for pair, count in sorted(Counter(pairs).items()):
            limit = self.limits.get(pair[0])
            if limit is not None and limit.starts is not None:
                slot = now_ms - now_ms % limit.part_ms
                self._started.setdefault(pair, []).append((slot, count))
                rows.append((*pair, slot, count))
        return rows

    def _counted(self, pair: Pair) -> list[tuple[int, int]]:
        limit = self.limits.get(pair[0])
        if limit is None or limit.starts is None:
            return []
        # A part counts until its last moment is a period ago.
        after = self.view.now_ms - limit.period_ms - limit.part_ms
        return [(slot, count) for slot, count in self._started.get(pair, ()) if slot > after]


def lock(tx: Transaction, ids: Iterable[int]) -> Slots:
    """Lock limits, in the order of their ids."""
    return Slots(tx, ids, tx.for_update("limits"))


def put_slots(tx: Transaction, rows: Sequence[tuple[int, str, int, int | None]]) -> None:
    tx.insert(
        "slots",
        ("limit_id", "key", "state", "check_at"),
        rows,
        "(limit_id, key, state) DO UPDATE SET check_at = excluded.check_at",
    )


# -- what ends a hold


def free(tx: Transaction, effects: Effects, states: Iterable[Hold]) -> None:
    """Leave checks for states that were held.

    Call it in the transaction that gives them another status; or, of those that ended while they were held,
    that learns that their nodes have stopped.
    """
    held = [(seq, pair) for seq, limits in states for pair in pairs_of(limits)]
    if not held:
        return
    together = Counter(pair for _, pair in held)
    # One check of each lane is enough. If it is about several states, it is not in the row of one of them:
    # that one may be held again before a claim takes the check, and leaves the room of the others.
    checks = {pair: seq if together[pair] == 1 else -1 - seq for seq, pair in held}
    if len(checks) < len(held):
        drop(tx, held)
    put_slots(tx, sorted((*pair, state, 0) for pair, state in checks.items()))
    effects.freed |= {limit for limit, _ in checks}


def end_otherwise(tx: Transaction, effects: Effects, states: Iterable[Row]) -> None:
    """Let the slots of states that end before their nodes take over their leases.

    Each is given as it was: seq, status, limits, lane and lease_until. Those that could be claimed may have
    been let in, and leave their room to the next ones.
    """
    stopping, claimable = [], {}
    for state in states:
        if state["status"] == "QUEUED":
            until = state["lease_until"]
            until = tx.lease_now + MAX_STOPPING_MS if until is None else until
            stopping += [(*pair, state["seq"], until) for pair in pairs_of(state["limits"])]
        elif state["status"] == "CREATED" and state["lane"] is None:
            # One check is enough for all with the same limits and keys.
            claimable[state["limits"]] = state["seq"]
    put_slots(tx, sorted(stopping))
    free(tx, effects, [(seq, limits) for limits, seq in claimable.items()])


def keep(tx: Transaction, states: Iterable[Hold], until: int) -> None:
    """Renew the leases of the slots of states that ended while they were held, if they still have them."""
    held = [(seq, pair) for seq, limits in states for pair in pairs_of(limits)]
    if not held:
        return
    which, values = _rows_of(tx, held)
    kept = tx.execute(
        f"SELECT limit_id, key, state FROM slots WHERE {which} AND {IS_STOPPING}"
        f" ORDER BY limit_id, key, state{tx.for_update('slots')}",
        values,
    ).fetchall()
    put_slots(tx, [(limit, key, seq, until) for limit, key, seq in kept])


def drop(tx: Transaction, held: Collection[tuple[int, Pair]]) -> None:
    """Delete the rows of states that held pairs."""
    if held:
        which, values = _rows_of(tx, held)
        tx.execute(f"DELETE FROM slots WHERE {which}", values)


def _rows_of(tx: Transaction, held: Collection[tuple[int, Pair]]) -> tuple[str, tuple[object, ...]]:
    """Return the condition for the rows of states that held pairs, and its parameters."""
    which = f"{tx.any_of('limit_id')} AND {tx.any_of('key')} AND {tx.any_of('state')}"
    return which, (
        tx.items(sorted({limit for _, (limit, _) in held})),
        tx.items(sorted({key for _, (_, key) in held})),
        tx.items(sorted({seq for seq, _ in held})),
    )


def end_leases_of_slots(tx: Transaction, now: int) -> set[int]:
    """Free the slots whose leases are overdue at ``now``, on the clock of leases; return their limits."""
    rows = tx.execute(
        "UPDATE slots SET check_at = 0 WHERE (limit_id, key, state) IN (SELECT limit_id, key, state"
        f" FROM slots WHERE {OF_ANY_LIMIT} AND {IS_STOPPING} AND check_at <= ?"
        f" ORDER BY limit_id, key, state{tx.skip_locked('slots')}) RETURNING limit_id",
        (now,),
    )
    return {limit for (limit,) in rows}


# -- the limits that states and nodes name


def columns_of(tx: Transaction, states: Mapping[int, tuple[int, Mapping[str, str]]]) -> dict[int, str]:
    """Return the column ``limits`` of new states by number. Each is given as its run, and the names of its
    limits with their keys."""
    ids = {
        (run, name): limit
        for run, name, limit in tx.execute(
            "SELECT runs.id, limits.name, limits.id FROM runs"
            " CROSS JOIN limits ON limits.namespace = runs.namespace"
            f" WHERE {tx.any_of('runs.id')} AND {tx.any_of('limits.name')}",
            (
                tx.items(sorted({run for run, _ in states.values()})),
                tx.items(sorted({name for _, keys in states.values() for name in keys})),
            ),
        )
    }
    return {
        seq: to_json([(ids[run, name], key) for name, key in keys.items() if (run, name) in ids]).decode()
        for seq, (run, keys) in states.items()
    }


def ids_in(text: str | None) -> set[int]:
    """Return the ids in the column ``limits`` of a node."""
    return set() if text is None else set(from_json(text))


def name_at_node(tx: Transaction, node_id: int, ids: Collection[int]) -> None:
    """Record that places with a node name these limits."""
    row = tx.one(f"SELECT limits FROM nodes WHERE id = ?{tx.for_update('nodes')}", (node_id,))
    known = ids_in(row["limits"])
    if not known.issuperset(ids):
        text = to_json(sorted(known.union(ids))).decode()
        tx.execute("UPDATE nodes SET limits = ? WHERE id = ?", (text, node_id))
        tx.limited_nodes.forget()
        if tx.limited_nodes.known_after_ms:
            # Until then, other state managers take checks and look into no lane for states of this node.
            at = tx.now_ms + tx.limited_nodes.known_after_ms
            put_slots(tx, [(limit, "", ALL_KEYS, at) for limit in sorted({*ids} - known)])
