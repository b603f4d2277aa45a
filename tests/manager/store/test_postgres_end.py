"""The end of a store on PostgreSQL, whatever its server and its use cases do."""

from __future__ import annotations

import threading
from contextlib import ExitStack

import pytest
import trio

from exotrio.errors import DatabaseError
from exotrio.manager.store.opening import open_store
from exotrio.manager.store.port import Store, Transaction
from exotrio.manager.store.postgres import notices
from exotrio.manager.store.postgres import store as postgres
from tests.support.manager import gate
from tests.support.postgres import Database
from tests.support.postgres_proxy import PostgresProxy
from tests.support.stores import PATIENCE, put, until


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("exotrio-store-")]


async def test_it_ends_though_the_server_takes_statements_and_never_answers(
    database: Database, proxy: PostgresProxy, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres, "CLOSING_GRACE", 0.05)
    monkeypatch.setattr(postgres, "WRITERS", 1)
    monkeypatch.setattr(notices, "INTERVAL", 0.01)
    errors: list[DatabaseError] = []
    begun = threading.Event()

    def put_one(tx: Transaction) -> None:
        begun.set()
        put(tx, "a")

    async def write(store: Store) -> None:
        with pytest.raises(DatabaseError, match="closed before the database answered") as caught:
            await store.write(put_one)
        errors.append(caught.value)

    with trio.fail_after(PATIENCE), ExitStack() as stack:
        async with open_store(database.url_at(proxy.port)) as store:
            await store.write(put, "first")
            stack.enter_context(proxy.hold())
            nursery.start_soon(write, store)
            # The other one that waits measures the clock.
            await until(lambda: begun.is_set() and proxy.held >= 2)
        await until(lambda: errors and not threads())


async def test_what_is_committed_after_the_end_is_no_problem_of_the_program(
    database: Database, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(postgres, "CLOSING_GRACE", 0.05)

    def hold(tx: Transaction) -> None:
        tx.undo = lambda tx: None
        closed.hold()

    with gate() as closed, trio.fail_after(PATIENCE):
        async with open_store(database.url) as store, trio.open_nursery() as nursery:
            nursery.start_soon(store.write, hold)
            await trio.to_thread.run_sync(closed.wait_entered)
            nursery.cancel_scope.cancel()
        assert "did not end within" in caplog.text
        # As whoever does not get the answer to a claim, at that time.
        store.write_later(lambda tx: None)
        assert "is abandoned" in caplog.text
        closed.open()
        # Its thread and its session end then, as those of the others did.
        await until(lambda: not threads() and not database.sessions())
