"""Fetching a backup: it is written to a temporary file, checked, and only then renamed."""

from __future__ import annotations

from contextlib import closing
from functools import partial
from pathlib import Path

import anyio

from exotrio._util.new_file import NewFile, require_place
from exotrio._wire.operations import BACKUP_PATH, BACKUP_TYPE
from exotrio.client._calls import Calls, no_request
from exotrio.errors import ConfigurationError, DatabaseError

COPY_TIMEOUT = 900.0
"""Seconds the state manager may take to copy its database before it begins to send."""
CLEANUP = 5.0


async def fetch_backup(calls: Calls, path: Path, *, overwrite: bool) -> int:
    """Fetch a backup into a file and return its size."""
    await anyio.to_thread.run_sync(_require_place, path, overwrite)
    file = NewFile(path, "the backup", DatabaseError)
    try:
        await anyio.to_thread.run_sync(file.open)

        async def write(chunk: bytes) -> None:
            await anyio.to_thread.run_sync(file.write, chunk)

        async def fetch() -> int:
            return await calls.http.download(BACKUP_PATH, write, timeout=COPY_TIMEOUT, media_type=BACKUP_TYPE)

        size = await calls.native_only(
            lambda: calls.repeat(fetch, sent=False), no_request("GET", BACKUP_PATH)
        )
        await anyio.to_thread.run_sync(_sync_and_check, file, abandon_on_cancel=True)
        await anyio.to_thread.run_sync(partial(file.put_in_place, overwrite=overwrite))
        return size
    finally:
        with anyio.CancelScope(shield=True, deadline=anyio.current_time() + CLEANUP):
            await anyio.to_thread.run_sync(file.remove)


def _require_place(path: Path, overwrite: bool) -> None:
    require_place(path, overwrite=overwrite)
    # If a database were replaced while a state manager uses it, all further writes to it would be lost.
    if any(path.with_name(path.name + suffix).exists() for suffix in ("-wal", ".lock")):
        raise ConfigurationError(
            f"{path} is the database of a state manager, or was",
            where=f"{path.name}.lock or {path.name}-wal is next to it",
            fix="choose another name for the backup",
        )


def _sync_and_check(file: NewFile) -> None:
    import sqlite3

    file.sync()
    path = file.aside
    try:
        uri = f"{path.absolute().as_uri()}?mode=ro&immutable=1"
        with closing(sqlite3.connect(uri, uri=True)) as connection:
            problems = [row[0] for row in connection.execute("PRAGMA quick_check(3)")]
    except sqlite3.Error as error:
        problems = [str(error)]
    if problems == ["ok"] and not path.stat().st_size:
        problems = ["it is empty"]  # which SQLite takes for a new database
    if problems != ["ok"]:
        raise DatabaseError(
            f"what arrived is not a sound database: {'; '.join(problems)}",
            fix="try again; if it stays like this, the state manager's disk may be failing",
        )
