"""The store on PostgreSQL, where the server or its settings are not as one would wish."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
import traceback
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest
import trio

from exotrio.errors import ConfigurationError, DatabaseError
from exotrio.manager.store import base, tallies
from exotrio.manager.store.base import Store
from exotrio.manager.store.effects import Effects, WithEffects
from exotrio.manager.store.errors import NotCommitted, UnknownCommit
from exotrio.manager.store.opening import open_store
from exotrio.manager.store.postgres import notices, readers, writes
from exotrio.manager.store.postgres import store as postgres
from exotrio.manager.store.postgres.server import Server
from exotrio.manager.store.transaction import Transaction
from exotrio.manager.store.view import View
from tests.support.manager import gate, open_manager
from tests.support.postgres import PASSWORD, Database
from tests.support.postgres_proxy import PostgresProxy
from tests.support.stores import TEST_TIMEOUT, get, keys, put, put_graph, put_item, remove, until

MINUTE = 60.0
UNREADABLE = "postgresql://user:secret%zz@host/db"


@pytest.fixture
async def store(database: Database) -> AsyncIterator[Store]:
    async with open_store(database.url) as opened:
        yield opened


def setting(view: View, name: str) -> str:
    row = view.row("SELECT current_setting(?) AS value", (name,))
    assert row is not None
    return str(row["value"])


async def test_a_password_that_the_server_repeats_is_masked(database: Database) -> None:
    async with open_store(database.tcp_url) as store:
        for way in (store.write, store.read, store.read_with_deadline):
            with pytest.raises(DatabaseError, match="invalid input syntax") as caught:
                await way(lambda view: view.execute(f"SELECT CAST('{PASSWORD}' AS BIGINT)"))
            assert PASSWORD not in str(caught.value)


def test_no_traceback_shows_the_password_of_a_url_that_cannot_be_read() -> None:
    with pytest.raises(ConfigurationError) as caught:
        Server(UNREADABLE)
    assert "secret" not in "".join(traceback.format_exception(caught.value))


@pytest.mark.usefixtures("quick_polling")
async def test_use_cases_wait_on_though_runs_fail_while_the_server_is_away(
    database: Database,
    proxy: PostgresProxy,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(writes, "RETRY_FOR", 0.01)
    looks = []

    def take(tx: Transaction) -> WithEffects[str | None]:
        looks.append(tx.waited)
        return WithEffects("item" if remove(tx, "item") else None, Effects(waits_for={"topic": MINUTE}))

    selected = []

    async def wait() -> None:
        selected.append(await opened.write_once_ready(MINUTE, take))

    with trio.fail_after(TEST_TIMEOUT):
        async with open_store(database.url_at(proxy.port)) as opened, trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            await until(lambda: True in looks)
            proxy.refuses = True
            proxy.cut()
            await until(lambda: "could not be written" in caplog.text)
            proxy.refuses = False
            database.execute("INSERT INTO store VALUES (0, 'item', '')")
    assert selected == ["item"]


async def test_a_use_case_that_finds_nothing_gets_the_error_of_its_first_commit_at_once(store: Store) -> None:
    def fail(tx: Transaction) -> WithEffects[None]:
        # Its result is read only by the commit.
        tx.execute("SELECT 1 / CAST(? AS INTEGER)", (0,))
        return WithEffects(None, Effects(waits_for={"topic": MINUTE}))

    with trio.fail_after(TEST_TIMEOUT / 2), pytest.raises(DatabaseError, match="division by zero"):
        await store.write_once_ready(MINUTE, fail)


async def test_a_use_case_that_waited_does_not_wait_on_if_its_commit_may_have_happened(
    database: Database, proxy: PostgresProxy
) -> None:
    has_looked = trio.Event()
    token = trio.lowlevel.current_trio_token()

    def take(tx: Transaction) -> WithEffects[str | None]:
        taken = remove(tx, "item")
        if taken:
            connection: Any = tx._connection
            proxy.cut_at_commit("after", connection._socket.getsockname()[1])
        token.run_sync_soon(has_looked.set)
        return WithEffects("item" if taken else None, Effects(waits_for={"topic": MINUTE}))

    async def give() -> None:
        await has_looked.wait()
        await opened.write(put_item, "item", "topic")

    with trio.fail_after(TEST_TIMEOUT / 2):
        async with open_store(database.url_at(proxy.port)) as opened, trio.open_nursery() as nursery:
            nursery.start_soon(give)
            with pytest.raises(UnknownCommit):
                await opened.write_once_ready(MINUTE, take)


async def test_a_connection_too_many_fails_nothing_that_the_other_connections_can_do(
    database: Database,
) -> None:
    limit = f"ALTER DATABASE {database.name} CONNECTION LIMIT"
    try:
        async with open_store(database.url) as store:
            await until(lambda: len(database.sessions()) == 2)  # they tell other managers, and hear them
            await store.write(put, "first")
            database.execute(f"{limit} {len(database.sessions())}")
            async with trio.open_nursery() as nursery:
                for number in range(50):
                    nursery.start_soon(store.write, put, str(number))
            await store.measure_clock()
    finally:
        database.execute(f"{limit} -1")
    assert database.execute("SELECT count(*) FROM store") == [(51,)]


async def test_the_result_of_a_cancelled_use_case_is_undone_if_its_commit_may_have_happened(
    database: Database, proxy: PostgresProxy
) -> None:
    running, go = threading.Event(), threading.Event()

    def take(tx: Transaction) -> WithEffects[None]:
        put(tx, "a", "taken")
        proxy.cut_at_commit("after", tx._connection._socket.getsockname()[1])  # type: ignore[attr-defined]
        running.set()
        go.wait()
        return WithEffects(None, Effects(undo=lambda tx: remove(tx, "a")))

    with trio.fail_after(TEST_TIMEOUT):
        async with open_store(database.url_at(proxy.port)) as store:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(store.write, take)
                await trio.to_thread.run_sync(running.wait)
                nursery.cancel_scope.cancel()
            go.set()
            await until(lambda: proxy.cuts == 1)
        assert database.execute("SELECT * FROM store") == []


async def test_counts_whose_commit_is_unknown_are_not_written_again(
    database: Database, proxy: PostgresProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base, "TALLY_INTERVAL_MS", 0)

    def end(tx: Transaction, times: int) -> WithEffects[None]:
        minute = tallies.minute_of(tx.now_ms)
        return WithEffects(None, Effects(tally=Counter({(1, 7, "SUCCESS", 3, minute): times})))

    def write(*args: object) -> None:
        tallies_write(*args)  # type: ignore[arg-type]
        monkeypatch.setattr(tallies, "write", tallies_write)
        proxy.cut_at_commit("after")

    def count(view: View) -> int:
        row = view.row("SELECT CAST(coalesce(sum(count), 0) AS BIGINT) AS n FROM trends WHERE width = 1")
        assert row is not None
        return int(row["n"])

    tallies_write = tallies.write
    with trio.fail_after(TEST_TIMEOUT):
        async with open_store(database.url_at(proxy.port)) as store:
            await store.write(put_graph)
            monkeypatch.setattr(tallies, "write", write)
            await store.write(end, 1)
            await until(lambda: proxy.cuts == 1)
            await store.write(end, 10)
        async with open_store(database.url) as store:
            assert await store.read(count) == 11


async def test_settings_of_the_role_do_not_end_sessions_that_listen(database: Database) -> None:
    database.execute(f"ALTER DATABASE {database.name} SET idle_session_timeout = '50ms'")
    async with open_store(database.url) as store:
        for way in (store.write, store.read, store.read_with_deadline):
            assert await way(setting, "idle_session_timeout") == "0"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("statement_timeout", "30s"),
        ("lock_timeout", "2s"),
        ("idle_in_transaction_session_timeout", "10s"),
        ("plan_cache_mode", "force_generic_plan"),
        ("enable_seqscan", "off"),
        ("random_page_cost", "1"),
        ("jit", "off"),
    ],
)
async def test_use_cases_have_separate_limits_and_plans(store: Store, name: str, value: str) -> None:
    assert await store.write(setting, name) == value


async def test_a_use_case_that_goes_on_after_a_statement_failed_is_not_said_to_be_committed(
    store: Store,
) -> None:
    def go_on(tx: Transaction) -> None:
        put(tx, "a")
        with suppress(psycopg.Error):
            tx.row("SELECT * FROM absent")

    with pytest.raises(DatabaseError, match="a statement before it failed"):
        await store.write(go_on)
    assert await store.read(keys) == []


async def test_a_listening_session_without_notifications_is_replaced(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notices, "INTERVAL", 0.05)
    monkeypatch.setattr(notices, "MAX_SILENCE", 0.5)

    def listening() -> list[int]:
        where = "datname = current_database() AND query LIKE 'LISTEN%'"
        return [pid for (pid,) in database.execute(f"SELECT pid FROM pg_stat_activity WHERE {where}")]

    async with open_store(database.url):
        await until(listening)
        silent = listening()[0]
        os.kill(silent, signal.SIGSTOP)
        try:
            await until(lambda: set(listening()) - {silent})
        finally:
            os.kill(silent, signal.SIGCONT)


@pytest.mark.parametrize("way", ["read", "read_with_deadline"])
async def test_a_query_waits_a_limited_time_for_a_table_that_is_rewritten(store: Store, way: str) -> None:
    assert await getattr(store, way)(setting, "lock_timeout") == "4s"


async def test_an_old_failed_query_does_not_end_the_retries_of_a_later_one(
    store: Store, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    await store.write(put, "a", "1")
    with pytest.raises(DatabaseError, match="absent"):
        await store.read(lambda view: view.row("SELECT * FROM absent"))
    later = SimpleNamespace(monotonic=lambda: time.monotonic() + 2 * writes.RETRY_FOR, sleep=time.sleep)
    monkeypatch.setattr(readers, "time", later)
    sessions = []

    def read(view: View) -> str | None:
        sessions.append(1)
        if len(sessions) == 1:
            database.terminate()
        return get(view, "a")

    assert await store.read(read) == "1"
    assert len(sessions) == 2


def cancel_oneself(view: View) -> None:
    view.row("SELECT pg_cancel_backend(pg_backend_pid()), pg_sleep(600)")


async def test_a_query_that_an_administrator_cancels_runs_again(store: Store) -> None:
    runs = []

    def read(view: View) -> list[str]:
        runs.append(1)
        if len(runs) == 1:
            cancel_oneself(view)
        return keys(view)

    await store.write(put, "a")
    assert await store.read(read) == ["a"]
    assert len(runs) == 2


async def test_a_query_that_always_fails_ends_though_others_succeed_meanwhile(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    # More than the longest pause between two tries.
    monkeypatch.setattr(readers, "RETRY_FOR", 0.6)

    def read(view: View) -> None:
        trio.from_thread.run(opened.read, keys)
        cancel_oneself(view)

    with trio.fail_after(TEST_TIMEOUT):
        async with open_store(database.url) as opened:
            with pytest.raises(DatabaseError, match="could not be read"):
                await opened.read(read)


async def test_an_outage_in_which_nothing_can_be_read_is_logged_when_it_begins_and_when_it_ends(
    database: Database,
    proxy: PostgresProxy,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(readers, "RETRY_FOR", 0.0)
    caplog.set_level(logging.INFO, logger="exotrio.manager")

    async def status() -> int:
        return (await manager.remote.runs()).status_code

    with trio.fail_after(TEST_TIMEOUT):
        async with open_manager(database.url_at(proxy.port)) as manager:
            assert await status() == 200
            proxy.refuses = True
            proxy.cut()
            assert [await status() for _ in range(10)] == [503] * 10
            proxy.refuses = False
            while await status() != 200:  # noqa: ASYNC110
                await trio.sleep(0.1)
            assert await status() == 200
    lines = [(each.levelname, each.getMessage()) for each in caplog.records if "reading" in each.getMessage()]
    # A read that was answered before the cut may end after the first failure: it seems to work once more.
    assert [level for level, _ in lines] in (["ERROR", "INFO"], ["ERROR", "INFO"] * 2), lines
    assert "reading the database fails" in lines[0][1]
    assert "reading the database works again" in lines[-1][1]


async def test_commits_that_fail_are_logged_when_that_begins_and_when_it_ends(
    database: Database,
    proxy: PostgresProxy,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(writes, "RETRY_FOR", 0.0)
    monkeypatch.setattr(postgres, "WRITERS", 1)
    caplog.set_level(logging.INFO, logger="exotrio.manager.store")
    async with open_store(database.url_at(proxy.port)) as store:
        await store.write(put, "a")
        proxy.refuses = True
        proxy.cut()
        for _ in range(10):
            with pytest.raises(DatabaseError, match="could not be written"):
                await store.write(put, "b")
        proxy.refuses = False
        for key in ("c", "d"):
            await store.write(put, key)
    lines = [(each.levelname, each.getMessage()) for each in caplog.records]
    assert [level for level, _ in lines if level != "ERROR"] == ["INFO"], lines
    assert lines[-1] == ("INFO", "the database can be written again")
    assert len({text for _, text in lines}) == len(lines), "each reason is logged once"


async def test_no_query_comes_after_one_that_was_cancelled_on_its_session(database: Database) -> None:
    sessions: list[int] = []

    def hold(view: View) -> None:
        sessions.append(view.execute("SELECT pg_backend_pid()").fetchone()[0])
        closed.hold()

    with gate() as closed:
        async with open_store(database.url) as store:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(store.read, hold)
                await trio.to_thread.run_sync(closed.wait_entered)
                nursery.cancel_scope.cancel()
            closed.open()
            await until(lambda: sessions[0] not in database.sessions())


async def test_a_server_that_is_read_only_for_a_while_is_read_and_then_written_again(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writes, "RETRY_FOR", 0.1)
    monkeypatch.setattr(postgres, "WRITERS", 1)
    async with open_store(database.url) as store:
        await store.write(put, "a")
        # As a primary that became a standby.
        database.execute(f"ALTER DATABASE {database.name} SET default_transaction_read_only = on")
        database.terminate()
        with pytest.raises(NotCommitted, match="read-only"):
            await store.write(put, "b")
        assert await store.read(keys) == ["a"]
        database.server.execute(f"ALTER DATABASE {database.name} RESET default_transaction_read_only")
        await store.write(put, "c")
        assert await store.read(keys) == ["a", "c"]


async def test_use_cases_that_wait_for_a_row_delay_none_that_does_not_need_it(database: Database) -> None:
    changed: list[str] = []

    def change(tx: Transaction) -> None:
        tx.execute("UPDATE store SET value = value || 'x' WHERE key = 'hot'")

    async def hot() -> None:
        await opened.write(change)
        changed.append("hot")

    async with open_store(database.url) as opened, trio.open_nursery() as nursery:
        await opened.write(put, "hot")
        with psycopg.connect(database.url) as holder:
            holder.execute("SELECT * FROM store WHERE key = 'hot' FOR UPDATE")
            for _ in range(postgres.WRITERS):
                nursery.start_soon(hot)
            await until(lambda: len(database.blocked()) == postgres.WRITERS)
            await opened.write(put, "other")
            assert changed == []
        # No transaction had to give up before another one could go on.
        await until(lambda: len(changed) == postgres.WRITERS)
