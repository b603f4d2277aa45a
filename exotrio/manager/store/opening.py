"""Opening a database by its name (a file, in memory, or on PostgreSQL), and the first writes to it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import TypeVar

import trio

from exotrio._util.database_url import is_database_url
from exotrio.errors import ConfigurationError
from exotrio.manager.store.base import CLOSING_GRACE, Store
from exotrio.manager.store.catalog import MAX_INPUTS
from exotrio.manager.store.clock import Clock, wall_clock
from exotrio.manager.store.errors import NotCommitted
from exotrio.manager.store.sqlite import store as sqlite

T = TypeVar("T")

START_TIMEOUT = 30.0
"""Seconds; whatever started this process may start it again after that."""
START_PAUSE = 0.5


def open_store(
    db: str | Path,
    *,
    clock: Clock = wall_clock,
    lease_clock: Clock | None = None,
    max_inputs: int = MAX_INPUTS,
    grace: float = CLOSING_GRACE,
) -> AbstractAsyncContextManager[Store]:
    """Open a database until the block ends.

    Args:
        db: A file, ``":memory:"``, or the URL of a database on PostgreSQL (``postgresql://...``).
        clock: Gives the time in Unix milliseconds. Defaults to this machine's wall clock; on PostgreSQL, to
            the server's.
        lease_clock: Gives the milliseconds that leases are counted in, in a file or in memory. Defaults to
            this process's monotonic clock; on PostgreSQL, it is ``clock``.
        max_inputs: Maximum of bytes of the inputs of a state.
        grace: Seconds that the last writes may take at the end, before they are abandoned. Defaults to 5.

    Raises:
        ConfigurationError: the URL cannot be read, or the driver is not installed.
        DatabaseError: the database cannot be used.
    """
    if not is_database_url(db):
        return sqlite.open_store(db, clock=clock, lease_clock=lease_clock, max_inputs=max_inputs, grace=grace)
    try:
        # Only here: the driver is an extra.
        from exotrio.manager.store.postgres import store as postgres
    except ImportError as error:
        raise ConfigurationError(
            f"PostgreSQL cannot be used: {error}", fix="pip install 'exotrio[postgres]'"
        ) from error
    return postgres.open_store(str(db), clock=clock, max_inputs=max_inputs, grace=grace)


async def write_at_start(store: Store, write: Callable[[], Awaitable[T]]) -> T:
    """Commit a use case that may happen twice, and return its value.

    If a shared database is lost at the commit, ``write`` is repeated, for up to ``START_TIMEOUT`` seconds.
    """
    deadline = trio.current_time() + START_TIMEOUT
    while True:
        try:
            return await write()
        except NotCommitted:
            if not store.is_shared or trio.current_time() >= deadline:
                raise
        await trio.sleep(START_PAUSE)
