"""What happens to a system during the middle phase of a cell.

Each is a context manager that is entered when the phase begins. It is given the cell's ``Field``: the
database, the replicas, and how long the phase lasts.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass

import psycopg
import trio

from tests.bench.arena.replicas import Replicas
from tests.support.postgres import Database

END_ACTIVE = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE datname = %s AND pid <> pg_backend_pid() AND state IN ('active', 'idle in transaction')
"""
KILLS = 2
"""Times a second that all backends are ended in which something runs."""
IDLE = 300
"""Idle connections."""
READERS = 4
READ_AGAIN = 0.1
"""Seconds between two scans of a reader."""


@dataclass(frozen=True)
class Field:
    """Where a cell takes place.

    Attributes:
        table: The one with the system's jobs.
        seconds: How long the phase lasts.
        scale: Of all times.
    """

    database: Database
    replicas: Replicas
    table: str
    seconds: float
    scale: float


@asynccontextmanager
async def nothing(field: Field) -> AsyncIterator[None]:
    """The phase is as the ones before and after it, or has a higher load."""
    yield


@asynccontextmanager
async def restart(field: Field) -> AsyncIterator[None]:
    """PostgreSQL is stopped, and started again after half of the phase."""
    server = field.database.server
    await trio.to_thread.run_sync(server.stop)

    async def start() -> None:
        await trio.sleep(field.seconds / 2)
        await trio.to_thread.run_sync(server.start)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(start)
        yield


@asynccontextmanager
async def backend_kills(field: Field) -> AsyncIterator[None]:
    """All backends of the system in which something runs are ended, two times a second."""
    database = field.database

    async def kill() -> None:
        while True:
            await trio.to_thread.run_sync(database.server.execute, END_ACTIVE, (database.name,))
            await trio.sleep(1 / KILLS)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(kill)
        yield
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def idle_connections(field: Field) -> AsyncIterator[None]:
    """Other clients hold 300 connections, and do nothing."""
    with ExitStack() as stack:

        def connect() -> None:
            for _ in range(IDLE):
                stack.enter_context(psycopg.connect(field.database.tcp_url))

        await trio.to_thread.run_sync(connect)
        yield


@asynccontextmanager
async def replica_lost(field: Field) -> AsyncIterator[None]:
    """A replica is killed, and started again when the phase is over."""
    await field.replicas.kill(0)
    yield
    await field.replicas.start(0)


@asynccontextmanager
async def replica_kills(field: Field) -> AsyncIterator[None]:
    """A replica is killed every 20 s, and started again a second later."""

    async def kill() -> None:
        while True:
            await trio.sleep(20 * field.scale)
            await field.replicas.kill(0)
            await trio.sleep(field.scale)
            with trio.CancelScope(shield=True):  # it ends by itself: a start has a deadline
                await field.replicas.start(0)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(kill)
        yield
        nursery.cancel_scope.cancel()
    if not field.replicas.is_running(0):
        await field.replicas.start(0)


@asynccontextmanager
async def idle_transaction(field: Field) -> AsyncIterator[None]:
    """A transaction that has an id stays open, so that nothing can be cleaned up."""
    with psycopg.connect(field.database.tcp_url) as connection:
        connection.execute("SELECT txid_current()")
        yield


@asynccontextmanager
async def readers(field: Field) -> AsyncIterator[None]:
    """Four clients count the table of the jobs again and again, each in one transaction."""
    scan = f"SELECT count(*) FROM {field.table}".encode()

    async def read() -> None:
        with psycopg.connect(field.database.tcp_url) as connection:
            connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
            while True:
                await trio.to_thread.run_sync(connection.execute, scan)
                await trio.sleep(READ_AGAIN)

    async with trio.open_nursery() as nursery:
        for _ in range(READERS):
            nursery.start_soon(read)
        yield
        nursery.cancel_scope.cancel()
