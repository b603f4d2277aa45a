"""Cron triggers under virtual time: the clock of the manager is Trio's."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio
import trio.testing

from exotrio._cron import next_occurrence_ms
from exotrio.manager import embedded
from tests.helpers import declare, ok, place, refused

N = "/v0/namespace/ns"
START_MS = 1_767_225_600_000  # 2026-01-01T00:00:00Z


@asynccontextmanager
async def manager() -> AsyncIterator[httpx.AsyncClient]:
    """Give a client of a manager whose clock is Trio's, and stands at midnight now."""
    midnight = trio.current_time()

    def clock() -> int:
        return START_MS + round((trio.current_time() - midnight) * 1000)

    async with (
        embedded(":memory:", clock=clock) as transport,
        httpx.AsyncClient(transport=transport, base_url="http://embedded") as client,
    ):
        body = {"runtime_name": "r", "nodes": [declare("Node_a")]}
        ok(await client.put(f"{N}/nodes/", json=body))
        yield client


async def put(client: httpx.AsyncClient, *expressions: str, **fields: Any) -> httpx.Response:
    triggers = [{"type": "CRON", "value": {"expression": expression}} for expression in expressions]
    body = {"secrets": {}, "nodes": [place("a", namespace="ns")], "triggers": triggers, **fields}
    return await client.put(f"{N}/graph/g", json=body)


async def runs(client: httpx.AsyncClient) -> int:
    total: int = ok(await client.get(f"{N}/runs/1/1"))["total"]
    return total


async def test_a_graph_is_triggered_at_each_occurrence(autojump_clock: trio.testing.MockClock) -> None:
    async with manager() as client:
        ok(await put(client, "*/10 * * * *"), 201)
        await trio.sleep(599)
        assert await runs(client) == 0
        await trio.sleep(2)
        assert await runs(client) == 1
        await trio.sleep(3600)
        assert await runs(client) == 7


async def test_seconds_and_names_and_shorthands_are_understood(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with manager() as client:
        ok(await put(client, "* * * * * */20", "@hourly", "0 0 * * mon"), 201)
        await trio.sleep(61)
        assert await runs(client) == 3


async def test_equal_expressions_count_once(autojump_clock: trio.testing.MockClock) -> None:
    async with manager() as client:
        ok(await put(client, "* * * * *", "* * * * *"), 201)
        await trio.sleep(61)
        assert await runs(client) == 1


async def test_an_update_replaces_the_schedules_and_leaves_those_of_other_namespaces(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with manager() as client:
        ok(
            await client.put(
                "/v0/namespace/other/nodes/", json={"runtime_name": "r", "nodes": [declare("Node_a")]}
            )
        )
        triggers = [{"type": "CRON", "value": {"expression": "*/10 * * * *"}}]
        other = {"secrets": {}, "nodes": [place("a", namespace="other")], "triggers": triggers}
        ok(await client.put("/v0/namespace/other/graph/g", json=other), 201)
        ok(await put(client, "*/10 * * * *"), 201)
        ok(await put(client), 201)
        await trio.sleep(601)
        assert await runs(client) == 0
        assert ok(await client.get("/v0/namespace/other/runs/1/1"))["total"] == 1


async def test_an_unchanged_expression_keeps_its_next_occurrence_across_updates(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with manager() as client:
        ok(await put(client, "*/10 * * * *"), 201)
        await trio.sleep(300)
        ok(await put(client, "*/10 * * * *", store_config={"default_values": {"k": "v"}}), 201)
        await trio.sleep(301)
        assert await runs(client) == 1


async def test_a_run_that_cannot_be_started_does_not_end_the_schedule(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with manager() as client:
        ok(await put(client, "* * * * *", store_config={"required_keys": ["k"]}), 201)
        await trio.sleep(121)
        assert await runs(client) == 0
        ok(await put(client, "* * * * *"), 201)
        await trio.sleep(60)
        assert await runs(client) == 1


async def test_one_missed_occurrence_is_caught_up_after_a_downtime(tmp_path: Path) -> None:
    now = START_MS

    def clock() -> int:
        return now

    async def open_with(expression: str | None) -> int:
        async with (
            embedded(tmp_path / "state.db", clock=clock) as transport,
            httpx.AsyncClient(transport=transport, base_url="http://embedded") as client,
        ):
            if expression is not None:
                ok(await client.put(f"{N}/nodes/", json={"runtime_name": "r", "nodes": [declare("Node_a")]}))
                ok(await put(client, expression), 201)
                return 0
            with trio.fail_after(5):
                while not await runs(client):
                    await trio.lowlevel.checkpoint()
            return await runs(client)

    # A file, so threads, so real time: the clock given here stands still meanwhile.
    await open_with("*/10 * * * *")
    now += 24 * 3_600_000
    assert await open_with(None) == 1


@pytest.mark.parametrize("expression", ["", "nonsense", "61 * * * *", "@reboot", "H * * * *", "* * * *"])
async def test_an_expression_that_cannot_be_read_is_refused_with_its_place(
    autojump_clock: trio.testing.MockClock, expression: str
) -> None:
    async with manager() as client:
        reply = await put(client, expression)
        refused(reply, 422)
        assert reply.json()["detail"][0]["loc"] == ["body", "triggers", 0, "value", "expression"]
        refused(await client.get(f"{N}/graph/g"), 404)


async def test_stored_triggers_are_shown_as_they_were_put(autojump_clock: trio.testing.MockClock) -> None:
    async with manager() as client:
        shown = ok(await put(client, "*/5 * * * *"), 201)
        assert shown["triggers"] == [{"type": "CRON", "value": {"expression": "*/5 * * * *"}}]


def test_occurrences_are_in_utc_and_a_date_that_never_comes_is_none() -> None:
    assert next_occurrence_ms("0 12 * * *", START_MS) == START_MS + 12 * 3_600_000
    assert next_occurrence_ms("0 0 30 2 *", START_MS) is None
