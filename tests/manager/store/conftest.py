"""A new database on each engine, and a store that is open for the length of a test."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from exotrio.manager.store.base import Store
from exotrio.manager.store.opening import open_store
from exotrio.manager.store.postgres import waiting as postgres_waiting
from tests.support.stores import ENGINES, new_database


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def db(engine: str, tmp_path: Path) -> Iterator[str]:
    with ExitStack() as stack:
        yield new_database(engine, tmp_path, stack)


@pytest.fixture
def quick_polling(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let claims that wait on PostgreSQL look every few milliseconds, though nothing was announced."""
    monkeypatch.setattr(postgres_waiting, "MIN_POLL", 0.01)
    monkeypatch.setattr(postgres_waiting, "MAX_POLL", 0.02)


@pytest.fixture
async def store(db: str) -> AsyncIterator[Store]:
    async with open_store(db) as opened:
        yield opened
