"""Moving a SQLite file into an empty database on PostgreSQL, in one transaction.

Rows are copied as they are, so ids, the stamp in ids of states, and encrypted secrets do not change. Tables
about processes that used the file (``OF_PROCESSES``) are not copied. Of each lease the remaining time is
copied; it begins to run when everything is copied.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import psycopg

from exotrio.errors import DatabaseError
from exotrio.manager.store.driver import Connection as Source
from exotrio.manager.store.driver import put_meta
from exotrio.manager.store.errors import UnknownCommit
from exotrio.manager.store.postgres.clock import ServerClock
from exotrio.manager.store.postgres.connection import Connection
from exotrio.manager.store.postgres.database import MIGRATION_LIMIT, create_tables, lock_tables, relations
from exotrio.manager.store.postgres.server import Server
from exotrio.manager.store.postgres.translation import Column, tables
from exotrio.manager.store.schema import VERSION

logger = logging.getLogger("exotrio.manager.store")

OF_PROCESSES = frozenset({"workers", "v0_runtimes", "managers", "duties", "sessions", "sign_in_links"})
"""Tables about runtimes, browsers and state managers, which fill again within seconds."""
ON_LEASE_CLOCK = {"states": "lease_until", "claims": "at", "slots": "check_at"}
"""Columns on the clock of leases, which differs between SQLite and PostgreSQL."""
_ROWS_WITH_LEASE = {
    # Updating all other states, too, would take as long as copying them.
    "states": " WHERE status = 'QUEUED' AND lease_until IS NOT NULL",
    "slots": " WHERE state > 0 AND check_at > 0",
}
_OF_CLOCK = ("clock_latest", "clock_ahead", "clock_set_back")
_OF_ENGINE = ("version", "oldest_version", "epoch", "writable", *_OF_CLOCK)
"""Keys of ``meta`` that belong to an engine, or to a machine's clock."""
_LOG_FROM = 100_000
"""Tables with at least so many rows are named in the log when they are copied."""


def move(source: Source, url: str, *, lease_now: int) -> dict[str, int] | None:
    """Copy all of a file into the database at ``url``, which has to be empty; return the number of rows of
    each table.

    ``lease_now`` is the time on the clock of leases of the file, ms. If an earlier call copied the file, but
    ended before it renamed the file, nothing is copied again, and None is returned.

    Raises:
        DatabaseError: there is something in the database, or it cannot be used; then nothing was moved, or,
            as the error says, it is not known whether all was.
        ConfigurationError: the URL cannot be read.
    """
    server = Server(url)
    try:
        connection = server.connect()
    except psycopg.Error as error:
        raise server.unusable(error) from error
    try:
        connection.begin()
        # Copying has no time limit, neither within a statement nor between two: the log shows the progress,
        # and Ctrl+C ends it.
        for setting in ("lock_timeout", "idle_in_transaction_session_timeout"):
            connection.control(f"SET LOCAL {setting} = 0")
        connection.limit_statements(MIGRATION_LIMIT)
        lock_tables(connection)
        if names := relations(connection):
            _check_moved_before(source, connection, names, server)
            return None
        moved = _copy_all(source, connection, lease_now)
        connection.commit()
        return moved
    except UnknownCommit as error:
        raise DatabaseError(
            f"the connection to {server.shown} was lost at the very end: all was moved, or nothing",
            fix="run it again: it finds out which",
        ) from error
    except psycopg.Error as error:
        raise server.unusable(error) from error
    finally:
        connection.close()


def _check_moved_before(source: Source, connection: Connection, names: set[str], server: Server) -> None:
    """Raise DatabaseError for a database that is not empty, unless it has what is in the file."""
    stamp = "SELECT value FROM meta WHERE key = 'stamp'"
    if {"meta", "states", "runs"} <= names:
        here, there = connection.execute(stamp).fetchone(), source.execute(stamp).fetchone()
        if here is not None and here[0] == there[0]:
            return
    raise DatabaseError(
        f"the database {server.shown} is not empty",
        where="it has the tables " + ", ".join(sorted(names)[:5]) + (", ..." if len(names) > 5 else ""),
        fix="name a database that was just created, or another schema with ?options=-csearch_path%3DNAME",
    )


def _copy_all(source: Source, connection: Connection, lease_now: int) -> dict[str, int]:
    create_tables(connection)
    # As with the file: it may have what earlier state managers would ignore, such as branches.
    put_meta(connection, "oldest_version", str(VERSION))
    connection.execute("DELETE FROM meta WHERE key = 'stamp'")
    rows: dict[str, int] = {}
    for table, columns in tables().items():
        if table not in OF_PROCESSES:
            rows[table] = _copy(source, connection, table, columns)
    _set_sequences(source, connection)
    clock = ServerClock()
    clock.measure(connection)
    for table, column in ON_LEASE_CLOCK.items():
        counts = _ROWS_WITH_LEASE.get(table, "")
        connection.execute(f"UPDATE {table} SET {column} = {column} + ?{counts}", (clock() - lease_now,))
    for table in rows:
        connection.control(f"ANALYZE {table}")
    return rows


def _copy(source: Source, connection: Connection, table: str, columns: Mapping[str, Column]) -> int:
    """Copy one table and return how many rows it has, on both sides."""
    where = f" WHERE key NOT IN ({', '.join(map(repr, _OF_ENGINE))})" if table == "meta" else ""
    names = ", ".join(columns)
    count = f"SELECT count(*) FROM {table}{where}"
    expected = source.execute(count).fetchone()[0]
    if expected >= _LOG_FROM:
        logger.info("copying %s rows of %s", f"{expected:,}", table)
    connection.settle()
    cursor: Any = connection.driver.cursor()
    with cursor.copy(f"COPY {table} ({names}) FROM STDIN (FORMAT BINARY)".encode()) as copy:
        copy.set_types([column.type for column in columns.values()])
        for row in source.execute(f"SELECT {names} FROM {table}{where}"):
            copy.write_row(list(row))
    arrived = connection.execute(count).fetchone()
    if arrived is None or arrived[0] != expected:
        raise DatabaseError(
            f"{expected:,} rows of {table} were copied, but {arrived and arrived[0]} arrived;"
            " nothing was moved",
            fix="check the file with: sqlite3 FILE 'PRAGMA integrity_check'",
        )
    return int(expected)


def _set_sequences(source: Source, connection: Connection) -> None:
    """Let numbers continue after the last one of the file, so that none is used twice."""
    used = dict(map(tuple, source.execute("SELECT name, seq FROM sqlite_sequence").fetchall()))
    columns = connection.execute(
        "SELECT table_name, column_name FROM information_schema.columns"
        " WHERE table_schema = current_schema() AND is_identity = 'YES'"
    ).fetchall()
    for table, column in columns:
        row = connection.execute(f"SELECT coalesce(max({column}), 0) FROM {table}").fetchone()
        highest = max(used.get(table, 0), 0 if row is None else row[0])
        connection.execute(
            "SELECT setval(pg_get_serial_sequence(?, ?), ?, ? > 0)",
            (table, column, max(1, highest), highest),
        ).fetchall()
