"""What claims and outcomes cost next to many finished and many ready states."""

from __future__ import annotations

import sqlite3
import statistics
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack, closing
from pathlib import Path
from typing import Any

import httpx
import trio

from exotrio import StateManager
from exotrio.manager import embedded
from tests.bench.figures import Plan, Sample
from tests.bench.machine import NO_TLS
from tests.bench.places import fresh, working
from tests.bench.work import FAN, NAMESPACE

BATCH = 16


def history(plan: Plan) -> Iterator[Sample]:
    """CPU time of claims and outcomes of 16 states, all databases open at once and asked in turn."""
    yield from trio.run(_measure, plan)


async def _measure(plan: Plan) -> list[Sample]:
    few, many = plan.histories[0], plan.histories[-1]
    kinds = {
        f"{few:,} finished": (few, 0),
        f"{many:,} finished": (many, 0),
        f"{many:,} ready": (0, many),
    }
    needed = plan.runs * plan.claims * BATCH
    samples: list[Sample] = []
    async with AsyncExitStack() as stack:
        clients = {}
        for name, (finished, ready) in kinds.items():
            path = fresh(plan.folder) / "state.db"
            await _fill(path, finished, needed + ready)
            transport = await stack.enter_async_context(embedded(path))
            client = httpx.AsyncClient(transport=transport, base_url="http://bench", verify=NO_TLS)
            clients[name] = await stack.enter_async_context(client)
        for round_ in range(plan.runs):
            times: dict[str, dict[str, list[float]]] = {name: {"claim": [], "outcomes": []} for name in kinds}
            for turn in range(plan.claims):
                for name, client in clients.items():
                    await _turn(client, f"{round_} {turn}", times[name])
            for what in ("claim", "outcomes"):
                base = statistics.median(times[f"{few:,} finished"][what])
                for name in kinds:
                    cost = statistics.median(times[name][what])
                    samples.append(Sample(f"{what} of {BATCH} next to {name}", cost * 1000, "ms CPU"))
                    if not name.startswith(f"{few:,} "):
                        title = f"{what}, {name} over {few:,} finished"
                        samples.append(Sample(title, cost / base, "x", max_goal=1.2))
    return samples


async def _turn(client: httpx.AsyncClient, claim_id: str, times: dict[str, list[float]]) -> None:
    body: dict[str, Any] = {
        "worker_id": "bench",
        "limits": {"Step": BATCH},
        "limit": BATCH,
        "claim_id": claim_id,
    }
    states = (await timed(client, "claim", body, times["claim"]))["states"]
    assert len(states) == BATCH
    items = [executed(state, []) for state in states]
    replies = (await timed(client, "outcomes", items, times["outcomes"]))["items"]
    assert all(reply["result"] == "ok" for reply in replies)


def executed(state: Any, outputs: list[dict[str, str]]) -> dict[str, Any]:
    """Return the outcome of a claimed state."""
    token = state["lease"]["token"]
    return {"state_id": state["state_id"], "token": token, "outcome": "executed", "outputs": outputs}


async def timed(client: httpx.AsyncClient, route: str, body: Any, times: list[float]) -> Any:
    begin = time.process_time()
    reply = await client.post(f"/exotrio/v1/namespace/{NAMESPACE}/{route}", json=body)
    times.append(time.process_time() - begin)
    return reply.raise_for_status().json()


async def _fill(path: Path, finished: int, ready: int) -> None:
    """Make a database with so many states of one run, by SQL: running a million takes minutes."""
    async with embedded(path) as transport, working({"transport": transport}, FAN) as manager:
        await _one_run(manager)
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("BEGIN")
        db.execute(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?)"
            " INSERT INTO states (run, place, node_id, status, inputs, outputs, parent, path, enqueue_after,"
            " created_at, updated_at, claimed_at, finished_at)"
            " SELECT run, place, node_id, CASE WHEN i <= ? THEN 'SUCCESS' ELSE 'CREATED' END, inputs, "
            " outputs, parent, path, enqueue_after + i, created_at, updated_at, claimed_at, finished_at"
            " FROM n, (SELECT * FROM states WHERE place = 1 LIMIT 1) WHERE i > 0",
            (finished + ready, finished),
        )
        db.execute("UPDATE states SET enqueue_after = 0 WHERE status = 'CREATED'")
        db.execute("UPDATE counts SET pending = pending + ? WHERE place = 1", (ready,))
        db.execute("UPDATE runs SET pending = pending + ?", (ready,))
        db.execute("COMMIT")


async def _one_run(manager: StateManager) -> None:
    run = await manager.trigger(FAN.name, inputs={"n": "1"})
    await manager.wait(run["run_id"])
