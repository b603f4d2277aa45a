"""A state manager in memory; a database on PostgreSQL of a test's own, and a proxy before it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import trio

from tests.support import postgres
from tests.support.manager import Manager, open_manager
from tests.support.postgres import Database
from tests.support.postgres_proxy import PostgresProxy


@pytest.fixture
async def manager() -> AsyncIterator[Manager]:
    async with open_manager() as opened:
        yield opened


@pytest.fixture
def database() -> Iterator[Database]:
    with postgres.database() as fresh:
        yield fresh


@pytest.fixture
def empty_database() -> Iterator[Database]:
    with postgres.empty_database() as empty:
        yield empty


@pytest.fixture
def engine() -> str:
    """The engine of tests that are not run on ``both_engines``."""
    return "SQLite"


@pytest.fixture
def db(engine: str, request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A new database on the engine that a row of the test names."""
    if engine == "SQLite":
        return str(tmp_path / "state.db")
    database: Database = request.getfixturevalue("database")
    return database.url


@pytest.fixture
async def proxy(database: Database, nursery: trio.Nursery) -> PostgresProxy:
    proxy = PostgresProxy(database.server.port)
    await nursery.start(proxy.serve)
    return proxy
