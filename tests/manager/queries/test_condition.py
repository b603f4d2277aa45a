"""What a checkup shows of a database on PostgreSQL, with real faults."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import psycopg

from exotrio._version import VERSION
from exotrio._wire.checkup import PostgresState
from exotrio.manager.engine.managers import enter
from exotrio.manager.store.base import Store
from exotrio.manager.store.opening import open_store
from exotrio.manager.store.schema import VERSION as SCHEMA_VERSION
from exotrio.manager.store.transaction import Transaction
from tests.support.postgres import Database, database


@asynccontextmanager
async def opened() -> AsyncIterator[tuple[Store, Database]]:
    with database() as fresh:
        async with open_store(fresh.url) as store:
            yield store, fresh


async def condition(store: Store) -> PostgresState:
    described = await store.read_with_deadline(store.describe)
    assert (described["in_memory"], described["schema_version"]) == (False, SCHEMA_VERSION)
    assert described["size"] > 100_000
    return PostgresState.model_validate(described["postgres"])


async def test_a_healthy_database_has_no_findings() -> None:
    async with opened() as (store, fresh):
        shown = await condition(store)
        assert shown.version.split(".")[0] == str(fresh.execute("SHOW server_version_num")[0][0])[:2]
        assert 1 <= shown.connections < shown.max_connections
        assert (shown.switched_off, shown.slots) == ([], [])
        assert {table.name for table in shown.tables} == {"states", "runs", "counts", "unite_counters"}


async def test_a_session_that_keeps_a_snapshot_is_named_with_what_it_does() -> None:
    async with opened() as (store, fresh):
        with psycopg.connect(fresh.url, application_name="a forgotten console") as console:
            console.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
            console.execute("SELECT 1 FROM states")
            pid = console.info.backend_pid
            for _ in range(3):
                fresh.execute("INSERT INTO discarded VALUES ((SELECT count(*) FROM discarded))")
            horizon = (await condition(store)).horizon
            assert horizon is not None
            session = f"session {pid} of exotrio (a forgotten console, idle in transaction)"
            assert (horizon.holder, horizon.transactions >= 3) == (session, True)
            assert horizon.held_for is not None
            assert horizon.held_for >= 0
        assert (await condition(store)).horizon is None


async def test_a_replication_slot_is_shown_with_the_size_of_its_log() -> None:
    async with opened() as (store, fresh):
        fresh.execute("SELECT pg_create_physical_replication_slot('backup', true)")
        try:
            (slot,) = (await condition(store)).slots
        finally:
            fresh.execute("SELECT pg_drop_replication_slot('backup')")
        assert (slot.name, slot.active) == ("backup", False)
        assert slot.kept >= 0


async def test_a_protection_that_is_off_is_named() -> None:
    with database() as fresh:
        fresh.execute(f"ALTER DATABASE {fresh.name} SET synchronous_commit = off")
        async with open_store(fresh.url) as store:
            assert (await condition(store)).switched_off == ["synchronous_commit"]


async def test_the_state_managers_of_a_database_are_shown_with_their_versions() -> None:
    def both_enter(tx: Transaction) -> None:
        enter(tx, "m-1", tx.now_ms - 40_000)
        enter(tx, "m-2", tx.now_ms)

    async with opened() as (store, _):
        await store.write(both_enter)
        one, two = (await condition(store)).managers
        assert (one.id, one.version, two.id, two.version) == ("m-1", VERSION, "m-2", VERSION)
        assert (one.schema_version, two.schema_version) == (SCHEMA_VERSION, SCHEMA_VERSION)
        assert abs(two.clock_ahead) < 5, "both are on this machine"
        assert one.seen_ago >= 40
        assert two.seen_ago < 40
