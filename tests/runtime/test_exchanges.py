"""A busy runtime claims with the requests that report: how many, what is kept free, and what a stop does."""

from __future__ import annotations

from collections import Counter

import trio
from pydantic import BaseModel
from trio.testing import MockClock

from exotrio import BaseNode, Graph, Runtime, StateManager
from exotrio.manager import embedded
from tests.support.doubles import Call, Delays, NativeServer, running, runtime
from tests.support.steps import counted_steps


class Says(BaseNode):
    async def execute(self) -> None:
        pass


class Sleeps(BaseNode):
    class Inputs(BaseModel):
        seconds: str

    async def execute(self) -> None:
        await trio.sleep(float(self.inputs.seconds))


async def test_the_states_of_a_chain_come_with_the_reports_of_the_ones_before(
    autojump_clock: MockClock,
) -> None:
    class Counting(NativeServer):
        """Each outcome is followed by another state, five times."""

        async def serve(self, call: Call) -> object:  # type: ignore[override]
            if call.route == "outcomes" and len(self.states) < 5:
                self.add("Says")
            return await super().serve(call)

    server = Counting()
    async with running(server, Says) as rt:
        await trio.sleep(1)
        before = len(server.routes("claim"))
        server.add("Says")
        await server.until(EXECUTED=5)
        await trio.sleep(1)
        assert rt.summary.completed == 5
    # One that was waiting brought the first, and one more waits since then.
    assert len(server.routes("claim")) <= before + 1
    assert len(server.routes("outcomes")) == 5


async def test_a_hop_of_a_chain_in_process_takes_three_steps_of_the_loop(
    autojump_clock: MockClock,
) -> None:
    seen: list[Counter[str]] = []

    class Notes(BaseNode):
        async def execute(self) -> None:
            seen.append(steps.copy())

    chain = Graph("chain", namespace="ns")
    last = chain.add(Notes, identifier="c0")
    for number in range(1, 12):
        last = chain.add(Notes, identifier=f"c{number}", after=last)
    async with (
        embedded(":memory:") as transport,
        StateManager("ns", transport=transport) as manager,
        running(Runtime("ns", "rt", [Notes], transport=transport), registered=True),
    ):
        await manager.upsert_graph(chain)
        await trio.sleep(1)
        with counted_steps() as steps:
            run = await manager.trigger("chain")
            await manager.wait(run["run_id"])
    taken = seen[-1] - seen[1]
    del taken["poll"]  # it lets others go first now and then
    # Its node runs; its outcome is sent, and recorded at once; the answer brings the next state.
    assert sum(taken.values()) <= 10 * 3, taken


async def test_no_more_is_held_than_fits_however_claims_and_reports_meet(autojump_clock: MockClock) -> None:
    peak = 0

    async def count(call: Call) -> None:
        nonlocal peak
        peak = max(peak, server.statuses()["QUEUED"])

    server = NativeServer()
    server.after = count
    async with running(server, Sleeps, workers=3, batch_size=5) as rt:
        for number in range(60):
            server.add("Sleeps", seconds=f"{number % 7}")
        await server.until(EXECUTED=60)
        assert rt.summary.completed == 60
    # Those that run, those that wait for a worker, and those whose outcomes are on their way.
    assert peak <= 3 + 5 + 3


async def test_states_that_a_report_brings_during_a_stop_are_released(autojump_clock: MockClock) -> None:
    async def stop_then_wait(call: Call) -> None:
        if call.claim:
            server.add("Says", 3)
            rt.stop()
            await trio.sleep(1)

    server = NativeServer()
    server.before = stop_then_wait
    server.add("Says")
    rt = runtime(server, Says)
    with trio.fail_after(600):
        await rt.run()
    assert server.statuses() == {"EXECUTED": 1, "CREATED": 3}
    # The claim that waited meanwhile may have brought them, too.
    assert rt.summary.released in (3, 6)
    assert (rt.summary.completed, rt.summary.exit_code) == (1, 0)


async def test_while_reports_take_long_the_poller_claims_the_rest(
    autojump_clock: MockClock,
) -> None:
    async def travel(call: Call) -> None:
        if call.route == "outcomes":
            await trio.sleep(0.1)
            if len(server.routes("outcomes")) == 2:
                claimed.append(len(server.routes("claim")))

    server, claimed = NativeServer(), list[int]()
    server.before = travel
    server.add("Says")
    async with running(server, Says, workers=1, batch_size=16):
        await server.until(lambda: len(server.routes("claim")) == 2)
        server.add("Says")
        await server.until(EXECUTED=2)
    assert claimed == [3]


async def test_a_report_that_hangs_does_not_end_the_claims(autojump_clock: MockClock) -> None:
    server = NativeServer(Says=1)
    server.before = Delays(("outcomes",), 25, times=1)
    async with running(server, Says, workers=2, batch_size=4):
        await server.until(lambda: bool(server.routes("outcomes")))
        server.add("Says", 6)
        with trio.fail_after(60):
            await server.until(EXECUTED=6)


async def test_no_claim_waits_at_the_server_while_it_leaves_out_a_node_that_has_no_room(
    autojump_clock: MockClock,
) -> None:
    """It would not notice that there is room for the node again."""
    began: list[float] = []

    class Alone(BaseNode):
        concurrency = 1

        async def execute(self) -> None:
            began.append(trio.current_time())
            await trio.sleep(1)

    server = NativeServer(Alone=1)
    async with running(server, Alone, Says, workers=2, batch_size=4):
        await server.until(EXECUTED=1)
        await trio.sleep(3)
        added = trio.current_time()
        server.add("Alone")
        await server.until(EXECUTED=2)
    assert began[1] - added < 1
