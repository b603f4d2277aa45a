"""The store on PostgreSQL while a newer state manager changes the tables: who goes on, and who has to wait."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from exotrio.manager.store.opening import open_store
from exotrio.manager.store.port import Store, View
from tests.support.postgres import Database, database


@pytest.fixture
def db() -> Iterator[Database]:
    with database() as fresh:
        yield fresh


@pytest.fixture
async def store(db: Database) -> AsyncIterator[Store]:
    async with open_store(db.url) as opened:
        yield opened


async def test_queries_and_use_cases_go_on_when_a_table_gets_a_column(store: Store, db: Database) -> None:
    def read_all(view: View) -> list[str]:
        return [key for key, *_ in view.execute("SELECT * FROM meta ORDER BY key")]

    # What runs several times on a connection is prepared there, with the columns of then.
    for _ in range(3):
        keys = [await store.read(read_all), await store.look(read_all), await store.write(read_all)]
    db.execute("ALTER TABLE meta ADD COLUMN later TEXT")
    assert [await store.read(read_all), await store.look(read_all), await store.write(read_all)] == keys
