"""The condition of a database on PostgreSQL, for ``doctor``.

PostgreSQL shows what sessions of other roles do only to members of ``pg_monitor``.
"""

from __future__ import annotations

from typing import Any

from exotrio.manager.store.view import View

HOT = ("states", "runs", "counts", "unite_counters")
"""Tables whose rows change all the time."""
PROTECTIONS = ("fsync", "full_page_writes", "synchronous_commit", "autovacuum")
"""Settings that must not be off."""


def describe(view: View, refused: list[str]) -> dict[str, Any]:
    """Return the condition of the database, as ``DatabaseState``. A query; ``refused`` is the server's."""
    version, size, used, allowed, schema_version = view.one(
        "SELECT current_setting('server_version'), pg_database_size(current_database()),"
        " (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'),"
        " CAST(current_setting('max_connections') AS INTEGER)"
        " - CAST(current_setting('superuser_reserved_connections') AS INTEGER),"
        " (SELECT CAST(value AS INTEGER) FROM meta WHERE key = 'version')",
    )
    return {
        "in_memory": False,
        "size": size,
        "log_size": 0,
        "schema_version": schema_version,
        "free_disk": None,
        "postgres": {
            "version": version,
            "connections": used,
            "max_connections": allowed,
            "switched_off": _switched_off(view),
            "horizon": _horizon(view),
            "tables": _tables(view),
            "slots": _slots(view),
            "managers": _managers(view),
            "refused": refused,
        },
    }


def _switched_off(view: View) -> list[str]:
    rows = view.execute(
        f"SELECT name FROM pg_settings WHERE {view.any_of('name')} AND setting = 'off' ORDER BY name",
        (view.items(PROTECTIONS),),
    )
    return [row["name"] for row in rows]


def _horizon(view: View) -> dict[str, Any] | None:
    """Return the oldest session, transaction or slot that keeps VACUUM from removing dead rows, or None."""
    row = view.row(
        "SELECT holder, age, held_ms FROM ("
        # A session of a standby server has neither a database nor a transaction.
        "SELECT concat('session ', pid, ' of ', usename, ' (', application_name, ', ', state, ')') AS holder,"
        " greatest(age(backend_xmin), age(backend_xid)) AS age,"
        " extract(epoch FROM clock_timestamp() - xact_start) * 1000 AS held_ms"
        " FROM pg_stat_activity WHERE (datname = current_database() OR datname IS NULL)"
        " AND backend_type <> 'autovacuum worker' AND pid <> pg_backend_pid()"
        " UNION ALL SELECT concat('prepared transaction ', gid), age(transaction),"
        " extract(epoch FROM clock_timestamp() - prepared) * 1000"
        " FROM pg_prepared_xacts WHERE database = current_database()"
        " UNION ALL SELECT concat('replication slot ', slot_name), age(xmin), NULL FROM pg_replication_slots"
        ") AS holders WHERE age IS NOT NULL ORDER BY age DESC, held_ms DESC NULLS LAST LIMIT 1"
    )
    if row is None:
        return None
    held_ms = None if row["held_ms"] is None else max(0, round(row["held_ms"]))
    return {"holder": row["holder"], "transactions": row["age"], "held_ms": held_ms}


def _tables(view: View) -> list[dict[str, Any]]:
    rows = view.execute(
        "SELECT relname AS name, n_live_tup AS rows, n_dead_tup AS dead FROM pg_stat_user_tables"
        f" WHERE schemaname = current_schema() AND {view.any_of('relname')} ORDER BY relname",
        (view.items(HOT),),
    )
    return list(map(dict, rows))


def _slots(view: View) -> list[dict[str, Any]]:
    rows = view.execute(
        "SELECT slot_name AS name, active,"
        " coalesce(CAST(pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn) AS BIGINT), 0) AS kept"
        " FROM pg_replication_slots ORDER BY slot_name"
    )
    return list(map(dict, rows))


def _managers(view: View) -> list[dict[str, Any]]:
    rows = view.execute(
        "SELECT id, version, schema_version, clock_ahead AS clock_ahead_ms,"
        " CASE WHEN seen_at < ? THEN ? - seen_at ELSE 0 END AS seen_ms FROM managers ORDER BY started_at, id",
        (view.now_ms, view.now_ms),
    )
    return list(map(dict, rows))
