"""What the cancellation of a large run costs others: claims of another run, until all of it has ended."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import trio

from tests.bench.figures import Plan, Sample
from tests.bench.latency import percentile
from tests.bench.places import fresh
from tests.contract.flow import Flow
from tests.contract.native import B, claim, item_for, report
from tests.support.helpers import ok, place
from tests.support.manager import open_manager
from tests.support.stores import new_database

STATES = 300_000
AT_ONCE = 10_000
BATCH = 16
CLAIMS = 10


def cancelling(plan: Plan) -> Iterator[Sample]:
    """The longest claim of 16 states of another run while a run of 300,000 is cancelled; and the whole."""
    for engine in ("sqlite", "postgres"):
        with ExitStack() as stack:
            db = new_database(engine, fresh(plan.folder), stack)
            seconds, claims = trio.run(_cancel, db, min(STATES, plan.histories[-1] * 3))
        yield Sample(f"a large run is cancelled, until it has ended, {engine}", seconds, "s")
        yield Sample(f"claims of another run meanwhile, p50, {engine}", percentile(claims, 50), "ms")
        yield Sample(f"the longest of these, {engine}", max(claims) * 1_000, "ms", max_goal=100)


async def _cancel(db: str | Path, states: int) -> tuple[float, list[float]]:
    async with open_manager(db) as manager:
        flow = await Flow.deploy(manager.api, place("a", "f"), place("f", "b"), place("b"))
        large = await flow.trigger()
        parts = max(1, states // AT_ONCE)
        await flow.run("a", *[{"v": ""}] * parts)
        for state in await flow.take("f", parts):
            ok(await manager.api.executed(state["state_id"], *[{"v": ""}] * (states // parts)))
        await flow.trigger()
        await flow.run("a", {"v": ""})
        await flow.run("f", *[{"v": ""}] * min(AT_ONCE, states))
        claims: list[float] = []
        begin = time.perf_counter()
        ok(await manager.api.native("POST", f"run/{large}/cancel"))
        is_pending = True
        while is_pending:
            for _ in range(CLAIMS):
                at = time.perf_counter()
                held = await claim(manager.api, {B: BATCH}, limit=BATCH)
                claims.append(time.perf_counter() - at)
                await report(manager.api, *[item_for(state, outputs=[{"v": ""}]) for state in held])
            is_pending = ok(await manager.api.native_run(large))["status"] == "PENDING"
        return time.perf_counter() - begin, claims
