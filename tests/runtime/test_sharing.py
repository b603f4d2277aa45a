"""Several runtimes at one state manager: each gets its part of the work."""

from __future__ import annotations

from collections import Counter
from contextlib import AsyncExitStack

import pytest
import trio
from pydantic import BaseModel
from trio.testing import MockClock

from exotrio import BaseNode, Graph, StateManager
from exotrio._link.port import LinkKind
from exotrio._wire.vocabulary import RunStatus
from exotrio.manager import embedded
from tests.support.doubles import running

STATES = 240
RUNTIMES = ("one", "two", "three")


def nodes_of(runtime: str, done: Counter[str]) -> list[type[BaseNode]]:
    """The same nodes for each runtime, but that they note who ran them."""

    class Many(BaseNode):
        class Outputs(BaseModel):
            n: str

        async def execute(self) -> list[Outputs]:
            return [self.Outputs(n=str(number)) for number in range(STATES)]

    class Work(BaseNode):
        class Inputs(BaseModel):
            n: str

        async def execute(self) -> None:
            await trio.sleep(0.1)
            done[runtime] += 1

    return [Many, Work]


@pytest.mark.parametrize("link", ["native", "v0"])
async def test_runtimes_at_one_state_manager_share_the_work_fairly(
    autojump_clock: MockClock, link: LinkKind
) -> None:
    done: Counter[str] = Counter()
    many, work = nodes_of("any", done)
    graph = Graph("g", namespace="ns")
    graph.add(work, n=graph.add(many).n)
    async with (
        embedded(":memory:") as transport,
        StateManager("ns", transport=transport) as manager,
        AsyncExitStack() as stack,
    ):
        for name in RUNTIMES:
            # On v0 who is idle hears of work only at its next poll.
            nodes = nodes_of(name, done)
            one = running(transport, *nodes, link=link, poll_interval=0.05, registered=True)
            await stack.enter_async_context(one)
        await manager.upsert_graph(graph)
        run = await manager.trigger("g")
        assert (await manager.wait(run["run_id"], timeout=600)).status is RunStatus.SUCCESS
    assert done.total() == STATES
    # All have the same workers, and no runtime holds more than a batch that others could run.
    fair = STATES / len(RUNTIMES)
    assert all(abs(done[name] - fair) <= 16 for name in RUNTIMES), done
