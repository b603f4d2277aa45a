"""Short forms for the native API, and the items of its batches."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio

from exotrio.manager.api import native as manager_api
from tests.contract.api import Api
from tests.support.helpers import eventually, node_name, ok

A = node_name("a")
B = node_name("b")
HOUR_MS = 3_600_000
OK = {"v": "x", "w": "w"}
PRINTED = {"at": "2026-01-31T12:00:00.123Z", "level": "stdout", "text": "begun"}


def executed_item(state: dict[str, Any], *outputs: dict[str, Any]) -> dict[str, Any]:
    return item_for(state, outcome="executed", outputs=list(outputs or (OK,)))


def item_for(state: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"state_id": state["state_id"], "token": state["lease"]["token"], **fields}


async def claim(api: Api, limits: dict[str, int] | None = None, **options: Any) -> list[dict[str, Any]]:
    states: list[dict[str, Any]] = ok(await api.native_claim(limits or {A: 10}, **options))["states"]
    return states


async def claim_one(api: Api, **options: Any) -> dict[str, Any]:
    (state,) = await claim(api, **options)
    return state


def results(reply: dict[str, Any]) -> list[str]:
    return [item["result"] for item in reply["items"]]


async def report(api: Api, *items: dict[str, Any]) -> list[str]:
    reply = ok(await api.outcomes(*items))
    assert [item["state_id"] for item in reply["items"]] == [item["state_id"] for item in items]
    return results(reply)


@asynccontextmanager
async def waiting_claim(
    api: Api, limits: dict[str, int] | None = None
) -> AsyncIterator[list[dict[str, Any]]]:
    """Let a claim wait while the body runs; when it has ended, the list has the states of the claim.

    It waits as long as it is not woken: a claim whose wait is over would find the states, too.
    """
    states: list[dict[str, Any]] = []

    async def wait() -> None:
        states.extend(await claim(api, limits, wait_ms=15_000, worker_id="waits"))

    with trio.fail_after(60), pytest.MonkeyPatch.context() as patch:
        patch.setattr(manager_api, "max_wait_of", lambda request, wait_ms: 600.0)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            await until_polling(api, "waits")
            yield states


async def until_polling(api: Api, *worker_ids: str) -> None:
    """Wait until claims of these workers, which have claimed nothing before, are at the state manager."""

    async def polling() -> None:
        workers = {worker["worker_id"]: worker for worker in ok(await api.workers())["workers"]}
        assert [each for each in worker_ids if workers.get(each, {}).get("polled_ms") is None] == []

    await eventually(polling)


async def claim_again(api: Api) -> dict[str, Any]:
    states = await claim(api)
    assert states
    return states[0]
