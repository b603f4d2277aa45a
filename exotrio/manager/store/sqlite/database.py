"""The SQLite database of a state manager: opening it, and owning it.

One process owns a database file. It holds a lock on ``<file>.lock`` as long as it runs, because the writer
keeps counters and caches in memory that a second writer would make wrong.
"""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import sqlite3
from collections.abc import Callable
from contextlib import closing
from functools import cache
from pathlib import Path

from exotrio._shared.database_files import check_companions, lock_of, make_folder, open_own
from exotrio._shared.settings import DATABASE_VARIABLE
from exotrio.errors import DatabaseBusy, DatabaseError, DatabaseTooNew
from exotrio.manager.store.errors import Replaced
from exotrio.manager.store.migrations import MIGRATIONS, check_version
from exotrio.manager.store.schema import SCHEMA, VERSION

MEMORY = ":memory:"
APPLICATION_ID = 0x65786F31  # "exo1"
MOVED = ".moved"
"""What is added to the name of a file when it is moved to PostgreSQL."""


def cannot_open(db: str | Path, error: OSError, *, where: str = "") -> DatabaseError:
    what = f"the database {db} cannot be opened: {error.strerror}"
    return DatabaseError(what, where=where, fix="choose another place with --db FILE")


class Ownership:
    """The lock that makes this process the only user of a database file.

    It raises DatabaseBusy if another process holds it, and DatabaseError if it cannot be made.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        if path.is_dir():  # before a lock file is made next to it; for / there is no such name
            raise cannot_open(path, OSError(errno.EISDIR, os.strerror(errno.EISDIR)))
        lock = lock_of(path)
        try:
            make_folder(path.parent)
            self._fd = open_own(lock, os.O_RDWR | os.O_CREAT)
        except OSError as error:
            raise cannot_open(path, error, where=f"while making its lock file {lock}") from error
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            owner = os.read(self._fd, 64).decode("ascii", "replace").partition("\n")[0]
            os.close(self._fd)
            raise DatabaseBusy(
                f"the database {path} is in use" + (f" by process {owner}" if owner else ""),
                where=f"its lock file is {lock}",
                fix="stop that process, use its HTTP API instead, or choose another file with --db FILE",
            ) from error
        try:
            os.ftruncate(self._fd, 0)
            os.write(self._fd, f"{os.getpid()}\n".encode())
        except OSError as error:
            os.close(self._fd)
            raise DatabaseError(
                f"the database {path} cannot be used: {error.strerror}",
                where=f"while writing its lock file {lock}",
                fix="check the free space of its disk, or choose another place with --db FILE",
            ) from error
        _locked.add(self._fd)

    def release(self) -> None:
        """Release the database. The lock file stays: to remove it would race with the next owner."""
        if self._fd in _locked:  # it is not in a child that was forked meanwhile
            _locked.remove(self._fd)
            os.close(self._fd)


_locked: set[int] = set()
"""Descriptors of lock files. A lock lasts until the last copy of its descriptor is closed."""


def _leave_to_parent() -> None:
    """Close the locks in a forked child (of a node, say), which may outlive this process."""
    while _locked:
        os.close(_locked.pop())


os.register_at_fork(after_in_child=_leave_to_parent)


class FileReplaced(Replaced):
    """A file of the database is not the one that was opened."""


def same_files(path: Path) -> Callable[[], None]:
    """Return a function that raises FileReplaced once a file of a database was removed or replaced.

    What is written into such a file is lost with the process. Call it once the database is open for writing:
    then its write-ahead log exists.
    """
    files = {file: _identity(file) for file in (str(path), f"{path}-wal") if os.path.exists(file)}

    def check() -> None:
        for file, identity in files.items():
            if _identity(file) != identity:
                raise FileReplaced(f"{os.path.basename(file)} was removed or replaced while it was in use")

    return check


def _identity(path: str) -> tuple[int, int] | None:
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino


def _check_moved(path: Path) -> None:
    """Refuse to make a file where one was moved away: a supervisor, say, starts a state manager on it again.

    That one would know of no run, and refuse for good the results that runtimes still hold.
    """
    moved = path.with_name(path.name + MOVED)
    if moved.exists() and not path.exists():
        raise DatabaseError(
            f"the database {path} was moved to PostgreSQL",
            where=f"it was renamed to {moved.name}",
            fix=f"set {DATABASE_VARIABLE} to the URL of that PostgreSQL; or, to begin with an empty file, put"
            f" {moved.name} elsewhere",
        )


def open_writer(path: Path | None) -> sqlite3.Connection:
    """Open the writing connection to a file, or in memory, creating or checking the tables.

    Raises:
        DatabaseTooNew: a newer exotrio wrote the file.
        DatabaseError: the file is not a database of this exotrio, cannot be used, or was moved to PostgreSQL.
    """
    where = f"the database {path or MEMORY}"
    try:
        if path is not None:
            _check_moved(path)
            # Made here so that only their owner can read inputs and outputs.
            os.close(open_own(path, os.O_RDWR | os.O_CREAT))
            check_companions(path)
        connection = _connect(str(path) if path else MEMORY)
        try:
            # First: WAL mode is written into the file, and a file that is not ours must stay as it is.
            _prepare_schema(connection, where)
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            # The first statement that reads makes the write-ahead log.
            connection.execute("SELECT 1 FROM meta").fetchone()
        except BaseException:
            connection.close()
            raise
    except sqlite3.Error as error:
        raise DatabaseError(
            f"{where} cannot be used: {error}",
            fix="check the file and the free space of its disk, or choose another with --db FILE",
        ) from error
    except OSError as error:
        raise cannot_open(path or MEMORY, error) from error
    return connection


def truncate_log(path: Path) -> None:
    """Move the content of the write-ahead log into the database, and empty the log."""
    with closing(_connect(str(path))) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def open_source(path: Path) -> sqlite3.Connection:
    """Open a connection that cannot change the database, but copy it into another file."""
    return _connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)


def open_reader(path: Path) -> sqlite3.Connection:
    connection = open_source(path)
    try:
        connection.execute("PRAGMA query_only = ON")
    except BaseException:
        connection.close()
        raise
    return connection


def _connect(name: str, *, uri: bool = False) -> sqlite3.Connection:
    # isolation_level None: we begin and end transactions. A connection is made in one thread and used in
    # another, never in two at the same time.
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
    if empty and not connection.execute("PRAGMA database_list").fetchone()["file"]:
        _empty().backup(connection)  # in a quarter of the time: tests of users open one each
        connection.execute("INSERT INTO meta VALUES ('stamp', ?)", (secrets.token_hex(4),))
    elif empty:
        _create_tables(connection, f"INSERT INTO meta VALUES ('stamp', '{secrets.token_hex(4)}');")
    elif application != APPLICATION_ID:
        raise DatabaseError(f"{where} was not made by exotrio", fix="choose another file with --db FILE")
    elif version > VERSION:
        raise DatabaseTooNew(
            f"{where} was written by a newer exotrio (schema {version}; this one knows {VERSION})",
            fix="upgrade exotrio, or choose another file with --db FILE",
        )
    elif version < VERSION:
        check_version(version, where)
    while 0 < version < VERSION:
        # One transaction for each step: after a kill the next process continues with the missing one.
        connection.executescript(
            f"BEGIN IMMEDIATE; {MIGRATIONS[version]} PRAGMA user_version = {version + 1}; COMMIT"
        )
        version += 1


def _create_tables(connection: sqlite3.Connection, rows: str = "") -> None:
    connection.executescript(
        f"BEGIN IMMEDIATE; {SCHEMA}{rows}"
        f"PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {VERSION}; COMMIT"
    )


@cache
def _empty() -> sqlite3.Connection:
    """A database in memory with all tables, of which each further one is a copy."""
    connection = _connect(MEMORY)
    _create_tables(connection)
    return connection
