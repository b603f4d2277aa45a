"""Moving a state manager's database from SQLite to PostgreSQL, with its runs in flight."""

from __future__ import annotations

import secrets
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import trio

from exotrio._shared.database_files import real_path
from exotrio.errors import ConfigurationError, DatabaseError
from exotrio.manager.engine.leases import Terms
from exotrio.manager.service import take_over
from exotrio.manager.store.clock import monotonic_clock
from exotrio.manager.store.opening import open_store
from exotrio.manager.store.sqlite.database import MOVED, Ownership, open_writer


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """What was moved.

    Attributes:
        rows: Table to number of rows.
        renamed: The new name of the file.
        was_moved_before: An earlier call had moved it, and was killed before it renamed the file.
    """

    rows: dict[str, int]
    renamed: Path
    was_moved_before: bool


async def sqlite_to_postgres(db: str | Path, url: str, *, terms: Terms | None = None) -> Move:
    """Move a file that is not in use into an empty PostgreSQL database, then rename it.

    First the file is treated as at any start of a state manager: states that runtimes inside its last process
    held are claimable again, other claims get a new term. Everything is copied in one transaction. If this is
    killed, it can be run again.

    Args:
        url: The PostgreSQL, ``postgresql://...``.
        terms: How long claims hold, as configured for the state managers.

    Raises:
        DatabaseBusy: a state manager uses the file.
        DatabaseError: one of the databases cannot be used, or the new one is not empty; nothing was moved.
        ConfigurationError: the URL cannot be read, or the driver is not installed.

    Cancellation:
        As if killed.
    """
    try:
        # Here: the driver is an extra.
        from exotrio.manager.store.postgres.moving import move
    except ImportError as error:
        raise ConfigurationError(
            f"PostgreSQL cannot be used: {error}", fix="pip install 'exotrio[postgres]'"
        ) from error
    path = real_path(Path(db))
    renamed = path.with_name(path.name + MOVED)
    _check(path, renamed)
    # Not opened as a service, which would make or use keys: encrypted secrets are copied as they are.
    async with open_store(path) as store:
        await take_over(store, secrets.token_hex(8), monotonic_clock, terms or Terms())
    ownership = Ownership(path)
    try:
        with closing(open_writer(path)) as source:
            source.execute("BEGIN")
            copy = partial(move, source, url, lease_now=monotonic_clock())
            rows = await trio.to_thread.run_sync(copy, abandon_on_cancel=True)
        path.rename(renamed)
    finally:
        ownership.release()
    return Move(rows=rows or {}, renamed=renamed, was_moved_before=rows is None)


def _check(path: Path, renamed: Path) -> None:
    """Raise DatabaseError for a file that does not exist, or was moved before."""
    if path.suffix == MOVED:
        raise DatabaseError(f"the file {path} was moved before", fix="to move it once more, rename it first")
    if path.is_file():
        if renamed.exists():
            raise DatabaseError(
                f"there is a file {renamed}, which {path.name} would be renamed to", fix="move it away"
            )
    elif renamed.exists():
        raise DatabaseError(
            f"the database {path} was moved before",
            where=f"it was renamed to {renamed.name}",
            fix="start state managers on that PostgreSQL",
        )
    else:
        raise DatabaseError(f"there is no database {path}", fix="name the SQLite file of a state manager")
