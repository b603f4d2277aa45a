"""The first connection of a state manager, which may be started before its database is."""

from __future__ import annotations

import logging

import psycopg
import trio
from psycopg import errors

from exotrio._wire.vocabulary import from_ms
from exotrio.errors import DatabaseError
from exotrio.manager.store.errors import UnknownCommit
from exotrio.manager.store.postgres.clock import ServerClock
from exotrio.manager.store.postgres.database import Prepared, StillUsed, prepare
from exotrio.manager.store.postgres.server import Server
from exotrio.manager.store.shared_keys import SILENT_AFTER_MS

logger = logging.getLogger("exotrio.manager.store")

STARTUP_TIMEOUT = 30.0
"""Seconds to wait for a database; whatever started this process may start it again after that."""
REPLACEMENT_TIMEOUT = from_ms(SILENT_AFTER_MS) + 5
"""Seconds to wait for older state managers to end; a killed one counts as alive for half a minute."""
RETRY_AFTER = 1.0


async def prepare_when_reachable(server: Server, clock: ServerClock) -> Prepared:
    """Do what ``prepare`` does, and wait up to ``STARTUP_TIMEOUT`` for a server that is away.

    Raises:
        DatabaseError: instead of psycopg's errors.

    Cancellation:
        Safe; the tables are made or not.
    """
    began = trio.current_time()
    is_logged = False
    while True:
        try:
            return await trio.to_thread.run_sync(prepare, server, clock, abandon_on_cancel=True)
        except StillUsed as error:
            if trio.current_time() >= began + REPLACEMENT_TIMEOUT:
                raise
            problem = f"waiting for {REPLACEMENT_TIMEOUT:.0f} s, perhaps they end: {error.what}"
        except (errors.LockNotAvailable, errors.DeadlockDetected) as error:
            if trio.current_time() >= began + STARTUP_TIMEOUT:
                raise DatabaseError(
                    f"the tables of {server.shown} are in use, so they cannot be changed for this version",
                    fix="end what holds them (a pg_dump, or a transaction that was left open), or wait"
                    " for it, and start again",
                ) from error
            problem = (
                f"the tables of {server.shown} are in use; trying for {STARTUP_TIMEOUT:.0f} s to change them"
                " for this version"
            )
        except (psycopg.Error, UnknownCommit) as error:
            passes = isinstance(error, UnknownCommit) or await trio.to_thread.run_sync(
                server.may_recover, error, abandon_on_cancel=True
            )
            if not passes or trio.current_time() >= began + STARTUP_TIMEOUT:
                raise server.unusable(error) from error
            problem = (
                f"the database {server.shown} cannot be reached yet, which is tried for"
                f" {STARTUP_TIMEOUT:.0f} s: {server.reason(error)}"
            )
        if not is_logged:
            logger.warning("%s", problem)
            is_logged = True
        await trio.sleep(RETRY_AFTER)
