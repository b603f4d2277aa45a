"""The tables of a database on PostgreSQL: making, checking and migrating them."""

from __future__ import annotations

import secrets
from dataclasses import dataclass

from psycopg import errors

from exotrio.errors import DatabaseError, DatabaseTooNew
from exotrio.manager.store.clock import wall_clock
from exotrio.manager.store.driver import put_meta
from exotrio.manager.store.migrations import MIGRATIONS, check_version
from exotrio.manager.store.numbers import GAP, number_at
from exotrio.manager.store.postgres.clock import ServerClock
from exotrio.manager.store.postgres.connection import Connection, Mark
from exotrio.manager.store.postgres.server import MIN_VERSION, Server
from exotrio.manager.store.postgres.translation import translate_schema
from exotrio.manager.store.schema import OLDEST, SCHEMA, VERSION
from exotrio.manager.store.shared_keys import SILENT_AFTER_MS

_LOCK = 0x65786F31  # "exo1"
MAX_STALL = "1s"
"""How long a migration waits for a table that others use: later transactions wait behind it."""
MIGRATION_LIMIT = 3_600.0
"""Seconds that a statement may take while tables are made, changed or filled, or another one does that."""
_FIX = "name another database in the URL, or another schema with ?options=-csearch_path%3DNAME"
_SETTINGS = {
    # Room on each page for the new version of a row that changes: its indexes then need no change.
    "runs": "fillfactor = 80",
    "counts": "fillfactor = 80",
    "unite_counters": "fillfactor = 80",
    # The indexes of a state always change. But as more versions stay on their page, 20,000 states took 4 %
    # less space and 3 % less of the write-ahead log than without, in the same time.
    "states": "fillfactor = 85",
    # Rows that come and go are cleared away before they are a fifth of the table.
    **dict.fromkeys(
        (
            *("checkpoints", "claims", "trends", "waiting_trends", "cron_triggers", "meta", "unite_members"),
            *("turns", "slots", "starts"),
        ),
        "",
    ),
}
_AUTOVACUUM = (
    "autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_insert_scale_factor = 0.05,"
    " autovacuum_analyze_scale_factor = 0.05, autovacuum_vacuum_cost_delay = 0"
)


class StillUsed(DatabaseError):
    """Running state managers cannot work on the tables of this version."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A database with the tables of this version."""

    stamp: str
    """The beginning of the ids of its states."""
    is_pooled: bool
    """Whether a pooler lends its sessions."""


def prepare(server: Server, clock: ServerClock) -> Prepared:
    """Make or check the tables, and measure the clock. Managers that start at once do it one after the other.

    Raises:
        DatabaseTooNew: a newer exotrio changed it in a way that this one does not know.
        StillUsed: running state managers need what this one has to remove.
        DatabaseError: it is not a database of exotrio, or cannot be used.
        psycopg.Error: it could not be reached.
    """
    connection = server.connect()
    try:
        version = connection.driver.info.server_version // 10_000
        if version < MIN_VERSION:
            raise DatabaseError(
                f"the database {server.shown} is on PostgreSQL {version}, which is too old",
                fix=f"use PostgreSQL {MIN_VERSION} or newer",
            )
        connection.begin()
        # The manager before this one may be migrating a large table.
        connection.control("SET LOCAL lock_timeout = 0")
        connection.limit_statements(MIGRATION_LIMIT)
        lock_tables(connection)
        try:
            stamp = _prepare_schema(connection, f"the database {server.shown}")
        except errors.InsufficientPrivilege as error:
            raise DatabaseError(
                f"the database {server.shown} cannot be used: {server.reason(error)}",
                fix="grant the user CREATE on its schema, and ownership of the tables",
            ) from error
        begin_epoch(connection)
        connection.commit()
        clock.measure(connection)
        return Prepared(stamp=stamp, is_pooled=connection.is_pooled)
    finally:
        connection.close()


def _prepare_schema(connection: Connection, where: str) -> str:
    encoding, schema = connection.execute("SELECT getdatabaseencoding(), current_schema()").fetchall()[0]
    if encoding != "UTF8":
        raise DatabaseError(
            f"{where} has the encoding {encoding}", fix="create it with ENCODING 'UTF8' TEMPLATE template0"
        )
    if schema is None:
        raise DatabaseError(
            f"{where} has none of the schemas in its search_path", fix="create the schema first"
        )
    others = relations(connection)
    if not others:
        return create_tables(connection)
    if not {"meta", "states", "runs"} <= others:
        raise DatabaseError(f"{where} was not made by exotrio", fix=_FIX)
    try:
        known = dict(map(tuple, connection.execute("SELECT key, value FROM meta").fetchall()))
        version, oldest = int(known["version"]), int(known["oldest_version"])
        stamp: str = known["stamp"]
    except (KeyError, ValueError, errors.UndefinedColumn):
        raise DatabaseError(f"{where} was not made by exotrio", fix=_FIX) from None
    if oldest > VERSION:
        raise DatabaseTooNew(
            f"{where} was changed by a newer exotrio (schema {version}, usable from {oldest} on;"
            f" this one knows {VERSION})",
            fix="upgrade exotrio",
        )
    if version < VERSION:
        check_version(version, where)
        if oldest < OLDEST:
            _check_contraction(connection, where)
        connection.control(f"SET LOCAL lock_timeout = '{MAX_STALL}'")
        for step in range(version, VERSION):
            connection.control(translate_schema(MIGRATIONS[step]))
        _set_up(connection, relations(connection) - others)
        _put_versions(connection, max(oldest, OLDEST))
    raise_numbers(connection)
    return stamp


def _check_contraction(connection: Connection, where: str) -> None:
    """Check that no state manager needs what is to be removed; none can enter until the end."""
    # A state manager that enters locks this row, too (engine.managers).
    connection.execute("SELECT value FROM meta WHERE key = 'oldest_version' FOR UPDATE").fetchall()
    older = connection.execute(
        "SELECT id, version FROM managers WHERE schema_version < ?"
        " AND seen_at > extract(epoch FROM clock_timestamp()) * 1000 - ? ORDER BY started_at, id",
        (OLDEST, SILENT_AFTER_MS),
    ).fetchall()
    if older:
        names = ", ".join(f"{row['id']} (exotrio {row['version']})" for row in older)
        raise StillUsed(
            f"{where} is used by state managers that are too old for what this one has to change: {names}",
            fix="first replace all of them by a version in between, as the release notes say; or end them",
        )


def begin_epoch(connection: Connection) -> Mark:
    """Begin a new epoch (``epochs``) if the database may have gone back in time; return its present mark."""
    lock_tables(connection)
    mark = connection.read_mark()
    if not mark.is_begun:
        raise_numbers(connection)
        mark = _put_epoch(connection, mark)
    return mark


def _put_epoch(connection: Connection, mark: Mark) -> Mark:
    # Two standbys that were promoted separately can be on the same timeline.
    epoch = f"{mark.timeline}.{mark.table}.{secrets.token_hex(8)}"
    put_meta(connection, "epoch", epoch)
    return mark._replace(epoch=epoch)


def raise_numbers(connection: Connection) -> None:
    """Raise the numbers of all tables above those that were ever assigned, as ``schema`` says.

    Call it in a transaction. A rollback does not undo it.
    """
    # One manager after the other: between the two parts of the statement another one would set a sequence
    # higher, and this one, whose clock is behind, would set it back.
    lock_tables(connection)
    connection.execute(
        "SELECT setval(sequence, greatest(pg_sequence_last_value(sequence), ?) + ?) FROM"
        " (SELECT pg_get_serial_sequence(attrelid::regclass::text, attname)::regclass AS sequence"
        " FROM pg_attribute JOIN pg_class ON pg_class.oid = attrelid"
        " WHERE relnamespace = current_schema()::regnamespace AND attidentity <> '') AS known",
        (number_at(wall_clock()), GAP),
    ).fetchall()


def lock_tables(connection: Connection) -> None:
    """Wait for the lock that each transaction which makes or changes tables holds until its end."""
    connection.execute("SELECT pg_advisory_xact_lock(?)", (_LOCK,))


def relations(connection: Connection) -> set[str]:
    """Return the names of the tables, views and sequences in the schema."""
    rows = connection.execute(
        # What belongs to an extension does not count.
        "SELECT relname FROM pg_class WHERE relnamespace = current_schema()::regnamespace"
        " AND NOT EXISTS (SELECT FROM pg_depend WHERE objid = pg_class.oid AND deptype = 'e')"
        " AND relkind IN ('r', 'p', 'v', 'm', 'f', 'S')"
    )
    return {row["relname"] for row in rows.fetchall()}


def create_tables(connection: Connection) -> str:
    """Make the tables, and return the beginning of the ids of their states."""
    connection.control(translate_schema(SCHEMA))
    _set_up(connection, relations(connection))
    stamp = secrets.token_hex(4)
    put_meta(connection, "stamp", stamp)
    _put_epoch(connection, connection.read_mark())
    _put_versions(connection)
    return stamp


def _set_up(connection: Connection, tables: set[str]) -> None:
    """Set the storage parameters of tables that were just made."""
    for table, setting in _SETTINGS.items():
        if table in tables:
            settings = ", ".join(filter(None, (setting, _AUTOVACUUM)))
            connection.control(f"ALTER TABLE {table} SET ({settings})")


def _put_versions(connection: Connection, oldest: int = OLDEST) -> None:
    put_meta(connection, "version", str(VERSION))
    put_meta(connection, "oldest_version", str(oldest))
