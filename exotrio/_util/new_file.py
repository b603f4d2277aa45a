"""A file that appears under its name whole or not at all, readable by its owner only. Blocking."""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from exotrio.errors import ConfigurationError, ExotrioError

_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}


def require_place(path: Path, *, overwrite: bool) -> None:
    """Refuse a place that a file cannot or must not get.

    Raises:
        ConfigurationError: it is taken, or by no ordinary file.
    """
    if os.path.lexists(path) and not overwrite:
        raise _exists(path)
    if os.path.lexists(path) and not path.is_file():
        # A folder, or a device such as /dev/null, which root would replace for everybody.
        raise ConfigurationError(f"{path} is no ordinary file", fix="name another file")


def _exists(path: Path) -> ConfigurationError:
    return ConfigurationError(
        f"{path} exists already", fix="choose another name, or overwrite it: overwrite=True, --overwrite"
    )


class NewFile:
    """A file in the making, beside its place.

    Args:
        path: Where it will be.
        what: What it is, for errors: ``the backup``.
        error: What to raise if it cannot be made, written or put in its place.

    Attributes:
        aside: Where it is meanwhile.
    """

    def __init__(self, path: Path, what: str, error: type[ExotrioError]) -> None:
        self._path = path
        self._what = what
        self._error = error
        self.aside = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
        self._fd: int | None = None

    def open(self) -> None:
        """Make it."""
        with self._told_as_ours("made"):
            self._fd = os.open(self.aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)

    def write(self, piece: bytes) -> None:
        """Append to it."""
        assert self._fd is not None
        left = memoryview(piece)
        with self._told_as_ours("written"):
            while left:
                left = left[os.write(self._fd, left) :]

    def sync(self) -> None:
        """Have it on disk."""
        assert self._fd is not None
        with self._told_as_ours("written"):
            os.fsync(self._fd)

    def put_in_place(self, *, overwrite: bool) -> None:
        """Give it its name. Nobody ever sees half of it under that.

        Raises:
            ConfigurationError: somebody else has that name by now.
        """
        with self._told_as_ours("put in its place"):
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
        # Not a look first and a rename then: somebody may make the file in between.
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
        """Close it, and remove what was not put in its place."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None
        with suppress(OSError):
            self.aside.unlink(missing_ok=True)

    @contextmanager
    def _told_as_ours(self, what: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise self._error(
                f"{self._what} {self._path} cannot be {what}: {error.strerror}",
                fix="check the folder and the free space of its disk, or choose another place",
            ) from error


def write_new(path: Path, content: bytes, what: str, *, overwrite: bool) -> None:
    """Write a file at once.

    Raises:
        ConfigurationError: it cannot be written, or its place is taken.
    """
    file = NewFile(path, what, ConfigurationError)
    try:
        file.open()
        file.write(content)
        file.sync()
        file.put_in_place(overwrite=overwrite)
    finally:
        file.remove()
