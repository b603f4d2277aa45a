"""A file that appears under its name complete or not at all, readable by its owner only. Blocking."""

from __future__ import annotations

import errno
import os
import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from exotrio.errors import ConfigurationError, ExotrioError

_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}


OVERWRITE = "overwrite=True"


def require_place(path: Path, *, overwrite: bool, option: str = OVERWRITE) -> None:
    """Raise ConfigurationError if ``path`` exists, unless it is a file and may be overwritten.

    ``option`` is how the user allows that, for the message.
    """
    if os.path.lexists(path) and not overwrite:
        raise _exists(path, option)
    if os.path.lexists(path) and not path.is_file():
        # A folder, or a device such as /dev/null, which root would replace for all users.
        raise ConfigurationError(f"{path} is not a regular file", fix="choose another name")


def _exists(path: Path, option: str = OVERWRITE) -> ConfigurationError:
    return ConfigurationError(f"{path} already exists", fix=f"choose another name, or replace it: {option}")


class NewFile:
    """A file that is written under another name (``aside``), and renamed when it is complete.

    Args:
        what: What it is, for errors: ``the backup``.
        error: Raised if it cannot be created, written or renamed.
    """

    def __init__(self, path: Path, what: str, error: type[ExotrioError]) -> None:
        self._path = path
        self._what = what
        self._error = error
        self.aside = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
        self._fd: int | None = None
        # A cancelled task of asyncio does not wait for its thread, which may still write, or begin to.
        self._lock = threading.Lock()
        self._removed = False

    def open(self) -> None:
        with self._change("created"):
            self._fd = os.open(self.aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)

    def write(self, piece: bytes) -> None:
        left = memoryview(piece)
        with self._change("written"):
            assert self._fd is not None
            while left:
                left = left[os.write(self._fd, left) :]

    def sync(self) -> None:
        """Write it through to the disk."""
        assert self._fd is not None
        with self._translate_errors("written"):
            os.fsync(self._fd)

    def put_in_place(self, *, overwrite: bool) -> None:
        """Rename it to its final name; raise ConfigurationError if a file of that name was created
        meanwhile."""
        with self._change("renamed"):
            if overwrite:
                os.replace(self.aside, self._path)
            else:
                self._link()
            folder = os.open(self._path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)

    def _link(self) -> None:
        # A check followed by a rename would overwrite a file that was created in between.
        try:
            os.link(self.aside, self._path)
        except FileExistsError:
            raise _exists(self._path) from None
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            try:
                os.close(os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
            except FileExistsError:
                raise _exists(self._path) from None
            os.replace(self.aside, self._path)

    def remove(self) -> None:
        """Close it, and remove it if it was not renamed. Nothing creates or writes it afterwards."""
        with self._lock:
            self._removed = True
            if self._fd is not None:
                os.close(self._fd)
                self._fd = None
            with suppress(OSError):
                self.aside.unlink(missing_ok=True)

    @contextmanager
    def _change(self, what: str) -> Iterator[None]:
        with self._lock, self._translate_errors(what):
            if self._removed:
                raise self._error(f"{self._what} {self._path} was cancelled")
            yield

    @contextmanager
    def _translate_errors(self, what: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise self._error(
                f"{self._what} {self._path} cannot be {what}: {error.strerror}",
                fix="check the folder and the free space of its disk, or choose another place",
            ) from error


def write_new(path: Path, content: bytes, what: str, *, overwrite: bool) -> None:
    """Write a whole file; raise ConfigurationError if it cannot be written, or if one of its name exists."""
    file = NewFile(path, what, ConfigurationError)
    try:
        file.open()
        file.write(content)
        file.sync()
        file.put_in_place(overwrite=overwrite)
    finally:
        file.remove()
