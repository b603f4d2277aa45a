"""Fetching a backup into a file: written aside, checked, and only then put in its place."""

from __future__ import annotations

import errno
import os
import secrets
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import trio

from exotrio._client_calls import Calls
from exotrio._errors import ConfigurationError, DatabaseError
from exotrio._wire_manage import BACKUP_PATH, BACKUP_TYPE

MAKING = 900.0
"""Seconds the state manager may take to copy its database before it begins to send."""
CLEANUP = 5.0
_INSTRUCTIONS = 10_000
_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}


async def backup(calls: Calls, path: Path, *, overwrite: bool) -> int:
    """Fetch a backup into a file and return its size."""
    await trio.to_thread.run_sync(_require_place, path, overwrite)
    part = _Part(path)
    try:
        await trio.to_thread.run_sync(part.open)

        async def fetch() -> int:
            return await calls.http.download(BACKUP_PATH, part.write, patience=MAKING, media_type=BACKUP_TYPE)

        size = await calls.prefer_native(
            lambda: calls.repeat(fetch, sent=False),
            lambda: calls.refuse_v0("no backup can be fetched", "back up the database it uses"),
        )
        await part.check()
        await trio.to_thread.run_sync(part.put_in_place, overwrite)
        return size
    finally:
        with trio.CancelScope(shield=True, deadline=trio.current_time() + CLEANUP):
            await trio.to_thread.run_sync(part.remove)


def _require_place(path: Path, overwrite: bool) -> None:
    if os.path.lexists(path) and not overwrite:
        raise _exists(path)
    if os.path.lexists(path) and not path.is_file():
        # A folder, or a device such as /dev/null, which root would replace for everybody.
        raise ConfigurationError(f"{path} is no ordinary file", fix="name a file for the backup")
    # Replaced under a state manager that uses it, a database would be lost with all that is written to it.
    if any(path.with_name(path.name + suffix).exists() for suffix in ("-wal", ".lock")):
        raise ConfigurationError(
            f"{path} is the database of a state manager, or was",
            where=f"{path.name}.lock or {path.name}-wal is beside it",
            fix="choose another name for the backup",
        )


def _exists(path: Path) -> ConfigurationError:
    return ConfigurationError(
        f"{path} exists already", fix="choose another name, or overwrite it: overwrite=True, --overwrite"
    )


class _Part:
    """The file in the making, beside its place. All but ``write`` and ``check`` are for threads."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._aside = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
        self._fd: int | None = None

    def open(self) -> None:
        with self._told_as_ours("made"):
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
            self._fd = os.open(self._aside, flags, 0o600)

    async def write(self, piece: bytes) -> None:
        await trio.to_thread.run_sync(self._write, piece)

    def _write(self, piece: bytes) -> None:
        assert self._fd is not None
        left = memoryview(piece)
        with self._told_as_ours("written"):
            while left:
                left = left[os.write(self._fd, left) :]

    async def check(self) -> None:
        """Sync what arrived and let SQLite look through it."""
        given_up = threading.Event()
        try:
            await trio.to_thread.run_sync(self._check, given_up.is_set, abandon_on_cancel=True)
        finally:
            given_up.set()

    def _check(self, given_up: Callable[[], bool]) -> None:
        import sqlite3

        assert self._fd is not None
        with self._told_as_ours("written"):
            os.fsync(self._fd)
        try:
            uri = f"{self._aside.absolute().as_uri()}?mode=ro&immutable=1"
            with closing(sqlite3.connect(uri, uri=True)) as connection:
                connection.set_progress_handler(given_up, _INSTRUCTIONS)
                found = [row[0] for row in connection.execute("PRAGMA quick_check(3)")]
        except sqlite3.Error as error:
            found = [str(error)]
        if found == ["ok"] and not self._aside.stat().st_size:
            found = ["it is empty"]  # which SQLite takes for a new one
        if found != ["ok"]:
            raise DatabaseError(
                f"what arrived is no sound database: {'; '.join(found)}",
                fix="try again; if it stays like this, the state manager's disk may be failing",
            )

    def put_in_place(self, overwrite: bool) -> None:
        """Give the file its name. Nobody ever sees half of it under that."""
        with self._told_as_ours("put in its place"):
            if overwrite:
                os.replace(self._aside, self._path)
            else:
                self._link()
            if os.name == "posix":
                folder = os.open(self._path.parent, os.O_RDONLY)
                try:
                    os.fsync(folder)
                finally:
                    os.close(folder)

    def _link(self) -> None:
        # Not a look first and a rename then: somebody may make the file in between.
        try:
            os.link(self._aside, self._path)
        except FileExistsError:
            raise _exists(self._path) from None
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            try:
                os.close(os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
            except FileExistsError:
                raise _exists(self._path) from None
            os.replace(self._aside, self._path)

    def remove(self) -> None:
        """Close and remove what was not put in its place."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None
        with suppress(OSError):
            self._aside.unlink(missing_ok=True)

    @contextmanager
    def _told_as_ours(self, what: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise DatabaseError(
                f"the backup {self._path} cannot be {what}: {error.strerror}",
                fix="check the folder and the free space of its disk, or choose another place",
            ) from error
