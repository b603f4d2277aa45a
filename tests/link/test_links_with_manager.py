"""Both links and the client against our own state manager, in process: the wire as both ends see it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio

from exotrio import RetryPolicyModel
from exotrio._http.endpoint import EMBEDDED_URI, Endpoint
from exotrio._link.auto import AutoLink
from exotrio._link.port import Fate, LinkKind
from exotrio._nodes.outcome import Errored, Executed, Outcome, Pruned, Requeued
from exotrio._wire.v0 import NodeDeclaration
from exotrio._wire.vocabulary import RunStatus, StateStatus
from exotrio.client._state_manager import StateManager
from exotrio.errors import GraphInvalid, NotFound
from exotrio.graph import Graph, GraphNodeModel
from exotrio.manager import embedded
from tests.link.links import released

KINDS: list[LinkKind] = ["native", "v0"]
TEXT = {"type": "object", "properties": {"text": {"type": "string"}}}


def node(name: str, **secrets: str) -> NodeDeclaration:
    return NodeDeclaration(name=name, inputs_schema=TEXT, outputs_schema=TEXT, secrets=list(secrets))


def place(identifier: str, text: str, *following: str) -> GraphNodeModel:
    return GraphNodeModel(
        node_name="Digest",
        namespace="ns",
        identifier=identifier,
        inputs={"text": text},
        next_nodes=list(following),
    )


@asynccontextmanager
async def world(kind: LinkKind, max_retries: int = 0) -> AsyncIterator[tuple[AutoLink, StateManager]]:
    """A state manager with a registered node and a graph of two places, a link and a client."""
    async with embedded(":memory:") as transport, StateManager("ns", transport=transport) as manager:
        endpoint = Endpoint(EMBEDDED_URI, None, transport)
        link = AutoLink(endpoint, "ns", kind=kind, worker_id="me", workers=4)
        await link.register("rt", [node("Digest", token="x")])
        graph = Graph(
            "g",
            [place("first", "hello", "second"), place("second", "${{ first.outputs.text }}")],
            secrets={"token": "abc"},
            retry_policy=RetryPolicyModel(max_retries=max_retries),
        )
        await manager.upsert_graph(graph)
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
async def test_a_run_is_claimed_executed_and_seen_to_its_end(kind: LinkKind) -> None:
    async with world(kind) as (link, manager):
        run_id = (await manager.trigger("g"))["run_id"]
        assert (await manager.status(run_id)).status is RunStatus.PENDING
        for expected in ("hello", "bye"):
            [claim] = await link.claim({"Digest": 4}, 4)
            assert claim.inputs == {"text": expected}
            assert await link.secrets(claim) == {"token": "abc"}
            [settlement] = await link.report([(claim, Executed([{"text": "bye"}]))])
            assert settlement.fate is Fate.SETTLED
        run = await manager.wait(run_id, timeout=60)
        assert run.status is RunStatus.SUCCESS
        assert [place.identifier for place in run.nodes] == ["first", "second"]
        assert [one.run_id for one in (await manager.runs()).runs] == [run_id]
        states = (await manager.run(run_id)).nodes
        detail = await manager.state("g", run_id, states[0].id)
        assert detail.outputs == {"text": "bye"}


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


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("retry", [True, False])
async def test_an_error_that_is_not_to_be_retried_is_retried_over_v0_only(
    kind: LinkKind, retry: bool
) -> None:
    async with world(kind, max_retries=1) as (link, manager):
        run_id = (await manager.trigger("g"))["run_id"]
        [claim] = await link.claim({"Digest": 4}, 4)
        await link.report([(claim, Errored("why", retry=retry))])
        run = await manager.status(run_id)
        retried = retry or kind == "v0"
        assert (run.errored_count, run.retried_count) == ((0, 1) if retried else (1, 0))


@pytest.mark.parametrize("kind", KINDS)
async def test_a_second_report_of_the_same_state_changes_nothing(kind: LinkKind) -> None:
    async with world(kind) as (link, manager):
        run_id = (await manager.trigger("g"))["run_id"]
        [claim] = await link.claim({"Digest": 4}, 4)
        await link.report([(claim, Executed([{"text": "bye"}]))])
        [again] = await link.report([(claim, Errored("late"))])
        assert again.fate is Fate.DROPPED
        assert (await manager.status(run_id)).errored_count == 0


@pytest.mark.parametrize("kind", KINDS)
async def test_a_released_state_can_be_claimed_again_at_once(kind: LinkKind) -> None:
    async with world(kind) as (link, manager):
        await manager.trigger("g")
        [claim] = await link.claim({"Digest": 4}, 4)
        assert [s.fate for s in await link.report(released(claim))] == [Fate.SETTLED]
        await trio.sleep(0.005)  # v0's smallest delay is a millisecond, and nothing announces its end
        assert [one.state_id for one in await link.claim({"Digest": 4}, 4)] == [claim.state_id]


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


async def test_a_native_claim_waits_for_a_first_state() -> None:
    claims: list[Any] = []
    async with world("native") as (link, manager):

        async def wait_for_one() -> None:
            claims.extend(await link.claim({"Digest": 4}, 4, wait=15))

        with trio.fail_after(14):  # below the poll's own end
            async with trio.open_nursery() as nursery:
                nursery.start_soon(wait_for_one)
                await trio.testing.wait_all_tasks_blocked()
                await manager.trigger("g")
    assert len(claims) == 1


async def test_a_run_or_graph_that_does_not_exist_is_not_found() -> None:
    async with world("native") as (_, manager):
        for call in (
            lambda: manager.status("no-such-run"),
            lambda: manager.run("no-such-run"),
            lambda: manager.trigger("no-such-graph"),
            lambda: manager.get_graph("no-such-graph"),
            lambda: manager.manual_retry("0123456789abcdef01234567"),
        ):
            with pytest.raises(NotFound):
                await call()


async def test_an_invalid_graph_names_its_problems() -> None:
    async with world("native") as (_, manager):
        with pytest.raises(GraphInvalid) as caught:
            await manager.upsert_graph("bad", [place("first", "x", "nowhere")], {})
        assert "nowhere" in str(caught.value)
        missing = GraphNodeModel(node_name="Absent", namespace="ns", identifier="a", inputs={})
        with pytest.raises(GraphInvalid) as caught:
            await manager.upsert_graph("bad", [missing], {})
        assert "Absent" in str(caught.value)


@pytest.mark.parametrize("kind", KINDS)
async def test_a_failed_state_can_be_retried_by_hand(kind: LinkKind) -> None:
    async with world(kind) as (link, manager):
        run_id = (await manager.trigger("g"))["run_id"]
        [claim] = await link.claim({"Digest": 4}, 4)
        await link.report([(claim, Errored("why"))])
        assert (await manager.wait(run_id, timeout=60)).status is RunStatus.FAILED
        retried = await manager.manual_retry(claim.state_id)
        [again] = await link.claim({"Digest": 4}, 4)
        assert again.state_id == retried.id
