"""The condition of a state manager: claims, leases, disagreements of runtimes, and its database."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version
from typing import Any

from exotrio._util.times import from_unix_ms
from exotrio._wire.checkup import Checkup, DatabaseState, HeldClaims, LostLeases
from exotrio.manager.engine.leases import Terms
from exotrio.manager.queries.graphs import all_namespaces
from exotrio.manager.queries.related import unstarted_in
from exotrio.manager.queries.runtimes import disagreements, runtimes_of
from exotrio.manager.rules.access import Caller
from exotrio.manager.store.view import View

HOUR_MS = 3_600_000
MAX_EVENTS = 20_000
"""How many of the newest events are read."""
UNWRITABLE = "the database cannot be written; a key with the scope read:* or admin sees why"
_THROUGH_V0 = "manager IS NULL AND token IS NULL"


def show_checkup(
    view: View,
    namespace: str,
    terms: Terms,
    describe: Callable[[View], dict[str, Any]],
    caller: Caller,
    unwritable: str,
) -> Checkup:
    """Return the condition of the state manager.

    ``describe`` and ``unwritable`` are those of the store. Only a caller that ``sees_database`` is shown the
    database, which other namespaces share.
    """
    return Checkup(
        at_ms=from_unix_ms(view.now_ms),
        version=version("exotrio"),
        lease_ttl_ms=terms.lease_ttl_ms,
        claim_timeout_ms=terms.claim_timeout_ms,
        claims=_claims(view, namespace),
        leases=_lost_leases(view, namespace),
        disagreements=disagreements(runtimes_of(view, namespace)),
        unstarted=unstarted_in(view, namespace),
        namespaces=all_namespaces(view, caller),
        # The reason contains paths, and messages of the database server.
        unwritable=unwritable if caller.sees_database else UNWRITABLE if unwritable else "",
        database=DatabaseState.model_validate(describe(view)) if caller.sees_database else None,
    )


def show_managers(view: View) -> list[dict[str, Any]]:
    """Return the state managers on the database, the oldest first.

    Ages are in ms. ``seen_ms`` has a meaning only where several may share the database.
    """
    now = view.lease_now
    rows = view.execute(
        "SELECT id, host, version, schema_version, clock_ahead AS clock_ahead_ms, started_at, seen_at"
        " FROM managers ORDER BY started_at, id"
    )
    return [
        {
            **dict(row),
            "up_ms": max(0, now - row["started_at"]),
            "seen_ms": max(0, now - row["seen_at"]),
        }
        for row in rows
    ]


def last_backup(view: View) -> int | None:
    """Return when the last backup was made, in Unix ms; None if none was."""
    row = view.row("SELECT value FROM meta WHERE key = 'backed_up_at'")
    return None if row is None else int(row["value"])


def _claims(view: View, namespace: str) -> list[HeldClaims]:
    now = view.lease_now
    rows = view.execute(
        "SELECT name AS node, count(*) FILTER (WHERE manager IS NOT NULL) AS local,"
        " count(*) FILTER (WHERE manager IS NULL AND token IS NOT NULL) AS leased,"
        f" count(*) FILTER (WHERE {_THROUGH_V0} AND lease_until IS NOT NULL) AS timed,"
        f" count(*) FILTER (WHERE {_THROUGH_V0} AND lease_until IS NULL) AS leaseless,"
        f" min(claimed_at) FILTER (WHERE {_THROUGH_V0} AND lease_until IS NULL) AS oldest,"
        " count(*) FILTER (WHERE lease_until <= ?) AS overdue, min(lease_until) AS first"
        " FROM states INDEXED BY states_held JOIN nodes ON nodes.id = node_id"
        " WHERE status = 'QUEUED' AND namespace = ? GROUP BY node_id, name ORDER BY name",
        (now, namespace),
    )
    return [
        HeldClaims(
            **{name: row[name] for name in ("node", "leased", "local", "timed", "leaseless", "overdue")},
            oldest_leaseless_ms=0 if row["oldest"] is None else max(0, view.now_ms - row["oldest"]),
            overdue_ms=now - row["first"] if row["overdue"] else 0,
        )
        for row in rows
    ]


def _lost_leases(view: View, namespace: str) -> LostLeases:
    counts = dict(
        view.execute(
            # A subquery for each, since a join might read all states.
            "SELECT kind, count(*) FROM (SELECT * FROM events ORDER BY id DESC LIMIT ?) AS newest"
            " WHERE kind IN ('lease lost', 'lease regained', 'poison') AND at >= ?"
            " AND (SELECT namespace FROM states JOIN nodes ON nodes.id = node_id"
            " WHERE seq = newest.state) = ? GROUP BY kind",
            (MAX_EVENTS, view.now_ms - HOUR_MS, namespace),
        ).fetchall()
    )
    poison = counts.get("poison", 0)
    # The states of those that were regained went on.
    lost = max(0, counts.get("lease lost", 0) - counts.get("lease regained", 0))
    return LostLeases(lost=lost + poison, poison=poison)
