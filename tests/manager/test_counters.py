"""Random histories through the native API: batches, repeats, releases, lost leases, manual retries."""

from __future__ import annotations

import random
from typing import Any
from uuid import uuid4

import pytest

from exotrio.manager.engine import leases
from exotrio.manager.engine.changes import MAX_GATHERED
from tests.contract.flow import Flow
from tests.support.helpers import SettableClock, node_name, ok, place
from tests.support.manager import Manager, open_manager, recount

PLACES = [
    place("t", "b", "s"),
    place("b", "c", "d", inputs={"p": "${{t.outputs.v}}"}),
    place("c", "inner", inputs={"p": "${{b.outputs.v}}"}),
    place("d", "inner"),
    place("s", "outer"),
    place("inner", "outer", "deep", unites="b", inputs={"all": "${{c.outputs.v}}"}),
    place("deep", "outer"),
    place("outer", "last", unites="t", strategy="ALL_DONE", inputs={"all": "${{inner.outputs.v}}"}),
    place("last"),
]
LIMITS = {node_name(each["identifier"]): 20 for each in PLACES}
STEPS = 40


class History:
    """One worker that does everything a worker may do, right and wrong."""

    def __init__(self, manager: Manager, clock: SettableClock, seed: int) -> None:
        self.manager = manager
        self.api = manager.remote
        self.clock = clock
        self.random = random.Random(seed)
        self.held: dict[str, str] = {}
        self.latest: dict[str, str] = {}
        self.reported: set[tuple[str, str]] = set()
        self.seen: list[tuple[str, str]] = []

    async def step(self) -> None:
        moves = [self.claim, self.report, self.report, self.report, self.release, self.lose, self.retry]
        await self.random.choice(moves)()
        self.clock.advance(self.random.choice([0, 1, 500]))
        await self.manager.service.store.read(recount)

    async def claim(self) -> None:
        limit = self.random.randint(1, 12)
        for state in ok(await self.api.native_claim(LIMITS, limit=limit))["states"]:
            self.held[state["state_id"]] = self.latest[state["state_id"]] = state["lease"]["token"]
            self.seen.append((state["state_id"], state["lease"]["token"]))

    async def report(self) -> None:
        """Report a batch in which states may stand twice, or not be ours any more."""
        items = [
            self.item(*self.random.choice(self.seen)) for _ in range(self.random.randint(1, 8)) if self.seen
        ]
        if not items:
            return
        results = ok(await self.api.outcomes(*items))["items"]
        assert [result["state_id"] for result in results] == [item["state_id"] for item in items]
        assert {result["result"] for result in results} <= {"ok", "duplicate", "stale"}
        for item, result in zip(items, results, strict=True):
            if result["result"] == "ok":
                claim = item["state_id"], item["token"]
                assert claim not in self.reported, "one claim was reported twice"
                assert item["token"] == self.latest[item["state_id"]], "the state has another holder"
                self.reported.add(claim)
                self.held.pop(item["state_id"], None)

    def item(self, state_id: str, token: str) -> dict[str, Any]:
        item: dict[str, Any] = {"state_id": state_id, "token": token}
        outcome = self.random.choice(["executed"] * 6 + ["errored", "pruned", "requeued"])
        if outcome == "executed":
            good = {"v": str(self.random.random())}
            outputs = [self.random.choice([good, good, good, {}]) for _ in range(self.random.randint(0, 3))]
            return {**item, "outcome": outcome, "outputs": outputs}
        if outcome == "errored":
            return {**item, "outcome": outcome, "error": "e"}
        if outcome == "pruned":
            return {**item, "outcome": outcome, "data": {}}
        return {**item, "outcome": outcome, "delay_ms": self.random.choice([1, 400])}

    async def release(self) -> None:
        chosen = self.random.choices(self.seen, k=3) if self.seen else []
        body = [{"state_id": state_id, "token": token} for state_id, token in chosen]
        ok(await self.api.release(states=body, delay_ms=self.random.choice([0, 300])))
        ok(await self.api.release(claim_id="unknown"))

    async def lose(self) -> None:
        """Let every lease end, now and then so often that states are poisoned; regain some of them."""
        service = self.manager.service
        late = service.monotonic() + service.terms.lease_ttl_ms + 1
        await service.store.write(leases.expire, late, service.terms)
        beats = [{"state_id": state_id, "token": token} for state_id, token in self.held.items()]
        kept = self.random.sample(beats, len(beats) // 2)
        ok(await self.api.native("POST", "heartbeat", json={"worker_id": "w", "states": kept}))

    async def retry(self) -> None:
        if self.seen:
            await self.api.manual_retry(self.random.choice(self.seen)[0])


@pytest.mark.parametrize("seed", range(12))
async def test_after_every_step_the_counters_are_what_a_recount_says(seed: int) -> None:
    clock = SettableClock()
    policy = {"max_retries": 1, "strategy": "FIXED", "backoff_factor": 1}
    async with open_manager(clock=clock) as manager:
        flow = await Flow.deploy(manager.api, *PLACES, retry_policy=policy)
        history = History(manager, clock, seed)
        await flow.trigger()
        await flow.trigger()
        for _ in range(STEPS):
            await history.step()
        run_id = flow.run_id
        response = await manager.api.native("POST", f"run/{run_id}/cancel")
        assert response.status_code in {200, 409}
        await manager.service.store.read(recount)


async def test_each_of_many_large_runs_counts_its_first_state() -> None:
    async with open_manager() as manager:
        flow = await Flow.deploy(manager.api, place("a", inputs={"p": "initial"}))
        runs = [{"run_id": str(uuid4()), "inputs": {"p": "x" * (MAX_GATHERED // 3)}} for _ in range(5)]
        ok(await manager.api.trigger_many(flow.graph, *runs))
        await manager.service.store.read(recount)
