"""The files of a SQLite database, for all that opens one or looks for the process that has it open.

The folder may be one that others may write to, such as ``/tmp``. Another user may have put a file or a link
of the same name there first, such as a key that they know, or a link to a file of ours as the lock. A file is
accepted if it is owned by us, by root, or by the owner of the folder, who could replace it anyway; all others
are refused.

The lock file next to the database says which process has it open, and where that serves it.
"""

from __future__ import annotations

import errno
import logging
import os
import stat
from contextlib import suppress
from pathlib import Path

log = logging.getLogger("exotrio.database")

GITIGNORE = "# Made by exotrio: do not commit this folder.\n*\n"
COMPANIONS = ("-wal", "-shm", "-journal")
"""Suffixes of the files that SQLite reads together with a database."""


def open_own(path: Path, flags: int) -> int:
    """Open or create a file of a database, for its owner only, and return its descriptor. No link is
    followed.

    It raises OSError if the file cannot be opened, or may have been put there by another user.
    """
    try:
        # O_NONBLOCK: opening a pipe of that name would never return.
        fd = os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, 0o600)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise OSError(errno.ELOOP, f"{path.name} is a link, which is not followed") from error
        raise
    try:
        _check(os.fstat(fd), path)
    except BaseException:
        os.close(fd)
        raise
    return fd


def check_companions(path: Path) -> None:
    """Check the files that SQLite reads with a database; errors as in ``open_own``."""
    for file in (path.with_name(path.name + suffix) for suffix in COMPANIONS):
        if os.path.lexists(file):
            _check(os.lstat(file), file)


def make_folder(folder: Path) -> None:
    """Create the folder of a database, for its owner only, unless it exists.

    A ``.exotrio`` gets a ``.gitignore``, since it lies among sources and holds keys.
    """
    if folder.exists():
        return
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    if folder.name == ".exotrio":
        (folder / ".gitignore").write_text(GITIGNORE, "utf-8")
    else:
        log.info("the folder %s did not exist, and was made", folder)


def real_path(path: Path) -> Path:
    """Return where a database is; raise OSError for a link of a user who does not own its folder."""
    if path.is_symlink():
        _check_owner(os.lstat(path), path)
    return path.resolve()


def lock_of(path: Path) -> Path:
    """Return the lock file of a database: the process that has it open locks it, and writes its id first."""
    return path.with_name(path.name + ".lock")


def announce_url(path: Path, url: str) -> None:
    """Write where this process, which has a database file open, serves it: for other processes of the user.

    It is the second line of the lock file. Nothing is raised if it cannot be written.
    """
    with suppress(OSError):
        fd = open_own(lock_of(path), os.O_WRONLY | os.O_APPEND)
        try:
            os.write(fd, f"{url}\n".encode())
        finally:
            os.close(fd)


def url_of_owner(path: Path, *, checks: bool = False) -> str | None:
    """Return where the process that has a database file open serves it; None if it does not.

    With ``checks`` also None if that process has ended. The lock is not tried, since a process that tries to
    open the database at this moment would fail.
    """
    try:
        # Checked as any file of a database: a key is sent to the address that is in it.
        fd = open_own(lock_of(real_path(path)), os.O_RDONLY)
    except OSError:
        return None
    try:
        lines = os.read(fd, 1_024).decode("ascii", "replace").splitlines()
    finally:
        os.close(fd)
    if len(lines) < 2 or (checks and not _is_alive(lines[0])):
        return None
    return lines[1]


def _check(status: os.stat_result, path: Path) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EPERM, f"{path.name} is not a regular file")
    _check_owner(status, path)
    if status.st_mode & stat.S_IWOTH:
        raise OSError(errno.EPERM, f"{path.name} can be changed by every user; run chmod o-w")


def _check_owner(status: os.stat_result, path: Path) -> None:
    owner = status.st_uid
    if owner not in {0, os.geteuid(), os.stat(path.parent).st_uid}:
        raise OSError(errno.EPERM, f"{path.name} belongs to user {owner}, who does not own its folder")


def _is_alive(process: str) -> bool:
    try:
        os.kill(int(process), 0)
    except (ValueError, OverflowError, ProcessLookupError):
        return False
    except OSError:
        pass  # it is another user's
    return True
