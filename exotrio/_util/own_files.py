"""Opening the files of a database in folders that others may write to, ``/tmp`` for one.

Another user may have put a file or a link of that name there first: a key that is known to them, a lock that
leads to a file of ours. A file is accepted if it is owned by us, by root, or by the owner of the folder, who
could replace it anyway; anything else is refused.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

GITIGNORE = "# Made by exotrio: do not commit this folder.\n*\n"
BESIDE = ("-wal", "-shm", "-journal")
"""Suffixes of the files that SQLite reads with a database."""


def open_own(path: Path, flags: int) -> int:
    """Open or make a file of a database, for its owner only, and return its descriptor. No link is followed.

    It raises OSError if it cannot be opened, or may have been put there by somebody else.
    """
    try:
        # O_NONBLOCK: a pipe of that name would block us for ever.
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


def check_beside(path: Path) -> None:
    """Check the files that SQLite reads with a database; errors as of ``open_own``."""
    for file in (path.with_name(path.name + suffix) for suffix in BESIDE):
        if os.path.lexists(file):
            _check(os.lstat(file), file)


def make_folder(folder: Path) -> None:
    """Make the folder of a database, for its owner only, unless it is there.

    A ``.exotrio`` gets a ``.gitignore``, since it lies among sources and holds keys.
    """
    if folder.exists():
        return
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    if folder.name == ".exotrio":
        (folder / ".gitignore").write_text(GITIGNORE, "utf-8")


def real_path(path: Path) -> Path:
    """Return where a database is; raise OSError for a link of somebody who does not own its folder."""
    if path.is_symlink():
        _check_owner(os.lstat(path), path)
    return path.resolve()


def _check(found: os.stat_result, path: Path) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise OSError(errno.EPERM, f"{path.name} is not a regular file")
    _check_owner(found, path)
    if found.st_mode & stat.S_IWOTH:
        raise OSError(errno.EPERM, f"{path.name} can be changed by everybody; run chmod o-w")


def _check_owner(found: os.stat_result, path: Path) -> None:
    if found.st_uid not in {0, os.geteuid(), os.stat(path.parent).st_uid}:
        raise OSError(errno.EPERM, f"{path.name} belongs to user {found.st_uid}, who does not own its folder")
