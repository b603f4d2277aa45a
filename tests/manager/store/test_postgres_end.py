"""The end of a store on PostgreSQL, whatever its server and its use cases do."""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable
from contextlib import ExitStack, suppress
from functools import partial
from typing import Any

import httpx
import pytest
import trio

from exotrio.errors import ConfigurationError, DatabaseError
from exotrio.manager import embedded, serve
from exotrio.manager.store.base import Store
from exotrio.manager.store.effects import Effects, WithEffects
from exotrio.manager.store.opening import open_store
from exotrio.manager.store.postgres import notices
from exotrio.manager.store.postgres import store as postgres
from exotrio.manager.store.transaction import Transaction
from tests.contract.api import Api
from tests.support.helpers import open_client
from tests.support.manager import KEY, gate
from tests.support.postgres import Database
from tests.support.postgres_proxy import PostgresProxy
from tests.support.stores import TEST_TIMEOUT, put, until


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("exotrio-store-")]


async def test_it_ends_though_the_server_takes_statements_and_never_answers(
    database: Database, proxy: PostgresProxy, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
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

    with trio.fail_after(TEST_TIMEOUT), ExitStack() as stack:
        async with open_store(database.url_at(proxy.port), grace=0.05) as store:
            await store.write(put, "first")
            stack.enter_context(proxy.hold())
            nursery.start_soon(write, store)
            # The other one that waits measures the clock.
            await until(lambda: begun.is_set() and proxy.held >= 2)
        await until(lambda: errors and not threads())


async def test_what_is_committed_after_the_end_is_no_problem_of_the_program(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:

    def hold(tx: Transaction) -> WithEffects[None]:
        closed.hold()
        return WithEffects(None, Effects(undo=lambda tx: None))

    with gate() as closed, trio.fail_after(TEST_TIMEOUT):
        async with open_store(database.url, grace=0.05) as store, trio.open_nursery() as nursery:
            nursery.start_soon(store.write, hold)
            await trio.to_thread.run_sync(closed.wait_entered)
            nursery.cancel_scope.cancel()
        assert "did not end within" in caplog.text
        # As a runtime that does not get the answer to a claim, at that time.
        store.write_later(lambda tx: None)
        assert "is abandoned" in caplog.text
        closed.open()
        # Its thread and its session end then, as those of the others did.
        await until(lambda: not threads() and not database.sessions())


LONG = 9.0
"""Seconds in which a stop with a tenth of a second of grace is over, also on a busy machine."""


async def ask(call: Callable[[], Awaitable[httpx.Response]]) -> None:
    with suppress(httpx.HTTPError):  # its connection is closed by the stop
        await call()


async def test_a_stop_while_the_server_hangs_takes_no_longer_than_the_grace_lets_it(
    database: Database, proxy: PostgresProxy, caplog: pytest.LogCaptureFixture
) -> None:
    stopping = trio.Event()
    options: dict[str, Any] = {"port": 0, "db": database.url_at(proxy.port), "key": KEY}
    with trio.fail_after(TEST_TIMEOUT) as bound, ExitStack() as held:
        async with trio.open_nursery() as nursery:
            (url,) = await nursery.start(partial(serve, **options, grace=0.1, stopping=stopping))
            async with open_client(url=url, key=KEY) as client, trio.open_nursery() as asking:
                api = Api(client, "tests")
                assert (await api.runs()).status_code == 200
                held.enter_context(proxy.hold())
                for call in (api.runs, partial(api.claim, ["A"], 1), partial(api.native_claim, {"A": 1})):
                    asking.start_soon(ask, call)
                await until(lambda: proxy.held >= 3)
                stopping.set()
                bound.deadline = trio.current_time() + LONG
    assert "the last writes did not end within 0.1 s" in caplog.text


async def test_an_embedded_state_manager_takes_the_numbers_of_a_server(
    database: Database, proxy: PostgresProxy, caplog: pytest.LogCaptureFixture
) -> None:
    with trio.fail_after(TEST_TIMEOUT), ExitStack() as held:
        async with (
            embedded(database.url_at(proxy.port), grace=0.1, lease_ttl=7) as transport,
            open_client(transport=transport) as client,
        ):
            assert (await Api(client, "tests").checkup()).json()["lease_ttl_ms"] == 7_000
            held.enter_context(proxy.hold())
    assert "the last writes did not end within 0.1 s" in caplog.text
    invalid: list[dict[str, Any]] = [{"grace": 0}, {"lease_ttl": 0}]
    for options in invalid:
        with pytest.raises(ConfigurationError, match=f"{next(iter(options))} is 0"):
            async with embedded(":memory:", **options):
                pass
