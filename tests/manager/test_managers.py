"""Several state managers on one database: who is lost, who sweeps, and what leases do when the clock is set.

The use cases are run at times of the tests' own, also on SQLite, which has but one state manager: the rules
are the same. What only happens side by side is tested on PostgreSQL.
"""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import AsyncIterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import Mock, patch

import psycopg
import pytest
import trio

from exotrio.errors import DatabaseTooNew
from exotrio.manager import background
from exotrio.manager.engine import leases, managers
from exotrio.manager.engine.claims import Claimed, Claimer, claim
from exotrio.manager.engine.leases import Terms
from exotrio.manager.engine.managers import Swept, enter, leave, stay, sweep, take_duty
from exotrio.manager.engine.retries import retry_run
from exotrio.manager.engine.runs import cancel
from exotrio.manager.engine.schedules import fire_schedules
from exotrio.manager.rules.errors import Refused
from exotrio.manager.store import schema
from exotrio.manager.store.driver import put_meta
from exotrio.manager.store.effects import WithEffects
from exotrio.manager.store.postgres import clock as server_clock
from exotrio.manager.store.postgres import notices
from exotrio.manager.store.postgres.server import Server
from exotrio.manager.store.transaction import Transaction
from exotrio.manager.store.view import View
from tests.contract.flow import Flow
from tests.support.due import discard
from tests.support.helpers import node_name, ok, place, refused, run_place, wait_place
from tests.support.manager import Gate, Manager, held_up, open_manager, recount
from tests.support.postgres import Database
from tests.support.statements import noted
from tests.support.stores import new_database, until

TERMS = Terms(lease_ttl_ms=60_000)
TERM = TERMS.lease_ttl_ms
SECOND = 1_000
HOUR = 3_600_000
NAMESPACE = "tests"


@dataclass
class World:
    """A state manager, and others that are played; its own sweeps come far later than a test takes."""

    db: str
    manager: Manager
    now: int

    async def write(self, use_case: Any, *args: Any) -> Any:
        return await self.manager.service.store.write(use_case, *args)

    async def claim(self, limit: int = 1, **claimer: Any) -> Claimed:
        claimed: Claimed = await self.write(claim_at, self.now, limit, claimer)
        return claimed

    async def sweep(self, after_ms: int, by: str = "sweeper") -> Swept:
        """Sweep so much later, as one of several."""
        self.now += after_ms
        swept: Swept = await self.write(sweep, by, self.now, TERMS, None)
        return swept

    async def states(self) -> list[tuple[str, Any, int]]:
        """Return status, end of the lease and time to wait of each state."""

        def read(view: View) -> list[tuple[str, Any, int]]:
            rows = view.execute(
                "SELECT status, lease_until, enqueue_after FROM states ORDER BY seq"
            ).fetchall()
            return [(row[0], row[1], row[2]) for row in rows]

        return await self.manager.service.store.read(read)

    async def statuses(self) -> list[str]:
        return [status for status, _, _ in await self.states()]


def claim_at(tx: Transaction, now: int, limit: int, claimer: dict[str, Any]) -> WithEffects[Claimed]:
    ttl_ms = None if "manager" in claimer else TERM
    return claim(
        tx,
        NAMESPACE,
        {node_name("a"): limit},
        limit,
        Claimer(**{"manager": None, "now": now, "ttl_ms": ttl_ms, **claimer}),
    )


async def opened(db: str, runs: int = 3) -> AsyncIterator[World]:
    async with open_manager(db, terms=Terms(lease_ttl_ms=HOUR)) as manager:
        await Flow.start(manager.api, place("a"), runs=runs)
        yield World(db, manager, manager.service.monotonic())
        await manager.service.store.read(recount)


@pytest.fixture(params=["memory", "postgres"])
async def world(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[World]:
    with ExitStack() as stack:
        async for each in opened(new_database(request.param, tmp_path, stack)):
            yield each


@pytest.fixture
async def shared(database: Database) -> AsyncIterator[World]:
    async for each in opened(database.url):
        yield each


def make_older(tx: Transaction, name: str) -> None:
    tx.execute("UPDATE managers SET schema_version = 6, version = '2.5' WHERE id = ?", (name,))


WHEN = {"of": "${{ a.outputs.v }}", "operator": "==", "value": "x"}


@pytest.mark.parametrize(
    ("new", "why"),
    [(place("b", when=WHEN), "would take"), (wait_place("b", event="approved"), "would never end")],
)
async def test_what_is_new_in_graphs_is_not_stored_while_a_manager_works_that_knows_only_version_6(
    world: World, new: dict[str, Any], why: str
) -> None:
    api = world.manager.api
    await world.write(enter, "older", world.now)
    await world.write(make_older, "older")
    plain, later = [place("a", "b"), place("b")], [place("a", "b"), new]
    await api.register_for(plain)
    text = refused(await api.put_graph("other", api.body(later)), 409)
    assert f"2.5 on this database {why}: end that state manager (older) first" in text
    ok(await api.put_graph("other", api.body(plain)), 201)
    await world.write(leave, "older")
    await world.write(put_meta, "oldest_version", "6")
    ok(await api.put_graph("other", api.body(plain)), 201)
    with patch.object(schema, "VERSION", 6):
        await world.write(enter, "older", world.now)
        await world.write(leave, "older")
        ok(await api.put_graph("other", api.body(later)), 201)
        with pytest.raises(DatabaseTooNew, match="usable from schema 7 on; this one knows 6"):
            await world.write(enter, "older", world.now)


async def test_what_is_new_in_graphs_is_refused_while_a_manager_works_that_does_not_know_it(
    world: World,
) -> None:
    api = world.manager.api
    await world.write(enter, "older", world.now)
    await world.write(
        lambda tx: tx.execute("UPDATE managers SET schema_version = 7, version = '2.6' WHERE id = 'older'")
    )
    await api.register_for([place("a")])
    ok(await api.put_graph("alert", api.body([place("a")])), 201)
    text = refused(await api.put_graph("other", api.body([place("a")], on_failure="alert")), 409)
    assert "on_failure, which a state manager of exotrio 2.6 on this database would ignore: end" in text
    runs_alert = api.body([run_place("g", graph="alert")])
    text = refused(await api.put_graph("parent", runs_alert), 409)
    assert (
        "places that run graphs, whose runs a state manager of exotrio 2.6 on this database would lose"
        in text
    )
    await world.write(leave, "older")
    for name, body in (("other", api.body([place("a")], on_failure="alert")), ("parent", runs_alert)):
        await world.write(put_meta, "oldest_version", "6")
        ok(await api.put_graph(name, body), 201)
    with patch.object(schema, "VERSION", 7), pytest.raises(DatabaseTooNew, match="usable from schema 8 on"):
        await world.write(enter, "older", world.now)


# -- who is lost


async def test_states_held_inside_a_manager_that_is_silent_for_half_a_minute_are_claimable_again(
    world: World,
) -> None:
    for name in ("lost", "alive"):
        await world.write(enter, name, world.now)
        assert len((await world.claim(manager=name)).states) == 1
    own = world.manager.service.manager
    for _ in range(6):
        for name in ("alive", own):
            await world.write(enter, name, world.now)
        assert await world.statuses() == ["QUEUED", "QUEUED", "CREATED"]
        await world.sweep(5 * SECOND)
    await world.write(enter, "alive", world.now)
    assert (await world.sweep(5 * SECOND)).ended == 1
    assert await world.statuses() == ["CREATED", "QUEUED", "CREATED"]


async def test_states_held_inside_a_manager_that_left_are_claimable_with_the_next_sweep(
    world: World,
) -> None:
    await world.write(enter, "other", world.now)
    await world.claim(manager="other")
    await world.sweep(5 * SECOND)
    await world.write(leave, "other")
    assert (await world.sweep(5 * SECOND)).ended == 1
    assert await world.statuses() == ["CREATED"] * 3


async def test_states_held_inside_managers_are_read_only_when_one_ended_or_once_a_minute(
    world: World,
) -> None:
    own = world.manager.service.manager

    async def reads(after_ms: int) -> int:
        for name in (own, "other"):
            await world.write(enter, name, world.now + after_ms)
        with noted(world.manager.service.store) as statements:
            await world.sweep(after_ms)
        return len(
            [sql for sql in statements if sql.startswith("SELECT seq") and "manager IS NOT NULL" in sql]
        )

    assert [await reads(5 * SECOND) for _ in range(11)] == [0] * 11
    assert [await reads(5 * SECOND) for _ in range(2)] == [1, 0]
    await world.write(leave, "other")
    assert [await reads(5 * SECOND) for _ in range(2)] == [1, 0]


async def test_states_claimed_by_a_manager_that_counted_as_lost_are_claimable_again_within_a_minute(
    world: World,
) -> None:
    await world.claim(manager="lost before")
    ended = []
    for _ in range(12):
        await world.write(enter, world.manager.service.manager, world.now)
        ended.append((await world.sweep(5 * SECOND)).ended)
    assert ended == [0] * 11 + [1]
    assert await world.statuses() == ["CREATED"] * 3


async def test_all_states_of_a_lost_manager_are_taken_back_even_if_one_sweep_takes_fewer(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (leases, managers):
        monkeypatch.setattr(module, "MAX_STATES_PER_SWEEP", 2)
    await world.write(enter, "other", world.now)
    await world.claim(3, manager="other")
    await world.write(leave, "other")
    assert [(await world.sweep(5 * SECOND)).ended for _ in range(3)] == [2, 1, 0]


async def test_a_sweep_that_meets_a_manager_on_its_way_out_leaves_what_it_holds_to_the_next_sweep(
    shared: World,
) -> None:
    def leaving(tx: Transaction, held: Gate) -> None:
        leave(tx, "leaving")
        assert take_duty(tx, "recovery") == 0, "sent to the server, too"
        held.hold()

    own = shared.manager.service.manager
    for name in ("lost", "leaving"):
        await shared.write(enter, name, shared.now)
        await shared.claim(manager=name)
    for _ in range(6):
        for name in ("leaving", own):
            await shared.write(enter, name, shared.now)
        await shared.sweep(5 * SECOND)
    for name in ("leaving", own):
        await shared.write(enter, name, shared.now)
    async with held_up(shared.write, leaving):
        with trio.fail_after(30):
            assert (await shared.sweep(5 * SECOND)).ended == 1
    assert await shared.statuses() == ["CREATED", "QUEUED", "CREATED"]
    assert (await shared.sweep(5 * SECOND)).ended == 1


async def test_a_manager_that_sweeps_is_not_lost_though_it_was_silent_or_was_taken_for_lost(
    world: World,
) -> None:
    await world.write(enter, "silent", world.now)
    await world.claim(manager="silent")
    for _ in range(10):
        await world.sweep(5 * SECOND, by="silent")
    assert (await world.statuses())[0] == "QUEUED"
    assert "silent" in await managers_of(world), "so that the next sweep of another one takes nothing back"
    await world.write(leave, "silent")
    await world.sweep(5 * SECOND, by="silent")
    assert (await world.statuses())[0] == "QUEUED"
    assert sum([(await world.sweep(5 * SECOND)).ended for _ in range(12)]) == 1


async def test_a_manager_says_that_it_is_there_though_the_version_of_the_tables_is_locked(
    shared: World, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(managers, "SEEN_INTERVAL", 0.01)

    def seen_at() -> Any:
        return database.execute("SELECT seen_at FROM managers WHERE id = 'm'")

    store, clock = shared.manager.service.store, shared.manager.service.monotonic
    await shared.write(enter, "m", clock())
    async with trio.open_nursery() as nursery:
        with psycopg.connect(shared.db) as migration:
            migration.execute("SELECT value FROM meta WHERE key = 'oldest_version' FOR UPDATE")
            before = seen_at()
            nursery.start_soon(background.stay, store, "m", clock, [])
            await until(lambda: seen_at() > before)
        nursery.cancel_scope.cancel()


async def test_a_manager_that_is_still_there_ends_once_a_newer_exotrio_has_changed_the_tables(
    shared: World,
) -> None:
    await shared.write(enter, "m", shared.now)
    await shared.write(lambda tx: put_meta(tx, "oldest_version", str(schema.VERSION + 1)))
    try:
        with pytest.raises(DatabaseTooNew, match="a newer exotrio changed the database"):
            await shared.write(stay, "m", shared.now)
    finally:
        await shared.write(lambda tx: put_meta(tx, "oldest_version", str(schema.OLDEST)))


async def test_a_start_and_an_end_next_to_a_live_manager_change_nothing_that_is_held(
    shared: World,
) -> None:
    manager = shared.manager.service.manager
    claimers: list[dict[str, Any]] = [{"manager": manager}, {"claim_id": "c"}, {}]
    for claimer in claimers:
        assert len((await shared.claim(**claimer)).states) == 1
    before = await shared.states()
    async with open_manager(shared.db) as second:
        assert second.service.manager != manager
        assert await shared.states() == before
        assert await managers_of(shared) == {manager, second.service.manager}
    assert await managers_of(shared) == {manager}
    assert await shared.states() == before


async def test_a_manager_that_left_is_not_entered_again_by_what_it_said_before(world: World) -> None:
    ends = threading.Event()
    for left in (False, True):
        if left:
            ends.set()
        await world.write(leave, "other")
        await world.write(partial(stay, ends=ends), "other", world.now)
        assert ("other" in await managers_of(world)) is not left


async def managers_of(world: World) -> set[str]:
    def read(view: View) -> set[str]:
        return {row[0] for row in view.execute("SELECT id FROM managers")}

    return await world.manager.service.store.read(read)


# -- who sweeps


async def test_one_of_several_managers_sweeps_at_a_time(world: World) -> None:
    await world.claim(claim_id="c")
    for after in (*[5] * 11, 3):
        await world.sweep(after * SECOND)
    assert (await world.sweep(2 * SECOND)).ended == 0, "it is overdue, but another one has just swept"
    assert (await world.sweep(SECOND)).ended == 1


async def test_a_duty_that_another_manager_is_at_is_left_alone(shared: World) -> None:
    def at_it(tx: Transaction, held: Gate) -> None:
        # Unlike a manager, this waits: the one that is tested may be at one of them in the background.
        tx.execute(f"SELECT name FROM duties ORDER BY name{tx.for_update('duties')}").fetchall()
        held.hold()

    await shared.claim(claim_id="c")
    async with held_up(shared.write, at_it):
        assert await shared.sweep(2 * HOUR) == Swept()
        assert await shared.write(fire_schedules) == []
        assert await shared.write(discard, 0) == 0


# -- leases and the clock


async def test_leases_are_extended_by_the_time_without_a_sweep(world: World) -> None:
    await world.claim(claim_id="c")
    until = world.now + TERM
    swept = await world.sweep(HOUR)
    assert swept.ended == 0
    assert (await world.states())[0][:2] == ("QUEUED", until + swept.late_ms)
    assert 0 <= HOUR - swept.late_ms <= 10 * SECOND


async def test_a_lease_that_was_renewed_after_the_clock_jumped_gets_no_more_than_a_term(world: World) -> None:
    world.now += HOUR
    await world.claim(claim_id="c")
    assert (await world.sweep(SECOND)).late_ms
    assert (await world.states())[0][:2] == ("QUEUED", world.now + TERM)


async def test_when_the_clock_is_set_back_leases_hold_a_term_from_then_and_delays_stay_as_long(
    world: World,
) -> None:
    await world.claim(claim_id="c")
    before = await world.states()
    assert (await world.sweep(-HOUR)).late_ms < 0
    (_, until, _), *_ = after = await world.states()
    assert until == world.now + TERM
    moved = {old - new for (_, _, old), (_, _, new) in zip(before, after, strict=True)}
    assert moved != {0}
    assert all(abs(by - HOUR) <= 10 * SECOND for by in moved)
    assert (await world.sweep(TERM - SECOND)).ended == 0


@pytest.mark.parametrize("step", [HOUR, -HOUR])
async def test_a_clock_that_is_set_between_the_measurement_and_the_sweep_of_one_manager_counts_once(
    world: World, step: int
) -> None:
    store, old, before = world.manager.service.store, world.now, await world.states()
    measured_before = Mock(
        is_shared=True,
        read=store.read,
        # Before it sweeps, the clock is set, and another one, which has measured it since, has swept.
        measure_clock=lambda: world.sweep(step),
        write=store.write,
    )
    await background.sweep_at_start(measured_before, "slow", lambda: old, TERMS)
    await world.sweep(5 * SECOND)
    after = await world.states()
    moved = [old - new for (_, _, old), (_, _, new) in zip(before, after, strict=True)]
    assert moved == pytest.approx([max(0, -step)] * 3, abs=10 * SECOND)


async def test_a_manager_that_lives_is_not_taken_for_lost_when_the_clock_is_set_ahead(world: World) -> None:
    await world.write(enter, "other", world.now)
    await world.claim(manager="other")
    await world.sweep(HOUR)
    assert await world.statuses() == ["QUEUED", "CREATED", "CREATED"]


@pytest.mark.parametrize("step", [HOUR, -HOUR])
async def test_rows_that_others_wrote_in_the_old_time_after_the_clock_was_set_hold_for_a_term_from_then(
    world: World, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    old = world.now
    await world.claim(manager="other")
    await world.write(enter, "other", old)
    await world.sweep(step)
    await world.claim(claim_id="c", now=old)
    await world.write(enter, "other", old)
    assert (await world.sweep(5 * SECOND)).ended == 0
    states = await world.states()
    assert [status for status, _, _ in states] == ["QUEUED", "QUEUED", "CREATED"]
    assert states[1][1] == pytest.approx(world.now + TERM, abs=10 * SECOND)
    monkeypatch.setattr(managers, "LEARNT_AFTER_MS", 0)
    ended = []
    for _ in range(13):
        ended.append((await world.sweep(5 * SECOND)).ended)
    assert sum(ended) == 2, "later, leases end again that are not renewed, and silent managers are lost"


@pytest.mark.parametrize(
    ("number", "place_in_order", "by"),
    [("max", -1, HOUR), ("min", 0, 2 * HOUR)],  # one that was there has been moved back already
    ids=["new", "in flight"],
)
async def test_a_state_that_others_made_in_the_old_time_after_the_clock_was_set_back_waits_no_longer_by_it(
    world: World, number: str, place_in_order: int, by: int
) -> None:
    await world.write(in_the_old_time, "max", HOUR)
    await world.sweep(-HOUR)
    flow = await Flow.deploy(world.manager.api, place("a"))
    for _ in range(2):
        await flow.trigger()
    before = await world.states()
    was = before.pop(place_in_order)
    await world.write(in_the_old_time, number, by)
    for _ in range(2):  # and it is moved once
        await world.sweep(5 * SECOND // 2)
        after = await world.states()
        moved = after.pop(place_in_order)
        assert after == before
        assert moved[2] == pytest.approx(was[2] + by - HOUR, abs=10 * SECOND)


def in_the_old_time(tx: Transaction, number: str, by: int) -> None:
    """Let a state be as one that does not know it yet would have made it, or would now commit it."""
    tx.execute(
        "UPDATE states SET created_at = created_at + ?, enqueue_after = enqueue_after + ?"
        f" WHERE seq = (SELECT {number}(seq) FROM states)",
        (by + 8 * SECOND,) * 2,  # the seconds since the last sweep
    )


async def test_it_is_not_lost_right_after_the_sweep_that_met_the_clock_set_ahead(
    shared: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Terms, "sweep_interval", 0.001)
    store, old, rows = shared.manager.service.store, shared.now, list[Any]()
    over = trio.Event()

    async def write(use_case: Any, *args: Any) -> Any:
        rows.append(await store.write(use_case, *args))
        if len(rows) == 1:
            await shared.claim(claim_id="c", now=old)
        elif len(rows) == 4:
            over.set()
        return rows[-1]

    other = Mock(is_shared=True, read=store.read, measure_clock=trio.lowlevel.checkpoint, write=write)
    await shared.write(enter, "other", old)
    await shared.write(sweep, "", old, TERMS, None)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(background.sweep, other, "sweeper", lambda: old + HOUR, TERMS)
        await over.wait()
        nursery.cancel_scope.cancel()
    assert rows[0].late_ms == pytest.approx(HOUR, abs=SECOND)
    assert "QUEUED" in await shared.statuses(), rows


async def test_a_smaller_step_ahead_is_followed_for_short_leases(world: World) -> None:
    terms = Terms(lease_ttl_ms=10 * SECOND)
    old = world.now
    await world.write(sweep, "", old, terms, None)
    await world.write(sweep, "", old + 15 * SECOND, terms, None)
    await world.claim(claim_id="c", now=old + SECOND // 10, ttl_ms=terms.lease_ttl_ms)
    await world.write(sweep, "", old + 16 * SECOND, terms, None)
    assert await world.statuses() == ["QUEUED", "CREATED", "CREATED"]


async def test_state_managers_know_of_a_clock_that_was_set_back_before_they_sweep_so_that_it_counts_once(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notices, "INTERVAL", math.inf)  # they do not come to measure it by themselves
    terms = Terms(lease_ttl_ms=500)
    async with open_manager(database.url, terms=terms) as first, open_manager(database.url, terms=terms):
        await (await Flow.deploy(first.api, place("a"))).trigger()
        due = "SELECT enqueue_after FROM states"
        ((before,),) = database.execute(due)
        # The first one has measured it, and sweeps next to one that has not.
        monkeypatch.setattr(server_clock, "_NOW", f"{server_clock._NOW} - {HOUR}")
        measured = first.service.store.lease_clock
        assert isinstance(measured, server_clock.ServerClock)
        with closing(Server(database.url).connect()) as connection:
            measured.measure(connection)
        await until(lambda: database.execute(due) != [(before,)])
        sweeps = set()

        def swept_often() -> bool:
            sweeps.update(database.execute("SELECT at FROM duties WHERE name = 'sweep'"))
            return len(sweeps) > 10

        await until(swept_often)
        ((after,),) = database.execute(due)
    assert before - after == pytest.approx(HOUR, abs=10 * SECOND)


async def test_a_state_manager_knows_of_a_clock_that_was_set_back_before_it_starts_scheduled_runs(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notices, "INTERVAL", math.inf)
    monkeypatch.setattr(leases, "MAX_SWEEP_INTERVAL", math.inf)
    yearly = [{"type": "CRON", "value": {"expression": "0 0 1 1 *"}}]
    terms = Terms(lease_ttl_ms=10 * HOUR)
    # The schedules are looked at once the clock was set, not while it is.
    async with open_manager(database.url, terms=terms, schedules=False) as manager:
        for graph in ("due", "due-in-half-an-hour"):
            await Flow.deploy(manager.api, place("a"), graph=graph, triggers=yearly)
        monkeypatch.setattr(server_clock, "_NOW", f"{server_clock._NOW} - {HOUR}")
        database.execute(
            "UPDATE cron_triggers SET next_at = CASE name WHEN 'due' THEN 0"
            f" ELSE extract(epoch FROM clock_timestamp()) * 1000 - {HOUR // 2} END"
            " FROM graphs WHERE id = graph"
        )
        started = "SELECT name FROM runs JOIN graphs ON graphs.id = graph"
        async with trio.open_nursery() as nursery:
            nursery.start_soon(manager.service.scheduler.run)
            await until(lambda: database.execute(started))
            nursery.cancel_scope.cancel()
        assert database.execute(started) == [("due",)]


# -- claims side by side


def ids(claimed: Claimed) -> set[str]:
    return {state["state_id"] for state in claimed.states}


async def test_claims_at_the_same_time_take_different_states_and_do_not_wait_for_each_other(
    shared: World,
) -> None:
    taken: list[Claimed] = []

    def claim_and_hold(tx: Transaction, held: Gate) -> None:
        taken.append(claim_at(tx, shared.now, 2, {"claim_id": "one"}).value)
        held.hold()

    async with held_up(shared.write, claim_and_hold):
        second = await shared.claim(3, claim_id="two")
    assert (len(ids(taken[0])), len(ids(second))) == (2, 1)
    assert not ids(taken[0]) & ids(second)


async def test_a_claim_that_comes_twice_at_the_same_time_takes_states_once(
    shared: World, database: Database
) -> None:
    taken: list[Claimed] = []

    def claim_and_hold(tx: Transaction, held: Gate) -> None:
        taken.append(claim_at(tx, shared.now, 1, {"claim_id": "same"}).value)
        held.hold()

    async def claim_again() -> None:
        taken.append(await shared.claim(claim_id="same"))

    async with held_up(shared.write, claim_and_hold) as nursery:
        nursery.start_soon(claim_again)
        await until(database.blocked)
    assert ids(taken[0]) == ids(taken[1])
    assert (await shared.statuses()).count("QUEUED") == 1


async def test_the_undo_of_a_claim_without_an_id_waits_for_a_commit_that_is_on_its_way(
    shared: World, database: Database
) -> None:
    undos: list[Any] = []

    def claim_and_hold(tx: Transaction, held: Gate) -> None:
        undos.append(claim_at(tx, shared.now, 2, {}).effects.undo)
        held.hold()

    async with held_up(shared.write, claim_and_hold) as nursery:
        nursery.start_soon(shared.write, undos[0])
        await until(database.blocked)
    assert await shared.statuses() == ["CREATED"] * 3


async def test_a_retry_that_waited_for_a_cancellation_knows_of_it(shared: World, database: Database) -> None:
    def run_of(view: View) -> str:
        return str(view.execute("SELECT run_id FROM runs ORDER BY id").fetchone()[0])

    def cancel_and_hold(tx: Transaction, held: Gate) -> None:
        cancel(tx, NAMESPACE, run_id)
        held.hold()

    async def retry() -> None:
        with pytest.raises(Refused, match="was cancelled"):
            await shared.write(retry_run, NAMESPACE, run_id, "again")

    run_id = await shared.manager.service.store.read(run_of)
    async with held_up(shared.write, cancel_and_hold) as nursery:
        nursery.start_soon(retry)
        await until(database.blocked)


@pytest.mark.parametrize("at_start", [True, False])
async def test_a_late_sweep_is_a_warning_unless_it_is_the_first_of_a_state_manager(
    database: Database, caplog: pytest.LogCaptureFixture, at_start: bool
) -> None:
    caplog.set_level(logging.INFO, logger="exotrio.manager")
    async with open_manager(database.url) as manager:
        await manager.service.store.write(sweep_an_hour_ago)
    async with open_manager(database.url, terms=Terms(lease_ttl_ms=500)) as manager:
        late = await logged(caplog)
        if not at_start:
            caplog.clear()
            await manager.service.store.write(sweep_an_hour_ago)
            late = await logged(caplog)
    assert late.message.startswith("leases were not checked for 36")
    assert late.levelno == (logging.INFO if at_start else logging.WARNING)


def sweep_an_hour_ago(tx: Transaction) -> None:
    tx.execute("UPDATE duties SET at = at - ? WHERE name = 'sweep'", (HOUR,))


async def logged(caplog: pytest.LogCaptureFixture) -> logging.LogRecord:
    """Wait for the line about a late sweep."""

    def rows() -> list[logging.LogRecord]:
        return [record for record in caplog.records if "not checked" in record.getMessage()]

    await until(rows)
    return rows()[0]
