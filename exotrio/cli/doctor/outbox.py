"""What an outbox holds, without sending or changing any of it."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from exotrio._runtime.outbox_store import APPLICATION_ID, VERSION
from exotrio._util.terminal_text import one_line
from exotrio._util.words import plural
from exotrio.cli.doctor.findings import Finding, note

_BUSY = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def examine_outbox(path: Path) -> Finding:
    """Return what there is to say of an outbox."""
    if not path.is_file():
        fix = "check the path: it is outbox=... of the Runtime, seen from the folder that was started in"
        return Finding(f"there is no outbox {path}", fix)
    try:
        # Writable, though nothing is written: else a log that was left beside it would not be read.
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=rw", uri=True, timeout=0)) as db:
            db.execute("BEGIN")
            return _look(path, db)
    except sqlite3.Error as error:
        if getattr(error, "sqlite_errorcode", None) in _BUSY:
            return note(f"the outbox {path} is in use by a runtime, which sends what is in it")
        return Finding(
            f"the outbox {path} cannot be read: {error}", "check its owner; is it an outbox at all?"
        )


def _look(path: Path, db: sqlite3.Connection) -> Finding:
    if db.execute("PRAGMA application_id").fetchone()[0] != APPLICATION_ID:
        return Finding(f"{path} is no outbox of exotrio", "check the path")
    version = db.execute("PRAGMA user_version").fetchone()[0]
    if version != VERSION:
        return Finding(f"the outbox {path} is of version {version}; this exotrio knows {VERSION}")
    uri, namespace = db.execute("SELECT uri, namespace FROM owner").fetchone() or ("?", "?")
    count, begun = db.execute("SELECT count(*), total(begun) FROM entries").fetchone()
    whose = f"namespace {one_line(namespace)} at {one_line(uri)}"
    if not count:
        return note(f"the outbox {path}, for {whose}, is empty: nothing is left over")
    unknown = f", {begun:.0f} of which may have arrived" if begun else ""
    return Finding(
        f"the outbox {path} holds {plural(count, 'outcome')} for {whose}{unknown}, and no runtime uses it",
        "start its runtime again: it sends them before it claims anything",
    )
