"""The store on PostgreSQL: use cases that wait, for this manager or another one, and life behind a pooler."""

from __future__ import annotations

import math
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from exotrio.manager.store.base import Store
from exotrio.manager.store.effects import Effects, WithEffects
from exotrio.manager.store.opening import open_store
from exotrio.manager.store.postgres import waiting as postgres_waiting
from exotrio.manager.store.postgres.store import WRITERS
from exotrio.manager.store.transaction import Transaction
from exotrio.manager.store.view import View
from tests.support.manager import gate
from tests.support.postgres import Database, pooler
from tests.support.stores import TEST_TIMEOUT, keys, put, until

LONG = 600.0
"""Seconds that no test waits."""


@pytest.fixture
def no_polling(monkeypatch: pytest.MonkeyPatch) -> None:
    """A waiting claim looks only if it is woken."""
    monkeypatch.setattr(postgres_waiting, "MIN_POLL", LONG)
    monkeypatch.setattr(postgres_waiting, "MAX_POLL", LONG)


@asynccontextmanager
async def listening(database: Database) -> AsyncIterator[Store]:
    """Open a store that hears what others announce, and tells them what it does, when the block begins."""
    async with open_store(database.url) as opened:
        # When it begins to listen, everything looks once, out of order.
        await until(lambda: opened.written)
        yield opened


@pytest.fixture
async def store(database: Database, no_polling: None) -> AsyncIterator[Store]:
    async with listening(database) as opened:
        yield opened


def offer(tx: Transaction, topic: str, *keys: str) -> WithEffects[None]:
    """Put down what can be taken, and announce it."""
    tx.insert("meta", ("key", "value"), [(f"{topic} {key}", key) for key in sorted(keys)])
    return WithEffects(None, Effects(announced={topic}))


def take(tx: Transaction, *topics: str) -> WithEffects[str | None]:
    effects = Effects(waits_for=dict.fromkeys(topics, math.inf))
    for topic in topics:
        row = tx.row(
            "DELETE FROM meta WHERE key = (SELECT key FROM meta WHERE key LIKE ? ORDER BY key LIMIT 1"
            f"{tx.skip_locked('meta')}) RETURNING value",
            (f"{topic} %",),
        )
        if row is not None:
            return WithEffects(row["value"], effects)
    return WithEffects(None, effects)


def setting(view: View, name: str) -> str:
    row = view.row("SELECT current_setting(?) AS value", (name,))
    assert row is not None
    value: str = row["value"]
    return value


async def all_writers_met(store: Store) -> None:
    """Return when each use case that ran before has told its task what it found."""
    barrier = threading.Barrier(WRITERS)

    def meet(tx: Transaction) -> None:
        tx.row("SELECT 1")  # on a session that was ended it would run, and meet the others, a second time
        barrier.wait()

    async with trio.open_nursery() as nursery:
        for _ in range(WRITERS):
            nursery.start_soon(store.write, meet)


class Takers:
    """Tasks that wait until they can take something.

    Attributes:
        took: Who took what, in the order in which they did.
        looks: How often they looked.
    """

    def __init__(self, store: Store, nursery: trio.Nursery) -> None:
        self._store = store
        self._nursery = nursery
        self.took: list[tuple[str, str | None]] = []
        self.looks = 0
        self._some = trio.Event()

    async def start(self, name: str, *topics: str) -> trio.CancelScope:
        """Start one that waits by the time this returns."""
        scope = trio.CancelScope()
        before = self.looks
        self._nursery.start_soon(self._take, name, topics, scope)
        await until(lambda: self.looks != before)
        await all_writers_met(self._store)
        await trio.testing.wait_all_tasks_blocked()
        return scope

    async def _take(self, name: str, topics: tuple[str, ...], scope: trio.CancelScope) -> None:
        def try_to_take(tx: Transaction) -> WithEffects[str | None]:
            offer_taken = take(tx, *topics)
            self.looks += 1
            return offer_taken

        with scope:
            self.took.append((name, await self._store.write_once_ready(LONG, try_to_take)))
            self._some.set()

    async def taken(self, count: int) -> list[tuple[str, str | None]]:
        """Return what was taken once there are so many."""
        with trio.fail_after(TEST_TIMEOUT):
            while len(self.took) < count:
                self._some = trio.Event()
                await self._some.wait()
        return self.took


@pytest.fixture
def takers(store: Store, nursery: trio.Nursery) -> Takers:
    return Takers(store, nursery)


async def test_the_first_that_waits_gets_what_is_announced_until_nothing_is_left(
    store: Store, takers: Takers
) -> None:
    for name in ("first", "second", "third", "fourth"):
        await takers.start(name, "topic")
    looks = takers.looks
    await store.write(offer, "topic", "a", "b")
    assert await takers.taken(2) == [("first", "a"), ("second", "b")]
    # Until the third has looked in vain. While it looks, what is announced is for the one that reads it.
    await trio.testing.wait_all_tasks_blocked()
    await all_writers_met(store)
    await store.write(offer, "topic", "c")
    assert await takers.taken(3) == [("first", "a"), ("second", "b"), ("third", "c")]
    # Of those that waited each was asked when the one before had found something, and no other.
    await store.write(offer, "topic", "d")
    assert (await takers.taken(4))[3] == ("fourth", "d")
    assert takers.looks - looks <= 6


async def test_a_slow_first_run_costs_no_use_case_its_turn(
    store: Store, takers: Takers, nursery: trio.Nursery
) -> None:
    took: list[str] = []

    def look_slowly(tx: Transaction) -> WithEffects[str | None]:
        offer_taken = take(tx, "topic")
        if not tx.waited:
            closed.hold()
        return offer_taken

    async def wait(name: str, try_to_take: Callable[[Transaction], WithEffects[str | None]]) -> None:
        await store.write_once_ready(LONG, try_to_take)
        took.append(name)

    with gate() as closed:
        nursery.start_soon(wait, "slow", look_slowly)
        await trio.to_thread.run_sync(closed.wait_entered)
        # Not by ``start``, which needs all threads.
        nursery.start_soon(wait, "quick", lambda tx: take(tx, "topic"))
        for _ in range(2 * WRITERS):
            await store.write(lambda tx: None)
        await trio.testing.wait_all_tasks_blocked()
    await all_writers_met(store)
    await trio.testing.wait_all_tasks_blocked()
    await store.write(offer, "topic", "a")
    await until(lambda: took)
    assert took == ["slow"]
    nursery.cancel_scope.cancel()


async def test_one_that_waits_for_several_topics_is_run_for_each(store: Store, takers: Takers) -> None:
    await takers.start("both", "left", "right")
    await takers.start("left", "left")
    await store.write(offer, "right", "r")
    assert await takers.taken(1) == [("both", "r")]
    await store.write(offer, "left", "l")
    assert await takers.taken(2) == [("both", "r"), ("left", "l")]


async def test_an_announcement_to_a_cancelled_use_case_goes_to_the_next(store: Store, takers: Takers) -> None:
    first = await takers.start("first", "topic")
    await takers.start("second", "topic")

    def offer_and_cancel(tx: Transaction) -> WithEffects[None]:
        trio.from_thread.run_sync(first.cancel, trio_token=token)
        return offer(tx, "topic", "a")

    token = trio.lowlevel.current_trio_token()
    await store.write(offer_and_cancel)
    assert await takers.taken(1) == [("second", "a")]


async def test_an_announcement_during_a_run_is_not_missed(store: Store) -> None:
    token = trio.lowlevel.current_trio_token()

    def try_to_take(tx: Transaction) -> WithEffects[str | None]:
        offer_taken = take(tx, "topic")
        if offer_taken.value is None and not tx.waited:
            trio.from_thread.run(store.write, offer, "topic", "a", trio_token=token)
        return offer_taken

    assert await store.write_once_ready(LONG, try_to_take) == "a"


async def test_a_use_case_runs_again_when_something_is_due(store: Store) -> None:
    looks = []

    def try_to_take(tx: Transaction) -> WithEffects[str | None]:
        looks.append(tx.waited)
        return WithEffects("due" if len(looks) == 4 else None, Effects(waits_for={"topic": 0.01}))

    with trio.fail_after(LONG / 10):
        assert await store.write_once_ready(LONG, try_to_take) == "due"
    assert looks == [False, True, True, True]


@pytest.mark.usefixtures("quick_polling")
async def test_polling_finds_what_was_not_announced(database: Database) -> None:
    async with open_store(database.url) as store, trio.open_nursery() as nursery:
        takers = Takers(store, nursery)
        await takers.start("first", "topic")
        database.execute("INSERT INTO meta VALUES ('topic a', 'unannounced')")
        assert await takers.taken(1) == [("first", "unannounced")]


async def test_managers_wake_what_waits_at_others(store: Store, takers: Takers, database: Database) -> None:
    async with listening(database) as other:
        await takers.start("first", "topic")
        await other.write(offer, "topic", "a")
        assert await takers.taken(1) == [("first", "a")]


async def test_managers_know_when_others_wrote_something(store: Store, database: Database) -> None:
    async with listening(database) as other:
        written = store.written
        await other.write(offer, "topic", "a")
        await until(lambda: store.written > written)


@pytest.mark.parametrize(
    "payload", ["", "[]", "7", '"abc"', '[["x"], true, []]', '["x", true, [{}]]', "[" * 7_000]
)
async def test_notifications_of_other_programs_are_ignored(
    store: Store, takers: Takers, database: Database, payload: str
) -> None:
    async with listening(database) as other:
        await takers.start("first", "topic")
        ((stamp,),) = database.execute("SELECT value FROM meta WHERE key = 'stamp'")
        database.execute("SELECT pg_notify(%s, %s)", (f"exotrio_{stamp}", payload))
        await other.write(offer, "topic", "a")
        assert await takers.taken(1) == [("first", "a")]


async def test_many_topics_at_once_reach_others(store: Store, takers: Takers, database: Database) -> None:
    async with listening(database) as other:
        await takers.start("first", "topic")

        def offer_many(tx: Transaction) -> WithEffects[None]:
            offered = offer(tx, "topic", "a")
            offered.effects.announced |= {(run, node) for run in range(2_000) for node in range(3)}
            return offered

        await other.write(offer_many)
        assert await takers.taken(1) == [("first", "a")]


async def test_a_manager_that_begins_to_listen_again_runs_all_that_waits(
    store: Store, takers: Takers, database: Database
) -> None:
    async with listening(database) as other:
        await takers.start("first", "topic")
        # Whatever was announced before its sessions ended and it listened again, it was not notified.
        database.execute("INSERT INTO meta VALUES ('topic a', 'unannounced')")
        database.terminate()
        assert await takers.taken(1) == [("first", "unannounced")]
        await takers.start("second", "topic")
        while len(takers.took) < 2:
            # Until the other manager's session listens, too.
            await other.write(offer, "topic", "b")
            with trio.move_on_after(0.1):
                await takers.taken(2)
            await other.write(lambda tx: tx.execute("DELETE FROM meta WHERE key LIKE 'topic%'"))
        assert takers.took[1] == ("second", "b")


@pytest.mark.usefixtures("quick_polling")
async def test_behind_a_pooler_everything_works_by_polling(database: Database) -> None:
    def timeout(view: View) -> str:
        return setting(view, "lock_timeout")

    with pooler() as pool:
        url = database.url_at(pool.port)
        async with open_store(url) as store, open_store(url) as other, trio.open_nursery() as nursery:
            for _ in range(5):
                async with trio.open_nursery() as busy:
                    for _ in range(8):
                        busy.start_soon(store.write, timeout)
                        busy.start_soon(other.read, timeout)
            assert await store.write(timeout) == "2s"
            takers = Takers(store, nursery)
            await takers.start("first", "topic")
            await other.write(offer, "topic", "a")
            assert await takers.taken(1) == [("first", "a")]
            listening = (
                "SELECT count(*) FROM pg_stat_activity"
                " WHERE query LIKE 'LISTEN%' AND datname = current_database()"
            )
            assert database.execute(listening) == [(0,)]
            with trio.move_on_after(0.05):
                await store.read(lambda view: view.row("SELECT pg_sleep(600)"))
            assert await store.read_with_deadline(lambda view: setting(view, "enable_seqscan")) == "on"


async def test_a_use_case_that_loses_its_server_behind_a_pooler_is_run_again(database: Database) -> None:
    ended: list[int] = []

    def lose_server_once(tx: Transaction) -> str:
        if not ended:
            # The pooler adds an error to that of the server.
            ended.append(database.terminate(tx.one("SELECT pg_backend_pid()")[0]))
        return setting(tx, "lock_timeout")

    with pooler() as pool:
        async with open_store(database.url_at(pool.port)) as store:
            assert await store.write(lose_server_once) == "2s"
    assert ended == [1]


async def test_an_epoch_begins_though_the_pooler_has_no_session_but_that_of_the_use_case(
    database: Database,
) -> None:
    with pooler(sessions=1) as pool:
        async with open_store(database.url_at(pool.port)) as store:
            await store.write(put, "before")
            database.execute("UPDATE meta SET value = '' WHERE key = 'epoch'")
            await store.write(put, "after")
            assert await store.read(keys) == ["after", "before"]


async def test_writes_one_after_the_other_use_few_sessions(database: Database) -> None:
    sessions = set()
    async with open_store(database.url) as store:
        for _ in range(2 * WRITERS):
            sessions.add(await store.write(lambda tx: tx.one("SELECT pg_backend_pid()")[0]))
            # Meanwhile its thread waits for the next one again, even on a busy machine.
            await until(lambda: database.transactions() == set())
    assert len(sessions) < WRITERS
