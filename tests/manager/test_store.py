"""What SQLite's stores do in addition to what every store does: commits in groups, and one writer."""

from __future__ import annotations

import json
import logging
import sqlite3
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

import pytest
import trio
import trio.testing

from exotrio import DatabaseError
from exotrio._wire.graphs import GraphRequest
from exotrio._wire.v0 import RegisterRequest
from exotrio.manager.engine import graphs, nodes, triggers
from exotrio.manager.engine.claims import Claimer, claim
from exotrio.manager.store.base import LOG_AGAIN, Store
from exotrio.manager.store.clock import WatchedClock
from exotrio.manager.store.effects import Effects, WithEffects
from exotrio.manager.store.sqlite.store import open_store
from exotrio.manager.store.transaction import Transaction
from tests.contract.flow import Flow
from tests.support.helpers import SettableClock, declare, ok, place, sql
from tests.support.manager import Gate, gate, open_manager
from tests.support.stores import (
    PUT_KEYS,
    TEST_TIMEOUT,
    Waiter,
    announce,
    keys,
    put,
    put_and_fail,
    put_graph,
    put_item,
    until,
    waiting,
)


@pytest.fixture(params=["file", "memory"])
def db(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return ":memory:" if request.param == "memory" else str(tmp_path / "state.db")


class Clock:
    """A clock that fails for the reason ``broken``, if there is one."""

    def __init__(self, broken: str = "") -> None:
        self.broken = broken
        self.calls = 0

    def __call__(self) -> int:
        self.calls += 1
        if self.broken:
            raise RuntimeError(self.broken)
        return 1


def seen_from_outside(path: Path) -> list[str]:
    return [key for (key,) in sql(path, PUT_KEYS)]


async def held(store: Store, nursery: trio.Nursery, gate: Gate) -> None:
    """Hold up the writer thread."""
    nursery.start_soon(store.write, gate.hold)
    await trio.to_thread.run_sync(gate.wait_entered)


# -- groups of writes


async def test_writes_that_gather_share_one_commit_and_a_failure_among_them_is_undone_alone(
    tmp_path: Path,
) -> None:
    path = tmp_path / "state.db"
    before: list[str] = []

    def look_from_outside(tx: Transaction) -> None:
        before.extend(seen_from_outside(path))

    failed: list[str] = []

    async def fail() -> None:
        try:
            await store.write(put_and_fail, "bad")
        except ZeroDivisionError as error:
            failed.append(str(error))

    names = [f"n{number:02}" for number in range(40)]
    with gate() as closed:
        async with open_store(path) as store, trio.open_nursery() as nursery:
            await held(store, nursery, closed)
            for name in names:
                nursery.start_soon(store.write, put, name)
            nursery.start_soon(fail)
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(store.write, look_from_outside)
            await trio.testing.wait_all_tasks_blocked()
            closed.open()
    # The last use case of the group ran when all others had, and still nothing was committed.
    assert before == []
    assert failed == ["bad"]
    assert seen_from_outside(path) == names


async def test_no_cache_is_ahead_of_the_database_after_a_commit_that_failed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = SettableClock()
    async with open_manager(clock=clock) as manager:
        api = manager.api
        await Flow.deploy(api, place("a", inputs={"p": "first"}))

        def put_and_trigger(tx: Transaction) -> None:
            graphs.upsert(tx, api.namespace, "graph", prepared)
            triggers.trigger(tx, api.namespace, "graph", triggers.NewRun())
            claim(tx, api.namespace, {"Node_a": 1}, 1, Claimer(manager=None, now=0, ttl_ms=60_000))
            nodes.register(tx, api.namespace, undone)
            assert tx.registered(api.namespace, "Node_a") is not None

        def fail(*_: object) -> None:
            raise sqlite3.OperationalError("database or disk is full")

        request = GraphRequest.model_validate(api.body([place("a", inputs={"p": "undone"})]))
        prepared = graphs.prepare(api.namespace, "graph", request, manager.service.cipher, clock())

        declared = declare("Node_a", inputs=("p", "undone"))
        undone = RegisterRequest.model_validate({"runtime_name": "r", "nodes": [declared]})
        with monkeypatch.context() as patch:
            patch.setattr(WatchedClock, "store", fail)
            clock.advance(1_000)
            with pytest.raises(DatabaseError, match="database or disk is full"):
                await manager.service.store.write(put_and_trigger)
        # The numbers of the version, and of the run, that were undone are given to these now.
        ok(await api.put_graph("graph", api.body([place("a", inputs={"p": "kept"})])), 201)
        flow = Flow(api, "graph")
        run_id = await flow.trigger()
        (state,) = ok(await api.native_claim({"Node_a": 1}))["states"]
        assert state["inputs"] == {"p": "kept"}
        assert state["run_id"] == run_id
        shown = ok(await api.get_graph("graph"))
        assert shown["validation_status"] == "VALID", "what was registered for the undone one is not known"


FULL_DISK = """
import json, os, resource, sys, trio
from pathlib import Path
from exotrio import DatabaseError
from exotrio.manager.store.sqlite.store import open_store
from tests.support.manager import gate
from tests.support.stores import keys, put

async def main(path):
    errors = []
    async def write(key):
        try:
            await store.write(put, key, "x" * 20_000)
        except DatabaseError as error:
            errors.append(error)
    with gate() as closed:
        async with open_store(path) as store:
            await store.write(put, "before")
            async with trio.open_nursery() as nursery:
                nursery.start_soon(store.write, closed.hold)
                await trio.to_thread.run_sync(closed.wait_entered)
                for number in range(5):
                    nursery.start_soon(write, f"n{number}")
                await trio.testing.wait_all_tasks_blocked()
                size = os.stat(path + "-wal").st_size
                resource.setrlimit(resource.RLIMIT_FSIZE, (size + 10_000, resource.RLIM_INFINITY))
                closed.open()
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
            found = await store.read(keys)
            await store.write(put, "after")
            after = await store.read(keys)
    print(json.dumps([len(errors), len({id(error) for error in errors}), str(errors[0]), found, after]))

import trio.testing
trio.run(main, sys.argv[1])
"""


def test_a_commit_that_fails_fails_every_write_of_its_group_and_the_next_one_works(tmp_path: Path) -> None:
    out = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(tmp_path / "state.db")],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=Path(__file__).parents[2],
    )
    assert out.returncode == 0, out.stderr
    failures, distinct, message, taken_item, after = json.loads(out.stdout)
    # One error each: an exception raised in several tasks would collect all their tracebacks.
    assert (failures, distinct) == (5, 5)
    assert "the database state.db could not be written" in message
    assert "free space" in message
    assert taken_item == ["before"]
    assert after == ["after", "before"]


async def test_a_write_for_later_is_tried_until_it_is_committed(
    db: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("exotrio.manager.store.base.RETRY_AFTER", 0.01)
    clock = Clock()
    async with open_store(db, clock=clock) as store:
        clock.broken, clock.calls = "no time", 0
        store.write_later(lambda tx: put(tx, "later"))
        with pytest.raises(DatabaseError):
            await store.write(put, "not later")
        await until(lambda: clock.calls >= 5)
        clock.broken = ""
        with trio.fail_after(TEST_TIMEOUT):
            while await store.read(keys) != ["later"]:
                await trio.lowlevel.checkpoint()


async def test_a_write_for_later_that_failed_is_tried_once_more_when_the_store_is_closed(
    tmp_path: Path,
) -> None:
    db, clock = str(tmp_path / "state.db"), Clock()
    async with open_store(db, clock=clock) as store:
        clock.broken, clock.calls = "no time", 0
        store.write_later(lambda tx: put(tx, "later"))
        with pytest.raises(DatabaseError):
            await store.write(put, "not later")
        clock.broken = ""
    async with open_store(db) as store:
        assert await store.read(keys) == ["later"]


# -- use cases that wait for a commit


async def test_a_waiting_write_runs_in_the_commit_that_announces_its_topic(db: str) -> None:
    async with open_store(db) as store, trio.open_nursery() as nursery:
        waiter = await waiting(nursery, store)
        await store.write(put_item, "other", 2)
        await store.write(put, "nothing announced")
        assert (len(waiter.looks), waiter.taken_item) == (1, None)
        await store.write(put_item)
        # Before anybody could have looked: it is gone with the commit that it came with.
        assert not [key for key in await store.read(keys) if key.startswith("item")]
        await trio.testing.wait_all_tasks_blocked()
        assert len(waiter.looks) == 2
        assert waiter.taken_item is not None


async def test_the_first_that_waits_gets_what_is_due_and_few_run_in_vain(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with open_store(":memory:") as store, trio.open_nursery() as nursery:
        waiters = [await waiting(nursery, store) for _ in range(4)]
        waiters.append(Waiter(nursery, store, topics={1: 5}))
        await trio.sleep(4)
        await store.write(put, "item not announced")
        await store.write(put, "item not announced either")
        assert [len(waiter.looks) for waiter in waiters] == [1, 1, 1, 1, 1]
        await trio.sleep(2)
        assert [waiter.taken_item is not None for waiter in waiters] == [True, True, False, False, False]
        assert [len(waiter.looks) for waiter in waiters] == [2, 2, 2, 1, 1]
        nursery.cancel_scope.cancel()


async def test_due_writes_run_later_if_no_commit_succeeds(
    autojump_clock: trio.testing.MockClock,
) -> None:
    clock = Clock()
    async with open_store(":memory:", clock=clock) as store, trio.open_nursery() as nursery:
        waiter = Waiter(nursery, store, topics={1: 11})
        await trio.sleep(1)
        await store.write(put, "item not announced")
        clock.broken, clock.calls = "no time", 0
        await trio.sleep(18)
        assert (len(waiter.looks), waiter.ended.is_set()) == (1, False)
        clock.broken = ""
        await trio.sleep(3)
        assert waiter.taken_item is not None
        assert clock.calls < 30, "it is tried now and then, not as often as possible"


async def test_the_first_that_waits_is_served_first_and_few_run_in_vain(db: str) -> None:
    async with open_store(db) as store, trio.open_nursery() as nursery:
        waiters = [await waiting(nursery, store) for _ in range(4)]
        await store.write(put_item)
        await trio.testing.wait_all_tasks_blocked()
        assert [waiter.taken_item is not None for waiter in waiters] == [True, False, False, False]
        assert [len(waiter.looks) for waiter in waiters] == [2, 2, 1, 1]
        nursery.cancel_scope.cancel()


async def test_a_use_case_in_the_commit_of_an_item_does_not_overtake_one_that_waited(tmp_path: Path) -> None:
    with gate() as closed, trio.fail_after(60):
        async with open_store(tmp_path / "state.db") as store, trio.open_nursery() as nursery:
            patient = await waiting(nursery, store)
            await held(store, nursery, closed)
            hasty = Waiter(nursery, store)
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(store.write, put_item)
            await trio.testing.wait_all_tasks_blocked()
            closed.open()
            await until(lambda: patient.taken_item)
            assert (len(hasty.looks), hasty.taken_item) == (1, None)
            nursery.cancel_scope.cancel()


async def test_a_commit_that_fails_leaves_waiting_what_waited_before(db: str) -> None:
    clock = Clock()
    async with open_store(db, clock=clock) as store, trio.open_nursery() as nursery:
        waiter = await waiting(nursery, store)
        clock.broken = "no time"
        with pytest.raises(DatabaseError, match="no time"):
            await store.write(put_item)
        clock.broken = ""
        await trio.testing.wait_all_tasks_blocked()
        assert (len(waiter.looks), waiter.taken_item, waiter.error) == (1, None, None)
        await store.write(put_item)
        await trio.testing.wait_all_tasks_blocked()
        assert waiter.taken_item is not None


async def test_a_last_run_in_a_commit_that_fails_gets_one_error(db: str) -> None:
    clock = Clock()
    async with open_store(db, clock=clock) as store, trio.open_nursery() as nursery:
        waiter = Waiter(nursery, store, max_wait=0.1)
        await trio.testing.wait_all_tasks_blocked()
        await store.write(announce)
        clock.broken = "no time"
        await until(waiter.ended.is_set)
        clock.broken = ""
        assert "no time" in str(waiter.error)
        for number in range(3):
            await store.write(put_item, f"item {number}")
        # Nor does it take anything any more.
        assert (len(waiter.looks), len(await store.read(keys))) == (1, 3)


async def test_commits_that_fail_are_one_line_in_the_log_for_each_reason_and_their_end_is_another(
    db: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="exotrio.manager.store")
    clock = Clock("no time")
    async with open_store(db, clock=clock) as store:
        for clock.broken in ["no time", "no time", "no date"] * 2:
            with pytest.raises(DatabaseError, match=clock.broken):
                await store.write(put, "a")
        clock.broken = ""
        for key in ("b", "c"):
            await store.write(put, key)
    errors_logged = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert [each.getMessage() for each in caplog.records if each.levelname == "INFO"] == [
        "the database can be written again"
    ]
    assert [line.split(";")[0].rpartition(": ")[2] for line in errors_logged] == ["no time", "no date"]


async def test_a_database_that_fails_again_is_said_again_and_its_last_word_is_true(
    caplog: pytest.LogCaptureFixture, autojump_clock: trio.testing.MockClock
) -> None:
    caplog.set_level(logging.INFO, logger="exotrio.manager.store")
    clock = Clock()
    async with open_store(":memory:", clock=clock) as store:
        for key in "ab":
            clock.broken = "disk is full"
            with pytest.raises(DatabaseError):
                await store.write(put, key)
            assert "disk is full" in store.unwritable
            clock.broken = ""
            await store.write(put, key)
            assert store.unwritable == ""
            await trio.sleep(LOG_AGAIN)
    assert [each.levelname for each in caplog.records] == ["ERROR", "INFO"] * 2


async def test_items_put_back_at_the_end_are_not_taken_by_a_waiting_use_case(
    tmp_path: Path,
) -> None:
    def take_and_hold(tx: Transaction) -> WithEffects[str]:
        closed.hold()
        return WithEffects("taken", Effects(undo=put_item))

    async def take() -> None:
        with scope:
            await store.write(take_and_hold)

    scope, path = trio.CancelScope(), tmp_path / "state.db"
    with gate() as closed, trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            async with open_store(path) as store:
                waiter = await waiting(nursery, store)
                nursery.start_soon(take)
                await trio.to_thread.run_sync(closed.wait_entered)
                scope.cancel()
                await trio.testing.wait_all_tasks_blocked()
                threading.Timer(0.05, closed.open).start()
            await until(waiter.ended.is_set)
    assert (waiter.error is not None) == bool(seen_from_outside(path))


async def test_states_that_end_with_the_last_commits_are_counted(tmp_path: Path) -> None:
    counted = WithEffects(None, Effects(tally=Counter({(1, 5, "SUCCESS", 0, 10**12 // 60_000): 1})))

    def hold_and_count(tx: Transaction) -> WithEffects[None]:
        closed.hold()
        return counted

    path = tmp_path / "state.db"
    with gate() as closed, trio.fail_after(60):
        async with trio.open_nursery() as nursery, open_store(path, clock=lambda: 10**12) as store:
            await store.write(put_graph)
            nursery.start_soon(store.write, hold_and_count)
            await trio.to_thread.run_sync(closed.wait_entered)
            # Its commit comes after the one whose tallies are then written.
            nursery.start_soon(store.write, lambda tx: counted)
            await trio.testing.wait_all_tasks_blocked()
            threading.Timer(0.05, closed.open).start()
    assert sql(path, "SELECT count FROM trends WHERE width = 1") == [(2,)]


# -- cancellation and closing


async def test_a_write_cancelled_while_it_waits_ends_at_once_and_does_not_happen(tmp_path: Path) -> None:
    with gate() as closed, trio.fail_after(60):
        async with open_store(tmp_path / "state.db") as store, trio.open_nursery() as nursery:
            await held(store, nursery, closed)
            with trio.CancelScope() as scope:
                nursery.start_soon(_cancel_when_blocked, scope)
                await store.write(put, "cancelled")
            assert scope.cancelled_caught
            closed.open()
            await store.write(put, "later")
            assert await store.read(keys) == ["later"]


async def _cancel_when_blocked(scope: trio.CancelScope) -> None:
    await trio.testing.wait_all_tasks_blocked()
    scope.cancel()


async def test_a_cancelled_caller_still_has_its_last_writes_committed(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    with gate() as closed, trio.fail_after(60), trio.CancelScope() as scope:
        async with open_store(path) as store, trio.open_nursery() as nursery:
            with trio.CancelScope(shield=True):
                await held(store, nursery, closed)
                nursery.start_soon(_write_shielded, store)
                await trio.testing.wait_all_tasks_blocked()
                scope.cancel()
                closed.open()
            await trio.sleep_forever()
    assert seen_from_outside(path) == ["shielded"]


async def _write_shielded(store: Store) -> None:
    with trio.CancelScope(shield=True):
        await store.write(put, "shielded")


async def test_a_writer_that_hangs_is_abandoned_and_keeps_the_lock(
    tmp_path: Path,
) -> None:
    path = tmp_path / "state.db"
    with gate() as closed, trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            async with open_store(path, grace=0.1) as store:
                await held(store, nursery, closed)
            # Still writing: a second owner would count from what is not there yet.
            with pytest.raises(DatabaseError, match="in use"):
                async with open_store(path):
                    pass
            closed.open()
