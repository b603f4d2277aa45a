"""The file of an outbox: opening it, owning it, and writing to it with one sync per call. Blocking.

A SQLite database in WAL mode with ``synchronous = FULL``. One process owns it, by a lock of SQLite
that ends with the process; and it belongs to one state manager and namespace, so that no outcome ever
goes to another. It is readable by its owner only, and holds ids, lease tokens, outputs, redacted error
texts and log lines; no inputs, no API key, no secrets but those in outputs.
"""

from __future__ import annotations

import logging
import os
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from exotrio._link.outcomes import added_fields, name_and_value, outcome_of
from exotrio._link.port import Claim
from exotrio._nodes.outcome import Outcome
from exotrio._util.json import NotJson, decode, encode
from exotrio.errors import ConfigurationError, DatabaseBusy

log = logging.getLogger("exotrio.outbox")

APPLICATION_ID = 0x65786F6F  # "exoo"
VERSION = 1
WriteFailed = (sqlite3.Error, MemoryError, RuntimeError)
"""The last two: a node may have used up memory or threads."""
LOCK_TIMEOUT = 1.0
"""Seconds that a process which is ending has to release the file."""
_WHERE = "argument outbox of Runtime"
_FIX = "pass another file as outbox=..."

_SCHEMA = """
CREATE TABLE owner (uri TEXT NOT NULL, namespace TEXT NOT NULL);
CREATE TABLE entries (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    begun INTEGER NOT NULL DEFAULT 0,    -- marked: perhaps sent, and not to be repeated
    body BLOB NOT NULL
);
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """An outcome that an earlier process left. ``begun``: it was marked before it was sent."""

    id: int
    begun: bool
    claim: Claim
    outcome: Outcome


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """How many outcomes a file holds, and for which state manager. ``begun`` of them may have arrived
    already."""

    uri: str
    namespace: str
    outcomes: int
    begun: int


def read_totals(path: Path) -> Totals:
    """Count the outcomes in a file, without changing it and without waiting for its owner.

    Raises:
        DatabaseBusy: a runtime uses it.
        ConfigurationError: it cannot be read, is not an outbox, or of another version.
    """
    try:
        # Writable, though nothing is written: else a write-ahead log that is left next to it would not be
        # read.
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=rw", uri=True, timeout=0)) as db:
            db.execute("BEGIN")
            _check_format(db, path, where="", fix="check the path")
            uri, namespace = db.execute("SELECT uri, namespace FROM owner").fetchone() or ("?", "?")
            outcomes, begun = db.execute("SELECT count(*), total(begun) FROM entries").fetchone()
            return Totals(uri=uri, namespace=namespace, outcomes=outcomes, begun=int(begun))
    except sqlite3.Error as error:
        if getattr(error, "sqlite_errorcode", None) in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            raise DatabaseBusy(
                f"the outbox {path} is in use by a runtime, which sends what is in it"
            ) from error
        raise ConfigurationError(
            f"the outbox {path} cannot be read: {error}", fix="check its owner, and whether it is an outbox"
        ) from error


class OutboxStore:
    """The open file. Blocking; used by the thread that opened it.

    Args:
        path: The file; created if it is not there, readable by its owner only.
        uri: The state manager that outcomes are for, without credentials.

    Attributes:
        left: What an earlier process left.

    Raises:
        DatabaseBusy: another process, or another runtime of this one, uses it.
        ConfigurationError: it is damaged, not an outbox, or for another state manager or namespace; or
            it cannot be used.
    """

    def __init__(self, path: Path, uri: str, namespace: str) -> None:
        self.path = path
        with _explained(path):
            with suppress(FileExistsError):
                # Only a new file is opened here: closing a descriptor of one that SQLite has locked in
                # this process would drop that lock.
                os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
            self._db = sqlite3.connect(path, isolation_level=None, timeout=LOCK_TIMEOUT)
            try:
                self._prepare(uri, namespace)
                self.left = self._read()
            except BaseException:
                self._db.close()
                raise

    def write(
        self, new: Sequence[tuple[Claim, Outcome]], begun: Mapping[int, bool], gone: Sequence[int]
    ) -> list[int | None]:
        """Write all of it durably, or raise WriteFailed and write nothing.

        Args:
            new: Outcomes to add.
            begun: Entries that are about to be sent and must not be repeated (True), or that were not
                sent after all (False).
            gone: Entries to remove.

        Returns:
            The rows of ``new``; None for what cannot be written as JSON that can be read back.
        """
        bodies = [_body(claim, outcome) for claim, outcome in new]
        with self._transaction():
            insert = "INSERT INTO entries (body) VALUES (?)"
            ids = [None if body is None else self._db.execute(insert, (body,)).lastrowid for body in bodies]
            self._change(begun, gone)
        return ids

    def close(self, begun: Mapping[int, bool], gone: Sequence[int]) -> None:
        """Write what can be written, and close."""
        try:
            if begun or gone:
                with self._transaction():
                    self._change(begun, gone)
        except WriteFailed as error:
            log.error("the outbox %s could not be written at the end: %s", self.path, error)
        finally:
            with suppress(sqlite3.Error):
                self._db.close()

    def _change(self, begun: Mapping[int, bool], gone: Sequence[int]) -> None:
        marks = [(is_begun, entry) for entry, is_begun in begun.items()]
        self._db.executemany("UPDATE entries SET begun = ? WHERE id = ?", marks)
        self._db.executemany("DELETE FROM entries WHERE id = ?", [(entry,) for entry in gone])

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._db.execute("COMMIT")
        except BaseException:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise

    def _prepare(self, uri: str, namespace: str) -> None:
        db = self._db
        # Before the first read, so that WAL needs no shared memory and the lock is kept until the end.
        db.execute("PRAGMA locking_mode = EXCLUSIVE")
        with self._transaction():  # a file that is not an outbox stays as it is
            if db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] == 0:
                for statement in _SCHEMA.split(";"):
                    db.execute(statement)
                db.execute("INSERT INTO owner VALUES (?, ?)", (uri, namespace))
                db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
                db.execute(f"PRAGMA user_version = {VERSION}")
            _check_format(db, self.path, where=_WHERE, fix=_FIX)
            problem = db.execute("PRAGMA quick_check(1)").fetchone()[0]
            if problem != "ok":
                raise _damaged(self.path, problem)
            self._own(uri, namespace)
        os.chmod(self.path, 0o600)
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        # The lock of WAL mode is taken by the first use.
        with self._transaction():
            db.execute("UPDATE owner SET uri = ?, namespace = ?", (uri, namespace))

    def _own(self, uri: str, namespace: str) -> None:
        owner = self._db.execute("SELECT uri, namespace FROM owner").fetchone()
        if owner is None:
            raise _damaged(self.path, "it names no state manager")
        count = self._db.execute("SELECT count(*) FROM entries").fetchone()[0]
        if count and owner != (uri, namespace):
            raise ConfigurationError(
                f"the outbox {self.path} holds {count} outcomes for namespace {owner[1]} at {owner[0]}, "
                f"and this runtime works for namespace {namespace} at {uri}",
                where=_WHERE,
                fix=f"start the runtime of the former until they are sent, or {_FIX}",
            )

    def _read(self) -> list[Entry]:
        entries = []
        for entry, begun, body in self._db.execute("SELECT id, begun, body FROM entries ORDER BY id"):
            try:
                claim, outcome = _parsed(body)
                entries.append(Entry(id=entry, begun=bool(begun), claim=claim, outcome=outcome))
            except (NotJson, KeyError, TypeError, ValueError) as error:
                log.error(
                    "entry %s of the outbox %s cannot be read (%s) and stays in it; the others are sent. "
                    "Its state may run again; move the file away once the outbox is empty",
                    entry,
                    self.path,
                    type(error).__name__,
                )
        return entries


def _check_format(db: sqlite3.Connection, path: Path, *, where: str, fix: str) -> None:
    if db.execute("PRAGMA application_id").fetchone()[0] != APPLICATION_ID:
        raise ConfigurationError(f"{path} is not an outbox of exotrio", where=where, fix=fix)
    version = db.execute("PRAGMA user_version").fetchone()[0]
    if version != VERSION:
        raise ConfigurationError(
            f"the outbox {path} is of version {version}; this exotrio knows {VERSION}",
            where=where,
            fix=f"start the exotrio that wrote it until it is empty, or {fix}",
        )


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        if error.sqlite_errorcode in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            raise DatabaseBusy(
                f"the outbox {path} is in use by another process, or by another runtime of this one",
                where=_WHERE,
                fix="give every runtime a separate outbox, or end the other one first",
            ) from error
        if error.sqlite_errorcode in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            raise _damaged(path, str(error)) from error
        raise ConfigurationError(
            f"the outbox {path} cannot be used: {error}",
            where=_WHERE,
            fix=f"check the file and the free space of its disk, or {_FIX}",
        ) from error
    except OSError as error:
        raise ConfigurationError(
            f"the outbox {path} cannot be opened: {error.strerror}", where=_WHERE, fix=_FIX
        ) from error


def _damaged(path: Path, why: str) -> ConfigurationError:
    return ConfigurationError(
        f"the outbox {path} is damaged, or not an outbox: {why}",
        where=_WHERE,
        fix=f"move it away, since outcomes in it may be lost otherwise, or {_FIX}",
    )


_CLAIM = ("state_id", "node_name", "identifier", "graph_name", "run_id", "token", "attempt")


def _body(claim: Claim, outcome: Outcome) -> bytes | None:
    name, value = name_and_value(outcome)
    # Without inputs: they are not needed to report, and may be large.
    fields = {field: getattr(claim, field) for field in _CLAIM}
    try:
        body = encode({"claim": fields, "outcome": name, "value": value, **added_fields(outcome)})
        decode(body)  # reading has limits that writing has not: of depth, and of the digits of a number
    except NotJson:
        return None
    return body


def _parsed(body: bytes) -> tuple[Claim, Outcome]:
    entry = decode(body)
    claim = {field: entry["claim"][field] for field in _CLAIM}  # older files have more fields
    return Claim(inputs={}, **claim), outcome_of(entry["outcome"], entry["value"], entry)
