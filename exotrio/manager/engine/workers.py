"""Runtimes as their heartbeats and claims show them (the wire calls them workers), and commands to them.

The rows of two tables, so that every state manager on a database knows all runtimes: ``workers`` has those
that identify themselves, ``v0_runtimes`` the sets of nodes that were claimed through v0, which identifies no
runtime. Times are on the clock of leases. ``queries.runtimes`` reads the rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from hashlib import sha256

from pydantic.main import IncEx
from pydantic_core import from_json, to_json

from exotrio._wire.heartbeats import HeartbeatRequest, HeartbeatStateReply
from exotrio.manager.engine.leases import Terms, end_leases
from exotrio.manager.engine.renewals import renew
from exotrio.manager.engine.stops import (
    DrainSource,
    find_vanished,
    record_stop,
    record_vanished,
    remove_receipt,
)
from exotrio.manager.engine.versions import is_drained
from exotrio.manager.rules.errors import NotFound
from exotrio.manager.store.effects import NO_EFFECTS, WithEffects
from exotrio.manager.store.transaction import Transaction

FORGOTTEN_AFTER_MS = 600_000
"""After this a silent runtime is forgotten."""
STOPPED_FORGOTTEN_AFTER_MS = 60_000
"""After this a stopped runtime is forgotten."""
MAX_WORKERS = 10_000
"""Maximum of rows without a lease: a client that claims under ever new names must not fill the database."""
CLAIM_KEPT_FOR_MS = 10_000
"""Within this time another claim for the same nodes is not stored."""
_NOT_KEPT: Mapping[str, IncEx | bool] = {
    "tasks": True,
    "registered": True,
    "registered_ms": True,
    "states": {"__all__": {"checkpoint"}},
}


def heartbeat(
    tx: Transaction,
    namespace: str,
    beat: HeartbeatRequest,
    now: int,
    terms: Terms,
    *,
    manager: str | None = None,
    owner: str | None = None,
) -> WithEffects[tuple[list[HeartbeatStateReply], list[str]]]:
    """Renew the leases of a runtime and store its heartbeat; return replies for its states, and commands.

    The last heartbeat of a runtime also becomes the receipt of its stop. ``manager`` is the calling state
    manager, if the runtime is in its process; ``owner`` is as of ``renew``.
    """
    has_stopped = beat.phase == "stopped"
    commands = ["register"] if _lacks_nodes_of(tx, namespace, beat) else []
    replies = renew(tx, namespace, beat.states, now, terms, in_process=manager is not None, owner=owner)
    (row,) = tx.execute(
        "INSERT INTO workers (namespace, worker_id, seen_at, heard, runtime, phase, beat, tasks, tasks_at,"
        " slots, beat_at, lease_until, manager) VALUES (?, ?, ?, 1, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
        " ON CONFLICT (namespace, worker_id) DO UPDATE SET"
        " seen_at = excluded.seen_at, heard = workers.heard + 1, runtime = excluded.runtime,"
        " phase = excluded.phase, beat = excluded.beat, tasks = coalesce(excluded.tasks, workers.tasks),"
        " tasks_at = coalesce(excluded.tasks_at, workers.tasks_at), slots = excluded.slots,"
        " drain_asked = CASE WHEN excluded.phase = 'running' THEN workers.drain_asked"
        " ELSE -abs(workers.drain_asked) END,"
        " beat_at = excluded.beat_at, lease_until = excluded.lease_until, manager = excluded.manager,"
        " tasks_asked = CASE WHEN excluded.tasks IS NULL THEN workers.tasks_asked ELSE 0 END"
        " RETURNING heard, drain_asked, tasks_asked",
        (
            namespace,
            beat.worker_id,
            now,
            beat.runtime,
            beat.phase,
            beat.model_dump_json(exclude=_NOT_KEPT, exclude_defaults=True),
            beat.tasks,
            None if beat.tasks is None else now,
            beat.workers,
            tx.now_ms,
            None if has_stopped or manager is not None else now + terms.lease_ttl_ms,
            None if has_stopped else manager,
        ),
    ).fetchall()
    _greet(tx, namespace, beat.worker_id, row["heard"], now)
    effects = record_stop(tx, namespace, beat, row["drain_asked"]) if has_stopped else NO_EFFECTS
    commands += ["drain"] if row["drain_asked"] > 0 else []
    commands += ["tasks"] if row["tasks_asked"] else []
    if beat.until_drained and beat.version is not None and is_drained(tx, namespace, beat.version):
        commands.append("drained")
    return WithEffects((replies, commands), effects)


def _lacks_nodes_of(tx: Transaction, namespace: str, beat: HeartbeatRequest) -> bool:
    """Whether a registration of this runtime was lost, because the database went back in time.

    A different declaration that was registered later is not replaced: during an update, two versions of a
    runtime would replace each other's declarations again and again.
    """
    since = tx.now_ms - beat.registered_ms
    for name, digest in beat.registered.items():
        known = tx.registered(namespace, name)
        if known is None or (known.digest != digest and known.updated_at < since):
            return True
    return False


def keep_claim(
    tx: Transaction,
    namespace: str,
    worker_id: str | None,
    names: Iterable[str],
    now: int,
    run_id: str | None = None,
) -> frozenset[str]:
    """Store that a runtime claims states of these nodes; return those of them that are registered.

    ``worker_id`` is None through v0, where a runtime has no id. With ``run_id`` it works on that run only.
    """
    nodes = {name for name in sorted(names) if tx.registered(namespace, name) is not None}
    if worker_id is None:
        if nodes:
            _keep_v0_claim(tx, namespace, to_json(sorted(nodes)), now)
        return frozenset(nodes)
    (row,) = tx.execute(
        "INSERT INTO workers (namespace, worker_id, seen_at, heard, polled_at, run_id)"
        " VALUES (?, ?, ?, 1, ?, ?)"
        " ON CONFLICT (namespace, worker_id) DO UPDATE SET seen_at = excluded.seen_at,"
        " heard = workers.heard + 1, polled_at = excluded.polled_at, run_id = excluded.run_id"
        " RETURNING heard, nodes",
        (namespace, worker_id, now, now, run_id),
    ).fetchall()
    known = set(from_json(row["nodes"]))
    if not nodes <= known:
        tx.execute(
            "UPDATE workers SET nodes = ? WHERE namespace = ? AND worker_id = ?",
            (to_json(sorted(known | nodes)).decode(), namespace, worker_id),
        )
    _greet(tx, namespace, worker_id, row["heard"], now)
    return frozenset(nodes | known)


def _keep_v0_claim(tx: Transaction, namespace: str, nodes: bytes, now: int) -> None:
    # The list may be longer than an index allows.
    digest = sha256(nodes).hexdigest()
    (row,) = tx.execute(
        "INSERT INTO v0_runtimes (namespace, digest, nodes, seen_at, heard) VALUES (?, ?, ?, ?, 1)"
        " ON CONFLICT (namespace, digest) DO UPDATE SET seen_at = excluded.seen_at,"
        " heard = v0_runtimes.heard + 1 RETURNING heard",
        (namespace, digest, nodes.decode(), now),
    ).fetchall()
    if row["heard"] == 1:
        _forget_some(tx, now)


def ask_to_drain(tx: Transaction, namespace: str, worker_id: str, source: DrainSource) -> None:
    """Have a runtime drain after its next heartbeat; NotFound if it is unknown."""
    _ask(tx, namespace, worker_id, "drain_asked", source)
    tx.record("runtime.drain", namespace, worker_id)


def ask_for_tasks(tx: Transaction, namespace: str, worker_id: str) -> None:
    """Have a runtime send its task tree after its next heartbeat; NotFound if it is unknown."""
    _ask(tx, namespace, worker_id, "tasks_asked", 1)


def _ask(tx: Transaction, namespace: str, worker_id: str, column: str, value: int) -> None:
    update = f"UPDATE workers SET {column} = ? WHERE namespace = ? AND worker_id = ?"
    if not tx.execute(update, (value, namespace, worker_id)).rowcount:
        raise NotFound(f"no runtime {worker_id!r} was heard of in namespace {namespace!r}")


def forget(tx: Transaction, namespace: str, worker_id: str, now: int) -> WithEffects[None]:
    """Forget a runtime whose process has ended, and end its leases."""
    has_no_receipt = "namespace = ? AND worker_id = ? AND (lease_until IS NOT NULL OR manager IS NOT NULL)"
    vanished = find_vanished(tx, [(has_no_receipt, (namespace, worker_id))])
    end_leases(tx, namespace, worker_id, now)
    effects = record_vanished(tx, vanished)
    tx.execute("DELETE FROM workers WHERE namespace = ? AND worker_id = ?", (namespace, worker_id))
    return WithEffects(None, effects)


def forget_all(tx: Transaction, now: int, terms: Terms) -> None:
    """Forget all runtimes until they send a request. For a start at which the clock of leases begins again.

    One that sends none for the term of a lease has vanished: only for that its row is kept.
    """
    tx.execute("DELETE FROM workers WHERE lease_until IS NULL")
    tx.execute(
        "UPDATE workers SET seen_at = ?, polled_at = NULL, tasks_at = NULL, tasks = NULL, heard = 0,"
        " lease_until = ?",
        (now - FORGOTTEN_AFTER_MS - 1, now + terms.lease_ttl_ms),
    )
    tx.execute("DELETE FROM v0_runtimes")


def _greet(tx: Transaction, namespace: str, worker_id: str, count: int, now: int) -> None:
    """Do what the first request of a runtime needs, or the first since it counted as vanished: ``count`` is
    1 then."""
    if count == 1:
        remove_receipt(tx, namespace, worker_id)
        _forget_some(tx, now)


def _forget_some(tx: Transaction, now: int) -> None:
    """Forget runtimes that were silent for too long, and the oldest ones of too many.

    One with a lease is kept: when that has ended, its receipt is written.
    """
    stopped_or_silent = "(seen_at < ? OR phase = 'stopped')"
    silent, stopped = now - FORGOTTEN_AFTER_MS, now - STOPPED_FORGOTTEN_AFTER_MS
    for table, which, old, parameters in (
        # The times first: the index is by them.
        ("workers", "lease_until IS NULL", f"seen_at < ? AND {stopped_or_silent}", (stopped, silent)),
        ("v0_runtimes", "TRUE", "seen_at < ?", (silent,)),
    ):
        tx.trim(table, f"WHERE {old} AND {which} ORDER BY seen_at", parameters)
        tx.trim(table, f"WHERE {which} ORDER BY seen_at DESC, id DESC", beyond=MAX_WORKERS)


class ClaimsKept:
    """Which claims ``keep_claim`` stored just now: most claims of a busy runtime then cost no write."""

    def __init__(self) -> None:
        # Hashes of the names, which a client may make up, and the nodes that are registered.
        self._kept: dict[tuple[str, str | int], tuple[int, int, frozenset[str]]] = {}

    def has(self, namespace: str, worker_id: str | None, names: frozenset[str], now: int) -> bool:
        """Whether such a claim was stored within ``CLAIM_KEPT_FOR_MS``."""
        names_hash = hash(names)
        at, before, nodes = self._kept.get((namespace, worker_id or names_hash), (0, None, frozenset[str]()))
        return (
            before is not None
            and 0 <= now - at < CLAIM_KEPT_FOR_MS
            and (names_hash == before or names <= nodes)
        )

    def add(
        self, namespace: str, worker_id: str | None, names: frozenset[str], nodes: frozenset[str], now: int
    ) -> None:
        """Record that a claim for ``names`` was stored; ``nodes`` is what ``keep_claim`` returned."""
        names_hash = hash(names)
        key = (namespace, worker_id or names_hash)
        self._kept.pop(key, None)
        while len(self._kept) >= MAX_WORKERS:
            del self._kept[next(iter(self._kept))]
        self._kept[key] = (now, names_hash, frozenset() if worker_id is None else nodes)
