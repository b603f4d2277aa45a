"""Secrets of a server in files next to the database that only its owner can read."""

from __future__ import annotations

import fcntl
import logging
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from exotrio._shared.database_files import make_folder, open_own
from exotrio._util.new_file import NewFile
from exotrio.errors import ConfigurationError

logger = logging.getLogger("exotrio.manager")

_WHAT = "the key file"


def secret_path(db: Path, name: str) -> Path:
    """Return the file of a secret next to a database."""
    return db.with_name(f"{db.name}.{name}")


def kept_secret(db: Path, name: str, make: Callable[[], str]) -> str:
    """Return the text of ``<db>.<name>``, making the file at first use, readable by its owner only.

    Two processes that do so at the same time get the same text.

    Raises:
        ConfigurationError: the file cannot be read or written.
    """
    path = secret_path(db, name)
    try:
        return read_secret_file(path, own=True)
    except FileNotFoundError:
        pass
    with _locked_folder(path):
        try:
            # Another process made it between the first attempt to read it and the lock.
            return read_secret_file(path, own=True)
        except FileNotFoundError:
            text = make()
            write_secret_file(path, text)
            return text


@contextmanager
def _locked_folder(path: Path) -> Iterator[None]:
    """Make the folder of a file if it is missing, and lock it: no lock of a PostgreSQL covers the file."""
    try:
        make_folder(path.parent)
        fd = os.open(path.parent, os.O_RDONLY)
    except OSError as error:
        raise ConfigurationError(
            f"{_WHAT} {path} cannot be written: {error.strerror}", fix="make its folder writable"
        ) from error
    try:
        # Folders on NFS cannot be locked: there two first starts at the same moment may make two keys.
        with suppress(OSError):
            fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def write_secret_file(path: Path, text: str) -> None:
    """Make or replace a file that its owner only may read; on disk when this returns."""
    file = NewFile(path, _WHAT, ConfigurationError)
    try:
        file.open()
        file.write(f"{text}\n".encode())
        if path.exists() and os.geteuid() == 0:
            # An administrator may write it for a server that runs as another user.
            owner = path.stat()
            os.chown(file.aside, owner.st_uid, owner.st_gid)
        file.sync()
        file.put_in_place(overwrite=True)
    finally:
        file.remove()


def read_secret_file(path: Path, *, own: bool = False) -> str:
    """Return a file's text without the white space around it.

    Args:
        own: Whether exotrio made it: then it must be a file of this user, and no link. Else it may be a link,
            as the secrets of Kubernetes are, but not to a file of another user in a shared folder.

    Raises:
        FileNotFoundError: there is no such file.
        ConfigurationError: it cannot be read, is empty, or may have been put there by another user.
    """
    try:
        fd = open_own(path if own else path.resolve(), os.O_RDONLY)
        with open(fd, encoding="utf-8") as file:
            text, status = file.read().strip(), os.fstat(fd)
    except FileNotFoundError:
        raise
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(
            f"the key file {path} cannot be read: {error}",
            fix="make it a UTF-8 text file that is yours and that you may read",
        ) from error
    if not text:
        raise ConfigurationError(f"the key file {path} is empty", fix="write the key into it, or remove it")
    if status.st_mode & stat.S_IROTH and status.st_uid == os.geteuid():
        logger.warning("other users can read the key file %s: run chmod 600 %s", path, path)
    return text
