"""The condition of a state manager: claims, leases, disagreements of runtimes, and its database."""

from __future__ import annotations

import shutil
from importlib.metadata import version
from pathlib import Path
from typing import Any

from exotrio.manager.engine.leases import Terms
from exotrio.manager.queries.workers import disagreements, workers_of
from exotrio.manager.store.port import View

HOUR_MS = 3_600_000
MAX_EVENTS = 20_000
"""Events that are read, the newest ones."""


def show_checkup(view: View, namespace: str, terms: Terms, now: int, path: Path | None) -> dict[str, Any]:
    """Return the condition of the state manager, as ``Checkup``.

    ``now`` is in ms on the monotonic clock, on which leases end, and ``path`` is the file of the database, or
    None in memory.
    """
    return {
        "at_ms": view.now_ms,
        "version": version("exotrio"),
        "lease_ttl_ms": terms.lease_ttl_ms,
        "claim_timeout_ms": terms.claim_timeout_ms,
        "claims": _claims(view, namespace, now),
        "leases": _leases(view, namespace),
        "disagreements": disagreements(workers_of(view, namespace, now)),
        "database": _database(view, path),
    }


def _claims(view: View, namespace: str, now: int) -> list[dict[str, Any]]:
    rows = view.execute(
        "SELECT name, sum(token IS NOT NULL AND NOT local) AS leased, sum(local) AS local,"
        " sum(token IS NULL AND NOT local AND lease_until IS NOT NULL) AS timed,"
        " sum(token IS NULL AND NOT local AND lease_until IS NULL) AS leaseless,"
        " min(CASE WHEN token IS NULL AND NOT local AND lease_until IS NULL THEN claimed_at END) AS oldest,"
        " count(CASE WHEN lease_until <= ?1 THEN 1 END) AS overdue, min(lease_until) AS first"
        " FROM states INDEXED BY states_held JOIN nodes ON nodes.id = node_id"
        " WHERE status = 'QUEUED' AND namespace = ?2 GROUP BY node_id ORDER BY name",
        (now, namespace),
    )
    return [
        {
            "node": row["name"],
            "leased": row["leased"],
            "local": row["local"],
            "timed": row["timed"],
            "leaseless": row["leaseless"],
            "oldest_leaseless_ms": 0 if row["oldest"] is None else max(0, view.now_ms - row["oldest"]),
            "overdue": row["overdue"],
            "overdue_ms": now - row["first"] if row["overdue"] else 0,
        }
        for row in rows
    ]


def _leases(view: View, namespace: str) -> dict[str, int]:
    found = dict(
        view.execute(
            "SELECT events.kind, count(*) FROM (SELECT * FROM events ORDER BY id DESC LIMIT ?) AS events"
            " CROSS JOIN states ON states.seq = events.state JOIN nodes ON nodes.id = states.node_id"
            " WHERE at >= ? AND nodes.namespace = ? GROUP BY events.kind",
            (MAX_EVENTS, view.now_ms - HOUR_MS, namespace),
        ).fetchall()
    )
    poison = found.get("poison", 0)
    return {"lost": found.get("lease lost", 0) + poison, "poison": poison}


def _database(view: View, path: Path | None) -> dict[str, Any]:
    pages, page_size, schema_version = (
        view.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "page_size", "user_version")
    )
    return {
        "in_memory": path is None,
        "size": pages * page_size,
        "log_size": 0 if path is None else _size(path.with_name(path.name + "-wal")),
        "schema_version": schema_version,
        "free_disk": None if path is None else shutil.disk_usage(path.parent).free,
    }


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0  # not made yet, or gone with the last checkpoint
