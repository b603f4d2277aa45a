"""The lock file beside a SQLite database: which process has the database open, and where it serves it.

Here, since who only looks for a state manager need not load one.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from exotrio._util.own_files import open_own, real_path


def lock_of(path: Path) -> Path:
    """Return the lock file of a database: locked by who has it open, whose id is its first line."""
    return path.with_name(path.name + ".lock")


def announce_url(path: Path, url: str) -> None:
    """Tell other processes of this user where the owner of a database file, which is this process, serves it.

    It is the second line of the lock file. If it cannot be written, they do not learn it.
    """
    with suppress(OSError):
        fd = open_own(lock_of(path), os.O_WRONLY | os.O_APPEND)
        try:
            os.write(fd, f"{url}\n".encode())
        finally:
            os.close(fd)


def url_of_owner(path: Path, *, checks: bool = False) -> str | None:
    """Return where the process that has a database file open serves it; None if it does not.

    With ``checks`` also if that process is gone. The lock is not tried: whoever wants the file just now would
    find it locked.
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


def _is_alive(process: str) -> bool:
    try:
        os.kill(int(process), 0)
    except (ValueError, OverflowError, ProcessLookupError):
        return False
    except OSError:
        pass  # it is another user's
    return True
