"""Both links at our own state manager, in process."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
import trio

from exotrio import RetryPolicyModel
from exotrio._http.endpoint import EMBEDDED_URI, Endpoint
from exotrio._link.auto import AutoLink
from exotrio._link.port import Fate, LinkKind
from exotrio._nodes.outcome import (
    CheckpointText,
    Errored,
    Executed,
    HandedOver,
    Outcome,
    Pruned,
    Released,
    Report,
    Requeued,
)
from exotrio._wire.heartbeats import HeartbeatRequest, HeartbeatState
from exotrio._wire.native import Checkpoint
from exotrio._wire.v0 import NodeDeclaration
from exotrio._wire.vocabulary import StateStatus
from exotrio.client._state_manager import StateManager
from exotrio.graph import Graph, GraphNodeModel
from exotrio.manager import embedded

KINDS: list[LinkKind] = ["native", "v0"]
TEXT = {"type": "object", "properties": {"text": {"type": "string"}}}


@asynccontextmanager
async def world(kind: LinkKind) -> AsyncIterator[tuple[AutoLink, StateManager]]:
    """A state manager with a registered node and a graph of one, a link and a client."""
    node = NodeDeclaration(name="Digest", inputs_schema=TEXT, outputs_schema=TEXT, secrets=[])
    digest = GraphNodeModel(node_name="Digest", namespace="ns", identifier="d", inputs={"text": "hello"})
    async with embedded(":memory:") as transport, StateManager("ns", transport=transport) as manager:
        link = AutoLink(Endpoint(EMBEDDED_URI, None, transport), "ns", kind=kind, worker_id="me", workers=4)
        await link.register("rt", [node])
        await manager.upsert_graph(Graph("g", [digest], retry_policy=RetryPolicyModel(max_retries=0)))
        yield link, manager
        await link.aclose()


@pytest.mark.parametrize("kind", KINDS)
async def test_a_probe_gets_through_and_changes_nothing(kind: LinkKind) -> None:
    async with world(kind) as (link, manager):
        run_id = (await manager.trigger("g"))["run_id"]
        [claim] = await link.claim({"Digest": 4}, 4)
        before = await manager.run(run_id)
        assert (await link.probe()).fate is Fate.SETTLED
        assert await manager.run(run_id) == before
        [settlement] = await link.report([(claim, Executed([{"text": "bye"}]))])
        assert settlement.fate is Fate.SETTLED


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("outcome", "status"),
    [
        (Errored("why"), StateStatus.ERRORED),
        (Pruned({"n": 1}), StateStatus.PRUNED),
        (Requeued(0.001), StateStatus.CREATED),
        (Executed([{"text": "bye"}]), StateStatus.SUCCESS),
    ],
)
async def test_each_outcome_arrives(kind: LinkKind, outcome: Outcome, status: StateStatus) -> None:
    async with world(kind) as (link, manager):
        run_id = (await manager.trigger("g"))["run_id"]
        [claim] = await link.claim({"Digest": 4}, 4)
        [settlement] = await link.report([(claim, outcome)])
        assert settlement.fate is Fate.SETTLED
        states = {state.id: state.status for state in (await manager.run(run_id)).nodes}
        assert states[claim.state_id] is status


@pytest.mark.parametrize("end", [Errored("why"), Requeued(0.001), Released(), HandedOver()])
async def test_a_checkpoint_arrives_with_each_end_of_an_execution_and_the_next_claim_brings_it(
    end: Report,
) -> None:
    async with world("auto") as (link, manager):
        await manager.trigger("g")
        [claim] = await link.claim({"Digest": 4}, 4)
        assert claim.checkpoint is None
        checkpoint = CheckpointText(3, '{"row": "\N{SNOWMAN}"}')
        [settlement] = await link.report([(claim, replace(end, checkpoint=checkpoint))])
        assert settlement.fate is Fate.SETTLED
        if isinstance(end, Errored):
            await manager.manual_retry(claim.state_id)
        [again] = await link.claim({"Digest": 4}, 4, wait=5)
        assert again.checkpoint == checkpoint


async def test_a_heartbeat_learns_which_checkpoint_of_each_state_is_stored() -> None:
    async with world("auto") as (link, manager):
        for _ in range(2):
            await manager.trigger("g")
        one, two = await link.claim({"Digest": 4}, 4)
        held = [HeartbeatState(state_id=each.state_id, token=str(each.token)) for each in (one, two)]
        held[1].checkpoint = Checkpoint(number=4, value="{}")
        answer = await link.heartbeat(HeartbeatRequest(worker_id="me"), held, timeout=5)
        assert answer is not None
        assert answer.checkpoints == (None, 4)


@pytest.mark.parametrize("kind", KINDS)
async def test_a_cancelled_claim_keeps_nothing_that_it_does_not_return(kind: LinkKind) -> None:
    returned: list[Any] = []
    async with world(kind) as (link, manager):

        async def claim() -> None:
            returned.extend(await link.claim({"Digest": 4}, 4, wait=10))

        for served_first in (False, True):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(claim)
                await trio.testing.wait_all_tasks_blocked()
                if served_first:
                    await manager.trigger("g")
                nursery.cancel_scope.cancel()
            if not served_first:
                await manager.trigger("g")
        claimable: list[Any] = []
        with trio.fail_after(50):  # below any lease
            while len(returned) + len(claimable) < 2:
                claimable += await link.claim({"Digest": 4}, 4)
                await trio.lowlevel.checkpoint()
        assert claimable, "the first was cancelled before there was anything"
