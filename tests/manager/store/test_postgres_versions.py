"""The store on PostgreSQL while a newer state manager changes the tables: who goes on, and who waits."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

import psycopg
import pytest
import trio

from exotrio.errors import DatabaseError, DatabaseTooNew
from exotrio.manager.engine import managers
from exotrio.manager.engine.managers import enter, leave
from exotrio.manager.store.base import Store
from exotrio.manager.store.opening import open_store
from exotrio.manager.store.postgres import database as making
from exotrio.manager.store.postgres import start
from exotrio.manager.store.schema import OLDEST, VERSION
from exotrio.manager.store.shared_keys import SILENT_AFTER_MS
from exotrio.manager.store.transaction import Transaction
from exotrio.manager.store.view import View
from tests.support.manager import Gate, held_up, open_manager
from tests.support.postgres import Database
from tests.support.stores import put, until

PRESENT = (VERSION, OLDEST)
EXPANDED = (VERSION + 1, OLDEST)
"""One release later, next to which the present one works."""
CONTRACTED = (VERSION + 2, VERSION + 1)
"""Two releases later, next to which it does not."""
EXPAND = "ALTER TABLE store ADD COLUMN later INTEGER NOT NULL DEFAULT 0;"
CONTRACT = "ALTER TABLE store DROP COLUMN later;"


@pytest.fixture
async def store(database: Database) -> AsyncIterator[Store]:
    async with open_store(database.url) as opened:
        yield opened


@contextmanager
def release(versions: tuple[int, int], *, timeout: float = 30.0) -> Iterator[None]:
    """Let state managers that start inside the block be of a later release."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(making, "VERSION", versions[0])
        patch.setattr(making, "OLDEST", versions[1])
        patch.setattr(making, "MIGRATIONS", {VERSION: EXPAND, VERSION + 1: CONTRACT})
        patch.setattr(start, "RETRY_AFTER", 0.01)
        patch.setattr(start, "STARTUP_TIMEOUT", timeout)
        patch.setattr(start, "REPLACEMENT_TIMEOUT", timeout)
        yield


async def start_and_end(database: Database) -> None:
    async with open_store(database.url):
        pass


def stored(database: Database) -> tuple[int, int]:
    rows = {
        key: int(value) for key, value in database.execute("SELECT * FROM meta WHERE key LIKE '%version'")
    }
    return rows["version"], rows["oldest_version"]


def come(tx: Transaction, name: str, ago_ms: int = 0) -> None:
    enter(tx, name, tx.now_ms - ago_ms)


async def test_queries_and_use_cases_go_on_when_a_table_gets_a_column(
    store: Store, database: Database
) -> None:
    def read_all(view: View) -> list[str]:
        return [key for key, *_ in view.execute("SELECT * FROM meta ORDER BY key")]

    # What runs several times on a connection is prepared there, with the columns of then.
    for _ in range(3):
        keys = [
            await store.read(read_all),
            await store.read_with_deadline(read_all),
            await store.write(read_all),
        ]
    database.execute("ALTER TABLE meta ADD COLUMN later TEXT")
    assert [
        await store.read(read_all),
        await store.read_with_deadline(read_all),
        await store.write(read_all),
    ] == keys


async def test_a_manager_of_the_version_before_starts_and_works_on_expanded_tables(
    database: Database,
) -> None:
    await start_and_end(database)
    with release(EXPANDED):
        await start_and_end(database)
    async with open_manager(database.url) as older:
        condition = await older.service.store.read_with_deadline(older.service.store.describe)
    assert stored(database) == EXPANDED
    assert condition["schema_version"] == VERSION + 1, "what the tables are, not what it knows"
    assert [each["schema_version"] for each in condition["postgres"]["managers"]] == [VERSION]


async def test_tables_of_older_managers_are_removed_once_they_are_gone_and_none_can_come_again(
    store: Store, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    await store.write(come, "m-1")
    await store.write(come, "silent", SILENT_AFTER_MS + 1_000)
    with release(CONTRACTED):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(start_and_end, database)
            await until(lambda: "perhaps they end" in caplog.text)
            assert stored(database) == PRESENT
            await store.write(leave, "m-1")
    assert stored(database) == CONTRACTED
    with pytest.raises(DatabaseTooNew, match="upgrade exotrio"):
        await start_and_end(database)
    with pytest.raises(DatabaseTooNew, match="upgrade exotrio"):
        await store.write(come, "silent")


async def test_a_manager_that_would_remove_what_others_need_does_not_start(
    store: Store, database: Database
) -> None:
    await store.write(come, "m-1")
    with release(CONTRACTED, timeout=0), pytest.raises(DatabaseError, match=r"too old.* m-1 \(exotrio"):
        await start_and_end(database)
    assert stored(database) == PRESENT


async def test_a_manager_that_is_entering_stops_one_that_removes_what_it_needs(
    store: Store, database: Database
) -> None:
    def come_slowly(tx: Transaction, held: Gate) -> None:
        come(tx, "m-1")
        held.hold()

    async def start_newer() -> None:
        with pytest.raises(DatabaseError, match="m-1"):
            await start_and_end(database)

    with release(CONTRACTED, timeout=0):
        async with held_up(store.write, come_slowly) as nursery:
            nursery.start_soon(start_newer)
            await until(database.blocked)
    assert stored(database) == PRESENT


async def test_a_manager_that_comes_while_what_it_needs_is_removed_is_refused(
    store: Store, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(making, "MAX_STALL", "30s")

    async def come_late() -> None:
        with pytest.raises(DatabaseTooNew):
            await store.write(come, "m-1")

    with release(CONTRACTED):
        async with trio.open_nursery() as nursery:
            with psycopg.connect(database.url) as other:
                other.execute("LOCK TABLE store IN ACCESS SHARE MODE")
                nursery.start_soon(start_and_end, database)
                await until(database.blocked)
                nursery.start_soon(come_late)
                await until(lambda: len(database.blocked()) >= 2)
    assert stored(database) == CONTRACTED


async def test_a_migration_that_waits_for_a_long_transaction_delays_no_other(
    store: Store, database: Database, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(making, "MAX_STALL", "50ms")
    with release(EXPANDED):
        async with trio.open_nursery() as nursery:
            with psycopg.connect(database.url) as dump:
                dump.execute("LOCK TABLE store IN ACCESS SHARE MODE")
                nursery.start_soon(start_and_end, database)
                await until(lambda: "are in use" in caplog.text)
                for number in range(10):
                    await store.write(put, f"{number}")
                assert stored(database) == PRESENT
    assert stored(database) == EXPANDED


async def test_a_migration_that_never_gets_a_table_says_what_to_do(store: Store, database: Database) -> None:
    with psycopg.connect(database.url) as dump, release(EXPANDED, timeout=0):
        dump.execute("LOCK TABLE store IN ACCESS SHARE MODE")
        with pytest.raises(DatabaseError, match="are in use"):
            await start_and_end(database)


async def test_a_manager_that_was_silent_while_what_it_needs_was_removed_ends(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(managers, "SEEN_INTERVAL", 0.01)

    async def be_silent() -> None:
        async with open_manager(database.url):
            database.execute("UPDATE meta SET value = %s WHERE key = 'oldest_version'", (str(VERSION + 1),))
            await trio.sleep(30)

    with pytest.raises(BaseExceptionGroup) as caught:
        await be_silent()
    assert caught.group_contains(DatabaseTooNew, match="upgrade exotrio")
