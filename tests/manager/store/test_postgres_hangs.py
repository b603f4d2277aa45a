"""The store on a PostgreSQL that hangs: suspended, it keeps its connections open and answers nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import psycopg
import pytest
import trio

from exotrio.errors import DatabaseError
from exotrio.manager.store.errors import NotCommitted, UnknownCommit
from exotrio.manager.store.opening import open_store
from exotrio.manager.store.postgres import connection, readers, server, start, store, writes
from exotrio.manager.store.transaction import Transaction
from tests.support.manager import open_manager
from tests.support.postgres import Database
from tests.support.postgres_proxy import PostgresProxy
from tests.support.stores import TEST_TIMEOUT, get, put, until

SILENT = "did not answer within"


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a server that is silent for a second count as lost, and nothing be tried again after that."""
    monkeypatch.setattr(connection, "STATEMENT_LIMIT", 0.5)
    monkeypatch.setattr(connection, "ANSWER_MARGIN", 0.5)
    monkeypatch.setattr("exotrio.manager.store.readers.DEADLINE", 0.5)
    monkeypatch.setattr(readers, "RETRY_FOR", 0.0)
    monkeypatch.setattr(writes, "RETRY_FOR", 0.0)
    monkeypatch.setattr(store, "WRITERS", 1)


@pytest.fixture
def hang(database: Database) -> Iterator[ExitStack]:
    """What is entered here ends with the test."""
    with ExitStack() as stack:
        yield stack


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("way", ["write", "read", "read_with_deadline"])
async def test_requests_that_wait_for_a_hanging_server_fail_and_later_ones_succeed(
    database: Database, hang: ExitStack, way: str
) -> None:
    with trio.fail_after(TEST_TIMEOUT):
        async with open_store(database.url) as opened:
            await opened.write(put, "a", "1")
            run = getattr(opened, way)
            assert await run(get, "a") == "1"  # from here on it has a connection
            hang.enter_context(database.server.suspended())
            with pytest.raises(DatabaseError, match=SILENT) as caught:
                await run(get, "a")
            assert not isinstance(caught.value, UnknownCommit)
            hang.close()
            assert await run(get, "a") == "1"


@pytest.mark.usefixtures("impatient")
async def test_a_statement_that_is_too_large_to_be_sent_to_a_server_that_hangs_fails(
    database: Database, hang: ExitStack
) -> None:
    def put_much(tx: Transaction) -> None:
        hang.enter_context(database.server.suspended())
        put(tx, "a", "x" * 50_000_000)  # more than the buffers of a socket hold

    with trio.fail_after(TEST_TIMEOUT):
        async with open_store(database.url) as opened:
            await opened.write(put, "b")
            with pytest.raises(NotCommitted, match=SILENT):
                await opened.write(put_much)
            hang.close()


@pytest.mark.usefixtures("impatient")
async def test_whether_a_commit_happened_that_a_server_does_not_answer_is_unknown(
    database: Database, hang: ExitStack
) -> None:
    def put_and_suspend(tx: Transaction) -> None:
        put(tx, "a", "1")
        assert get(tx, "a") == "1"  # all but the COMMIT is answered
        hang.enter_context(database.server.suspended())

    with trio.fail_after(TEST_TIMEOUT):
        async with open_store(database.url) as opened:
            with pytest.raises(UnknownCommit):
                await opened.write(put_and_suspend)
            hang.close()


async def test_a_connection_that_gets_no_answer_fails(
    database: Database, proxy: PostgresProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "CONNECT_TIMEOUT", 0.5)
    connected = psycopg.Connection.connect

    def connect(*args: Any, **kwargs: Any) -> object:
        driver = connected(*args, **kwargs)
        trio.from_thread.run_sync(held.enter_context, proxy.hold())
        return driver

    monkeypatch.setattr(psycopg.Connection, "connect", connect)
    no_answer = pytest.raises(psycopg.OperationalError, match=SILENT)
    with ExitStack() as held, trio.fail_after(TEST_TIMEOUT), no_answer:
        await trio.to_thread.run_sync(server.Server(database.url_at(proxy.port)).connect)


async def test_a_start_continues_once_a_server_that_hung_meanwhile_continues(
    database: Database, hang: ExitStack, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(server, "CONNECT_TIMEOUT", 0.5)
    monkeypatch.setattr(start, "RETRY_AFTER", 0.01)
    connected, attempts = psycopg.Connection.connect, []

    def connect(*args: object, **kwargs: object) -> object:
        driver = connected(*args, **kwargs)  # type: ignore[arg-type]
        attempts.append(driver)
        if len(attempts) == 1:
            hang.enter_context(database.server.suspended())
        return driver

    async def go_on() -> None:
        await until(lambda: "cannot be reached yet" in caplog.text)
        hang.close()

    monkeypatch.setattr(psycopg.Connection, "connect", connect)
    with trio.fail_after(TEST_TIMEOUT):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(go_on)
            async with open_store(database.url) as opened:
                await opened.write(put, "a")
    assert SILENT in caplog.text


async def test_a_transaction_may_give_its_statements_more_time_than_others_have(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "ANSWER_MARGIN", 0.1)

    def run(limit: float) -> str:
        own = server.Server(database.url).connect()
        try:
            monkeypatch.setattr(connection, "STATEMENT_LIMIT", 0.1)
            own.begin()
            own.limit_statements(limit)
            row = own.execute("SELECT pg_sleep(0.5), current_setting('statement_timeout')").fetchone()
            own.commit()
            assert row is not None
            return str(row[1])
        finally:
            own.close()

    assert await trio.to_thread.run_sync(run, 90.0) == "90s"


async def test_while_the_server_hangs_a_state_manager_lives_and_is_not_ready(
    database: Database, hang: ExitStack
) -> None:
    async with open_manager(database.url) as manager:
        client = manager.remote.client
        assert (await client.get("/readyz")).status_code == 200
        hang.enter_context(database.server.suspended())

        async def turns(ready: int) -> None:
            # The last commit proves for a moment that it can be written.
            while (await client.get("/readyz")).status_code != ready:  # noqa: ASYNC110
                await trio.sleep(0.1)

        with trio.fail_after(TEST_TIMEOUT):
            await turns(503)
            assert (await client.get("/livez")).status_code == 200
            hang.close()
            await turns(200)
