"""Cron triggers under virtual time: the clock of the manager is Trio's."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio
from pydantic import ValidationError
from trio.testing import MockClock

from exotrio._util.cron import next_occurrence_ms
from exotrio.errors import DatabaseError
from exotrio.graph import CronTrigger
from exotrio.manager import embedded
from exotrio.manager.engine import schedules
from exotrio.manager.store.transaction import Transaction
from tests.contract.flow import Flow
from tests.support.helpers import (
    SettableClock,
    VirtualClock,
    declare,
    ok,
    open_client,
    place,
    refused,
)
from tests.support.manager import open_manager

N = "/v0/namespace/ns"


async def put(client: httpx.AsyncClient, *expressions: str, **fields: Any) -> httpx.Response:
    triggers = [{"type": "CRON", "value": {"expression": expression}} for expression in expressions]
    body = {"secrets": {}, "nodes": [place("a", namespace="ns")], "triggers": triggers, **fields}
    return await client.put(f"{N}/graph/g", json=body)


async def runs(client: httpx.AsyncClient) -> int:
    total: int = ok(await client.get(f"{N}/runs/1/1"))["total"]
    return total


START_MS = VirtualClock.START_MS
DAY_MS = 24 * 3_600_000
NODES = {"runtime_name": "r", "nodes": [declare("Node_a")]}


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


@asynccontextmanager
async def manager(db: str | Path, clock: Callable[[], int]) -> AsyncIterator[httpx.AsyncClient]:
    """Give a client of a manager with this clock."""
    async with embedded(db, clock=clock) as transport, open_client(transport=transport) as client:
        yield client


@pytest.fixture
async def client(clock: VirtualClock) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a manager in memory, at which the node of the graphs is registered."""
    async with manager(":memory:", clock) as opened:
        ok(await opened.put(f"{N}/nodes/", json=NODES))
        yield opened


async def test_a_graph_is_triggered_at_each_occurrence(
    client: httpx.AsyncClient, autojump_clock: MockClock
) -> None:
    ok(await put(client, "*/10 * * * *"), 201)
    await trio.sleep(599)
    assert await runs(client) == 0
    await trio.sleep(2)
    assert await runs(client) == 1
    await trio.sleep(3600)
    assert await runs(client) == 7


async def test_seconds_and_names_and_shorthands_are_understood(
    client: httpx.AsyncClient, autojump_clock: MockClock
) -> None:
    ok(await put(client, "* * * * * */20", "@hourly", "0 0 * * mon"), 201)
    await trio.sleep(61)
    assert await runs(client) == 3


async def test_an_update_replaces_the_schedules_and_leaves_those_of_other_namespaces(
    client: httpx.AsyncClient, autojump_clock: MockClock
) -> None:
    ok(await client.put("/v0/namespace/other/nodes/", json=NODES))
    triggers = [{"type": "CRON", "value": {"expression": "*/10 * * * *"}}]
    other = {"secrets": {}, "nodes": [place("a", namespace="other")], "triggers": triggers}
    ok(await client.put("/v0/namespace/other/graph/g", json=other), 201)
    ok(await put(client, "*/10 * * * *"), 201)
    ok(await put(client), 201)
    await trio.sleep(601)
    assert await runs(client) == 0
    assert ok(await client.get("/v0/namespace/other/runs/1/1"))["total"] == 1


async def test_an_unchanged_expression_keeps_its_next_occurrence_across_updates(
    client: httpx.AsyncClient, autojump_clock: MockClock
) -> None:
    ok(await put(client, "*/10 * * * *"), 201)
    await trio.sleep(300)
    ok(await put(client, "*/10 * * * *", store_config={"default_values": {"k": "v"}}), 201)
    await trio.sleep(301)
    assert await runs(client) == 1


async def test_runs_have_the_priority_of_the_schedule_that_started_them(
    client: httpx.AsyncClient, autojump_clock: MockClock
) -> None:
    async def store(*, hourly: str | None) -> None:
        values: list[dict[str, Any]] = [{"expression": "0 * * * *"}, {"expression": "30 * * * *"}]
        values[0] |= {} if hourly is None else {"priority": hourly}
        ok(await put(client, triggers=[{"type": "CRON", "value": value} for value in values]), 201)

    async def priorities() -> list[str]:
        page = ok(await client.get("/exotrio/v1/namespace/ns/runs?limit=10"))
        return [run["priority"] for run in reversed(page["runs"])]

    await store(hourly="low")
    await trio.sleep(3_601)
    assert await priorities() == ["normal", "low"]
    await store(hourly="high")
    await trio.sleep(3_600)
    assert await priorities() == ["normal", "low", "normal", "high"], "the next run has what is stored now"


async def test_an_update_takes_effect_for_graph_and_schedules_at_once(
    client: httpx.AsyncClient, autojump_clock: MockClock
) -> None:
    ok(await put(client, "*/10 * * * *"), 201)
    await trio.sleep(599)
    nodes = [place("b", namespace="ns", node_name="Node_a")]
    ok(await put(client, "5,15 * * * *", nodes=nodes), 201)
    await trio.sleep(5 * 60)
    assert await runs(client) == 0, "10 minutes past is no longer asked for"
    await trio.sleep(2)
    assert await runs(client) == 1
    reply = await client.post(f"{N}/states/enqueue", json={"nodes": ["Node_a"], "batch_size": 5})
    assert [state["identifier"] for state in ok(reply)["states"]] == ["b"]


@pytest.mark.parametrize("refused_for", ["expression", "graph"])
async def test_a_refused_update_leaves_the_schedules_alone(
    client: httpx.AsyncClient, autojump_clock: MockClock, refused_for: str
) -> None:
    ok(await put(client, "*/10 * * * *"), 201)
    if refused_for == "expression":
        refused(await put(client, "@daily", "nonsense"), 422)
    else:
        refused(await put(client, "@daily", nodes=[]), 400)
    await trio.sleep(601)
    assert await runs(client) == 1


async def test_an_invalid_update_starts_nothing_and_its_schedule_goes_on_when_the_graph_is_valid(
    client: httpx.AsyncClient, autojump_clock: MockClock
) -> None:
    ok(await put(client, "*/10 * * * *"), 201)
    nodes = [place("b", namespace="ns")]
    assert ok(await put(client, "*/10 * * * *", nodes=nodes), 201)["validation_status"] == "INVALID"
    await trio.sleep(601)
    assert await runs(client) == 0
    ok(await client.put(f"{N}/nodes/", json={**NODES, "nodes": [declare("Node_b")]}))
    assert ok(await put(client, "*/10 * * * *", nodes=nodes), 201)["validation_status"] == "VALID"
    await trio.sleep(601)
    assert await runs(client) == 1


async def test_a_run_that_cannot_be_started_does_not_end_the_schedule(
    client: httpx.AsyncClient, autojump_clock: MockClock
) -> None:
    ok(await put(client, "* * * * *", store_config={"required_keys": ["k"]}), 201)
    await trio.sleep(121)
    assert await runs(client) == 0
    ok(await put(client, "* * * * *"), 201)
    await trio.sleep(60)
    assert await runs(client) == 1


async def test_one_missed_occurrence_is_caught_up_after_a_downtime(tmp_path: Path) -> None:
    # A file, so threads, so real time: the clock of the test does not advance meanwhile.
    clock, db = SettableClock(START_MS), tmp_path / "state.db"
    async with manager(db, clock) as client:
        ok(await client.put(f"{N}/nodes/", json=NODES))
        ok(await put(client, "*/10 * * * *"), 201)
    clock.advance(DAY_MS)
    async with manager(db, clock) as client:
        with trio.fail_after(60):
            while not await runs(client):
                await trio.lowlevel.checkpoint()
        assert await runs(client) == 1


async def test_an_occurrence_that_breaks_off_in_the_middle_is_neither_lost_nor_fired_twice(
    client: httpx.AsyncClient, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken: list[str] = []

    def breaks_once(expression: str, after_ms: int) -> int | None:
        if not broken:
            broken.append(expression)
            raise DatabaseError("the disk is full")
        return next_occurrence_ms(expression, after_ms)

    ok(await put(client, "*/10 * * * *"), 201)
    # After the run was started, before the schedule is moved on: both are one transaction.
    monkeypatch.setattr(schedules, "next_occurrence_ms", breaks_once)
    await trio.sleep(601)
    assert broken
    assert await runs(client) == 0
    await trio.sleep(10)
    assert await runs(client) == 1
    await trio.sleep(600)
    assert await runs(client) == 2


@pytest.mark.parametrize("expression", ["", "nonsense", "61 * * * *", "@reboot", "H * * * *", "* * * *"])
async def test_an_expression_that_cannot_be_read_is_refused_with_its_place(
    client: httpx.AsyncClient, autojump_clock: MockClock, expression: str
) -> None:
    reply = await put(client, expression)
    refused(reply, 422)
    assert reply.json()["detail"][0]["loc"] == ["body", "triggers", 0, "value", "expression"]
    refused(await client.get(f"{N}/graph/g"), 404)


@pytest.mark.parametrize(
    ("expression", "is_refused"),
    [
        ("* 2 * 3 L0", True),  # the hour that is skipped on the last Sunday of March
        ("* 2 * 3 L0 */10", True),
        ("30 2 * 3 L0", False),  # a time of day occurs at the end of the hour
        ("* 2,3 * 3 L0", False),
        ("* 2 30 2 *", False),  # no date at all
        ("* 0 1 1 * 0 2026", False),  # over in this zone, and not in UTC
    ],
)
async def test_a_trigger_whose_times_are_all_skipped_is_refused(
    client: httpx.AsyncClient, autojump_clock: MockClock, expression: str, is_refused: bool
) -> None:
    value = {"expression": expression, "timezone": "Europe/Berlin"}
    reply = await put(client, triggers=[{"type": "CRON", "value": value}])
    if is_refused:
        why = "the clocks of Europe/Berlin skip all its times"
        assert refused(reply, 400) == f"cron trigger {expression!r} never comes due: {why}"
    else:
        ok(reply, 201)


def test_an_expression_that_cannot_be_read_is_refused_where_the_trigger_is_made() -> None:
    with pytest.raises(ValidationError, match="expression"):
        CronTrigger(expression="61 * * * *")
    with pytest.raises(ValidationError, match=r"timezone.*\n.*did you mean 'Europe/Berlin'"):
        CronTrigger(expression="0 9 * * *", timezone="Europe/Brelin")


async def test_a_trigger_with_a_zone_starts_its_runs_at_the_times_there(
    client: httpx.AsyncClient, autojump_clock: MockClock
) -> None:
    value = {"expression": "45 5-6 * * *", "timezone": "Asia/Kolkata"}
    ok(await put(client, triggers=[{"type": "CRON", "value": value}]), 201)
    await trio.sleep(14 * 60)
    assert await runs(client) == 0
    await trio.sleep(2 * 60)
    assert await runs(client) == 1
    await trio.sleep(3600)
    assert await runs(client) == 2


async def test_a_schedule_in_a_zone_that_this_machine_does_not_know_holds_up_no_other_and_is_kept(
    clock: VirtualClock, autojump_clock: MockClock
) -> None:
    unknown = "CRON_TZ=Mars/Olympus * * * * *"

    def stored_elsewhere(tx: Transaction) -> None:
        tx.execute("INSERT INTO cron_triggers SELECT id, ?, 1 FROM graphs", (unknown,))

    async with open_manager(clock=clock, schedules=False) as opened:
        triggers = [{"type": "CRON", "value": {"expression": "* * * * *"}}]
        await Flow.deploy(opened.api, place("a"), triggers=triggers)
        await opened.service.store.write(stored_elsewhere)
        await trio.sleep(61)
        lines = await opened.service.store.write(schedules.fire_schedules)
        assert [("started run" in line, "Mars/Olympus" in line) for line in lines] == [
            (False, True),
            (True, False),
        ]
        assert unknown in ok(await opened.api.get_graph("graph"))["scheduled"]
        assert await opened.service.store.write(schedules.fire_schedules) == [], "both look later"


@pytest.fixture
def in_new_york(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "America/New_York")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.usefixtures("in_new_york")
def test_occurrences_are_in_utc_wherever_the_machine_is() -> None:
    assert time.timezone == 5 * 3600, "the machine is there"
    noon = START_MS + 12 * 3_600_000
    assert next_occurrence_ms("0 12 * * *", START_MS) == noon
    # Where clocks are put forward that night, 02:30 does not exist; in UTC it does, every day.
    march_8 = START_MS + 66 * 86_400_000
    assert next_occurrence_ms("30 2 * * *", march_8) == march_8 + 150 * 60_000


@pytest.mark.parametrize(
    ("expression", "after"),
    [
        ("*/15 * * * *", 15 * 60),
        ("* * * * * 30", 30),
        ("0 0 * * * 0 2027", 365 * 86_400),
        ("0 0 * * mon", 4 * 86_400),
        ("0 0 L * *", 30 * 86_400),
        ("@hourly", 3600),
        ("@daily", 86_400),
        ("@monthly", 31 * 86_400),
    ],
)
def test_the_grammar_is_that_of_croniter(expression: str, after: int) -> None:
    assert next_occurrence_ms(expression, START_MS) == START_MS + after * 1000


def test_a_date_that_never_comes_is_none() -> None:
    assert next_occurrence_ms("0 0 30 2 *", START_MS) is None
