"""The SQLite database of a state manager: opening it, owning it, its tables and their version.

One process owns a database file. It holds a lock on ``<file>.lock`` for as long as it runs,
because the writer keeps counters and caches in memory that a second writer would falsify.

Numbers, not names, tie rows together: a state refers to its run, to its *place* (the position of
a node in the run's template) and to its *kind* (a registered node). ``seq`` is both the key of a
state and the tail of its public id, so finding a state by id needs no index of its own.
"""

from __future__ import annotations

import os
import secrets
import sqlite3
import sys
from pathlib import Path

from exotrio._errors import DatabaseBusy, DatabaseError, DatabaseTooNew

MEMORY = ":memory:"
APPLICATION_ID = 0x65786F74  # "exot"
VERSION = 1

_SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;

CREATE TABLE nodes (
    id INTEGER PRIMARY KEY,
    namespace TEXT NOT NULL,
    name TEXT NOT NULL,
    runtime_name TEXT NOT NULL,
    inputs_schema TEXT NOT NULL,
    outputs_schema TEXT NOT NULL,
    secrets TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    UNIQUE (namespace, name)
);

CREATE TABLE graphs (
    id INTEGER PRIMARY KEY,
    namespace TEXT NOT NULL,
    name TEXT NOT NULL,
    template INTEGER NOT NULL,           -- the current one; runs keep theirs
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    UNIQUE (namespace, name)
);

CREATE TABLE templates (
    id INTEGER PRIMARY KEY,
    graph INTEGER NOT NULL,
    body TEXT NOT NULL,                  -- GraphBody without its secrets
    validation_status TEXT NOT NULL,
    validation_errors TEXT NOT NULL,
    created_at INTEGER NOT NULL
);

CREATE TABLE secrets (
    graph INTEGER NOT NULL,
    name TEXT NOT NULL,
    value TEXT NOT NULL,                 -- encrypted
    PRIMARY KEY (graph, name)
) WITHOUT ROWID;

-- When a graph is to be triggered next, for each distinct cron expression of its current template.
CREATE TABLE schedules (
    graph INTEGER NOT NULL,
    expression TEXT NOT NULL,
    next_at INTEGER NOT NULL,
    PRIMARY KEY (graph, expression)
) WITHOUT ROWID;
CREATE INDEX schedules_by_time ON schedules (next_at);

CREATE TABLE runs (
    id INTEGER PRIMARY KEY,
    run_id TEXT NOT NULL UNIQUE,
    namespace TEXT NOT NULL,
    graph INTEGER NOT NULL,
    template INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    finished_at INTEGER,                 -- when pending last became 0
    cancelled_at INTEGER,
    pending INTEGER NOT NULL DEFAULT 0,  -- CREATED, QUEUED, EXECUTED
    success INTEGER NOT NULL DEFAULT 0,  -- SUCCESS, PRUNED
    errored INTEGER NOT NULL DEFAULT 0,  -- ERRORED, NEXT_CREATED_ERROR
    retried INTEGER NOT NULL DEFAULT 0   -- RETRY_CREATED
);
CREATE INDEX runs_by_time ON runs (namespace, created_at, id);

CREATE TABLE store (
    run INTEGER NOT NULL,
    key TEXT NOT NULL,
    value TEXT NOT NULL,
    PRIMARY KEY (run, key)
) WITHOUT ROWID;

CREATE TABLE states (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,  -- never reused: it is part of the public id
    run INTEGER NOT NULL,
    place INTEGER NOT NULL,
    kind INTEGER NOT NULL,
    status TEXT NOT NULL,
    inputs TEXT NOT NULL,
    outputs TEXT NOT NULL DEFAULT '{}',
    data TEXT,                           -- of a prune
    error TEXT,
    parent INTEGER,                      -- the chain: who created it; for a united state, its t
    united INTEGER NOT NULL DEFAULT 0,   -- created through unites (retries too, siblings not)
    groups TEXT NOT NULL DEFAULT '',     -- seqs of the united targets in its chain
    path BLOB NOT NULL DEFAULT x'',      -- where in the fan-outs; sorts in fan-out order
    enqueue_after INTEGER NOT NULL,
    retry_count INTEGER NOT NULL DEFAULT 0,
    manual_fanout_id TEXT,               -- of the manual retry it descends from
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    claim TEXT,                          -- native claim it was last taken by
    token TEXT,                          -- lease token; NULL if last claimed through v0
    worker TEXT,                         -- who claimed it last
    local INTEGER NOT NULL DEFAULT 0,    -- claimed by a worker inside this very process
    lease_until INTEGER,                 -- on the monotonic clock, ms; NULL: it does not end by itself
    deliveries INTEGER NOT NULL DEFAULT 0,  -- leases that ended without an outcome
    requeued INTEGER NOT NULL DEFAULT 0, -- waits because its node asked for it
    claimed_at INTEGER,
    finished_at INTEGER
);
CREATE INDEX states_ready ON states (kind, enqueue_after, seq) WHERE status = 'CREATED';
CREATE INDEX states_held ON states (claim) WHERE status = 'QUEUED';
CREATE INDEX states_leased ON states (lease_until) WHERE status = 'QUEUED' AND lease_until IS NOT NULL;
CREATE INDEX states_by_run ON states (run);
-- Each united node runs once for each state of its target.
CREATE UNIQUE INDEX states_united ON states (parent, place)
    WHERE united = 1 AND retry_count = 0 AND manual_fanout_id IS NULL;
-- The same manual retry asked for twice is a conflict.
CREATE UNIQUE INDEX states_manual ON states (run, place, manual_fanout_id)
    WHERE manual_fanout_id IS NOT NULL AND retry_count = 0;

-- How many states of one place of a run have which status.
CREATE TABLE counts (
    run INTEGER NOT NULL,
    place INTEGER NOT NULL,
    created INTEGER NOT NULL DEFAULT 0,
    queued INTEGER NOT NULL DEFAULT 0,
    executed INTEGER NOT NULL DEFAULT 0,
    success INTEGER NOT NULL DEFAULT 0,
    errored INTEGER NOT NULL DEFAULT 0,
    next_created_error INTEGER NOT NULL DEFAULT 0,
    retry_created INTEGER NOT NULL DEFAULT 0,
    pruned INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (run, place)
) WITHOUT ROWID;

-- How the members of the groups of t stand, by place.
CREATE TABLE groups (
    t INTEGER NOT NULL,
    place INTEGER NOT NULL,
    pending INTEGER NOT NULL DEFAULT 0,
    failed INTEGER NOT NULL DEFAULT 0,
    succeeded INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (t, place)
) WITHOUT ROWID;

-- Successes that a united node will read as a list: the latest for each path.
CREATE TABLE members (
    t INTEGER NOT NULL,
    place INTEGER NOT NULL,
    path BLOB NOT NULL,
    state INTEGER NOT NULL,
    PRIMARY KEY (t, place, path)
) WITHOUT ROWID;

-- What happened to a state beside being claimed and finished.
CREATE TABLE events (
    id INTEGER PRIMARY KEY,
    state INTEGER NOT NULL,
    at INTEGER NOT NULL,
    kind TEXT NOT NULL,
    worker TEXT                          -- who held it, if anybody
);
CREATE INDEX events_by_state ON events (state, id);

-- Native claims of the last minutes: one that took states, or was voided, takes no more.
CREATE TABLE claims (id TEXT PRIMARY KEY, at INTEGER NOT NULL) WITHOUT ROWID;
CREATE INDEX claims_by_age ON claims (at);
"""


class Ownership:
    """The lock that makes this process the only one to use a database file.

    Raises:
        DatabaseBusy: another process holds it.
        DatabaseError: the folder or the lock file cannot be used.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        lock = path.with_name(path.name + ".lock")
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._fd = os.open(lock, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o600)
        except OSError as error:
            raise DatabaseError(
                f"the database {path} cannot be opened: {error.strerror}",
                where=f"while making its lock file {lock}",
                fix="choose another place with --db FILE",
            ) from error
        try:
            _lock(self._fd)
        except OSError as error:
            owner = os.read(self._fd, 64).decode("ascii", "replace").strip()
            os.close(self._fd)
            raise DatabaseBusy(
                f"the database {path} is in use" + (f" by process {owner}" if owner else ""),
                where=f"its lock file is {lock}",
                fix="stop that process, talk to it over HTTP instead, or choose another file with --db FILE",
            ) from error
        os.ftruncate(self._fd, 0)
        os.write(self._fd, f"{os.getpid()}\n".encode())

    def release(self) -> None:
        """Give the database up. The lock file stays: removing it would race with the next owner."""
        os.close(self._fd)


def _lock(fd: int) -> None:
    if sys.platform == "win32":
        import msvcrt

        # A byte far behind the text: Windows locks are mandatory, and the owner's id is to be readable.
        os.lseek(fd, 1 << 20, os.SEEK_SET)
        msvcrt.locking(fd, msvcrt.LK_NBLCK, 1)
        os.lseek(fd, 0, os.SEEK_SET)
    else:
        import fcntl

        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)


def open_writer(path: Path | None) -> sqlite3.Connection:
    """Open the writing connection, creating or checking the tables.

    Args:
        path: The file, or None for a database in memory.

    Raises:
        DatabaseTooNew: a newer exotrio wrote the file.
        DatabaseError: the file is no database of exotrio, or cannot be used.
    """
    where = f"the database {path or MEMORY}"
    try:
        if path is not None:
            # Made here so that inputs and outputs are readable by their owner only.
            os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
        connection = _connect(str(path) if path else MEMORY)
        try:
            # First: WAL mode is written into the file, and a file that is not ours stays as it is.
            _prepare_schema(connection, where)
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
        except BaseException:
            connection.close()
            raise
    except sqlite3.Error as error:
        raise DatabaseError(
            f"{where} cannot be used: {error}",
            fix="check the file and the free space of its disk, or choose another with --db FILE",
        ) from error
    except OSError as error:
        raise DatabaseError(
            f"{where} cannot be opened: {error.strerror}", fix="choose another place with --db FILE"
        ) from error
    return connection


def open_reader(path: Path) -> sqlite3.Connection:
    """Open a connection that can only read."""
    connection = _connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)
    try:
        connection.execute("PRAGMA query_only = ON")
    except BaseException:
        connection.close()
        raise
    return connection


def _connect(name: str, *, uri: bool = False) -> sqlite3.Connection:
    # Transactions are ours (isolation_level None). Connections are made in one thread and used in
    # another, never in two at once.
    connection = sqlite3.connect(
        name, isolation_level=None, check_same_thread=False, cached_statements=512, uri=uri, timeout=5.0
    )
    connection.row_factory = sqlite3.Row
    connection.execute("PRAGMA temp_store = MEMORY")
    return connection


def _prepare_schema(connection: sqlite3.Connection, where: str) -> None:
    application = connection.execute("PRAGMA application_id").fetchone()[0]
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    empty = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] == 0
    if empty:
        stamp = secrets.token_hex(4)
        connection.executescript(
            f"BEGIN IMMEDIATE; {_SCHEMA}"
            f"INSERT INTO meta VALUES ('stamp', '{stamp}');"
            f"PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {VERSION}; COMMIT"
        )
    elif application != APPLICATION_ID:
        raise DatabaseError(f"{where} was not made by exotrio", fix="choose another file with --db FILE")
    elif version > VERSION:
        raise DatabaseTooNew(
            f"{where} was written by a newer exotrio (schema {version}; this one knows {VERSION})",
            fix="upgrade exotrio, or choose another file with --db FILE",
        )
