"""What ``exotrio.manager.store.port`` promises to writes that wait, are cancelled, or outlast the store."""

from __future__ import annotations

import math
import threading

import pytest
import trio
import trio.testing

from exotrio import DatabaseError
from exotrio.manager.store.base import Store
from exotrio.manager.store.effects import Effects, Topic, WithEffects
from exotrio.manager.store.opening import open_store
from exotrio.manager.store.transaction import Transaction
from tests.support.manager import gate, held_up
from tests.support.stores import (
    IN_THREADS,
    TEST_TIMEOUT,
    Waiter,
    announce,
    keys,
    put,
    put_and_fail,
    put_item,
    remove,
    until,
    waiting,
)

TOPICS: list[Topic] = [1, "0123456789abcdef01234567", (3, 2**40)]
in_threads = pytest.mark.parametrize("engine", IN_THREADS, indirect=True)


# -- use cases that wait


async def test_a_row_that_exists_already_is_not_waited_for(store: Store) -> None:
    async with trio.open_nursery() as nursery:
        await store.write(put_item)
        waiter = Waiter(nursery, store)
        await until(waiter.ended.is_set)
    assert (waiter.looks, waiter.taken_item) == ([False], "item")


@pytest.mark.parametrize("topic", TOPICS)
async def test_a_waiting_write_runs_again_when_its_topic_is_announced(store: Store, topic: Topic) -> None:
    async with trio.open_nursery() as nursery:
        waiter = await waiting(nursery, store, topics={topic: math.inf})
        await store.write(put_item, "item", topic)
        await until(waiter.ended.is_set)
    assert waiter.taken_item == "item"
    assert waiter.looks[:2] == [False, True]
    assert await store.read(keys) == []


async def test_a_use_case_that_waits_for_several_topics_is_run_for_each(store: Store) -> None:
    async with trio.open_nursery() as nursery:
        for topic in TOPICS:
            waiter = await waiting(nursery, store, topics=dict.fromkeys(TOPICS, math.inf))
            await store.write(put_item, f"item {topic}", topic)
            await until(waiter.ended.is_set)
            assert waiter.taken_item == f"item {topic}"


async def test_one_item_serves_one_waiting_write_and_the_others_continue_to_wait(store: Store) -> None:
    async with trio.open_nursery() as nursery:
        waiters = [await waiting(nursery, store) for _ in range(4)]
        for served in range(1, 5):
            await store.write(put_item, f"item {served}")
            await until(lambda: sum(waiter.ended.is_set() for waiter in waiters) == served)  # noqa: B023
    assert sorted(str(waiter.taken_item) for waiter in waiters) == [
        f"item {number}" for number in range(1, 5)
    ]


async def test_items_that_come_together_serve_as_many(store: Store) -> None:
    def put_items(tx: Transaction) -> WithEffects[None]:
        for number in range(3):
            put(tx, f"item {number}")
        return announce(tx, 1)

    async with trio.open_nursery() as nursery:
        waiters = [await waiting(nursery, store) for _ in range(5)]
        await store.write(put_items)
        await until(lambda: sum(waiter.ended.is_set() for waiter in waiters) == 3)
        assert sorted(str(waiter.taken_item) for waiter in waiters if waiter.ended.is_set()) == [
            "item 0",
            "item 1",
            "item 2",
        ]
        nursery.cancel_scope.cancel()


@in_threads
async def test_an_announcement_between_a_run_and_the_wait_is_not_lost(store: Store) -> None:
    async with trio.open_nursery() as nursery:
        with gate() as closed:
            waiter = Waiter(nursery, store, before=closed.hold)
            await trio.to_thread.run_sync(closed.wait_entered)
            nursery.start_soon(store.write, put_item)
            await trio.testing.wait_all_tasks_blocked()
        await until(waiter.ended.is_set)
    assert waiter.taken_item == "item"


async def test_as_many_as_come_at_once_with_as_many_items_all_get_one(store: Store) -> None:
    async with trio.open_nursery() as nursery:
        waiters = []
        for number in range(60):
            waiters.append(Waiter(nursery, store))
            nursery.start_soon(store.write, put_item, f"item {number}")
            if number % 7 == 0:
                await trio.lowlevel.checkpoint()
        await until(lambda: all(waiter.ended.is_set() for waiter in waiters))
    assert len({waiter.taken_item for waiter in waiters}) == 60
    assert await store.read(keys) == []


async def test_an_item_that_is_due_needs_no_announcement(store: Store) -> None:
    async with trio.open_nursery() as nursery:
        gone = await waiting(nursery, store, topics={1: 0.05, 2: math.inf})
        stays = await waiting(nursery, store, topics={1: 0.05, 2: math.inf})
        gone.scope.cancel()
        await store.write(put, "item not announced")
        await until(stays.ended.is_set)
    assert gone.taken_item is None
    # The other one may have looked once more, and what it took was put back.
    assert str(stays.taken_item).startswith("item not announced")


async def test_a_use_case_runs_a_last_time_at_its_deadline(store: Store) -> None:
    async with trio.open_nursery() as nursery:
        waiter = Waiter(nursery, store, max_wait=0.2)
        hasty = Waiter(nursery, store, max_wait=0)
        await until(lambda: waiter.ended.is_set() and hasty.ended.is_set())
    assert (hasty.looks, hasty.taken_item) == ([False], None)
    assert (waiter.looks[0], waiter.looks[-1], waiter.taken_item) == (False, True, None)


async def test_an_error_of_a_use_case_that_waited_is_raised(store: Store) -> None:
    def fail_at_last(tx: Transaction) -> WithEffects[str | None]:
        looks.append(tx.waited)
        if "item" in keys(tx):
            put_and_fail(tx, "undone")
        return WithEffects(None, Effects(waits_for={1: math.inf}))

    async def wait() -> None:
        with pytest.raises(ZeroDivisionError, match="undone"):
            await store.write_once_ready(60, fail_at_last)

    looks: list[bool] = []
    with trio.fail_after(TEST_TIMEOUT):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            await until(lambda: looks)
            await store.write(put_item)
    assert await store.read(keys) == ["item"]


# -- cancellation


async def test_a_write_that_is_cancelled_while_it_waits_does_not_happen(store: Store) -> None:
    async with trio.open_nursery() as nursery:
        waiter = await waiting(nursery, store)
        waiter.scope.cancel()
        await waiter.ended.wait()
        await store.write(put_item)
        other = Waiter(nursery, store)
        await until(other.ended.is_set)
    assert waiter.taken_item is None
    # The look that was under way when it was cancelled may have taken the item; then it is put back.
    assert other.taken_item in ("item", "item put back")


@in_threads
async def test_a_write_that_is_cancelled_while_it_runs_is_undone_if_it_is_committed(store: Store) -> None:
    def put_and_hold(tx: Transaction) -> WithEffects[None]:
        put(tx, "unwanted")
        closed.hold()
        return WithEffects(None, Effects(undo=lambda tx: remove(tx, "unwanted")))

    with gate() as closed:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(store.write, put_and_hold)
            await trio.to_thread.run_sync(closed.wait_entered)
            nursery.cancel_scope.cancel()
            # Later, as a caller may leave its thread only then.
            threading.Timer(0.05, closed.open).start()
    with trio.fail_after(TEST_TIMEOUT):
        await store.write(put, "wanted")
        while await store.read(keys) != ["wanted"]:
            await trio.lowlevel.checkpoint()


@in_threads
async def test_a_waiting_write_that_is_cancelled_while_it_runs_is_undone_for_others(store: Store) -> None:
    def hold_once_there_is_something(looks: int) -> None:
        if looks > 1:
            closed.hold()

    with gate() as closed:
        async with trio.open_nursery() as nursery:
            waiter = await waiting(nursery, store, before=hold_once_there_is_something)
            nursery.start_soon(store.write, put_item)
            await trio.to_thread.run_sync(closed.wait_entered)
            waiter.scope.cancel()
            other = Waiter(nursery, store)
            closed.open()
            await until(other.ended.is_set)
    assert waiter.taken_item is None
    assert other.taken_item in ("item", "item put back"), "never begun, or undone"


# -- the end


async def test_a_closed_store_refuses_use_cases_and_queries(db: str) -> None:
    async with open_store(db) as store:
        pass
    with trio.fail_after(TEST_TIMEOUT):
        with pytest.raises(DatabaseError, match="closed"):
            await store.write(put, "a")
        with pytest.raises(DatabaseError, match="closed"):
            await store.write_once_ready(60, lambda tx: WithEffects(None, Effects()))
        for way in (store.read, store.read_with_deadline):
            with pytest.raises(DatabaseError, match="closed"):
                await way(keys)


async def test_writes_that_wait_when_the_store_is_closed_get_an_error(db: str) -> None:
    with trio.fail_after(TEST_TIMEOUT):
        async with trio.open_nursery() as nursery:
            async with open_store(db) as store:
                waiter = await waiting(nursery, store)
            await waiter.ended.wait()
    assert waiter.error is not None
    assert "closed" in str(waiter.error)


@in_threads
async def test_writes_from_before_the_end_are_committed_and_answered(db: str) -> None:
    async def write(key: str) -> None:
        answers.append(await store.write(put, key))

    answers: list[str] = []
    names = [f"{number:03}" for number in range(300)]
    with trio.fail_after(TEST_TIMEOUT):
        async with trio.open_nursery() as nursery, open_store(db) as store, held_up(store.write):
            for name in names:
                nursery.start_soon(write, name)
            await trio.testing.wait_all_tasks_blocked()
    assert sorted(answers) == names
    async with open_store(db) as store:
        assert await store.read(keys) == names


@in_threads
async def test_committed_rows_are_there_when_the_store_is_opened_again(db: str) -> None:
    def allocate_and_put(tx: Transaction) -> int:
        put(tx, "a")
        return tx.allocate()

    async with open_store(db) as store:
        await store.write(allocate_and_put)
        stamp = await store.read(lambda view: view.state_id(1))
    async with open_store(db) as store:
        assert await store.read(keys) == ["a"]
        assert await store.read(lambda view: view.state_id(1)) == stamp
        await store.write(put, "b")
