"""What a state manager shows of itself, as far as it takes a clock that can be set."""

from __future__ import annotations

from exotrio._wire_overview import Overview
from tests.contract.flow import Flow
from tests.helpers import NO_RETRY, SettableClock, ok, place
from tests.manager.support import open_manager, tallied


async def test_what_ended_is_counted_by_minute_and_by_node() -> None:
    clock = SettableClock()
    async with open_manager(clock=clock) as manager:
        flow = await Flow.start(manager.api, place("a"), retry_policy=NO_RETRY)
        await flow.run("a")
        await tallied(manager.service, clock)
        clock.advance(119_000)
        await flow.trigger()
        await flow.fail("a", times=1)
        await tallied(manager.service, clock)
        shown = Overview.model_validate(ok(await manager.api.overview()))
        assert shown.throughput.ended[-3:] == [1, 0, 1]
        assert shown.throughput.failed[-3:] == [0, 0, 1]
        assert shown.throughput.first_minute + 59 == clock.now_ms // 60_000
        (a,) = shown.nodes
        assert (a.ended, a.failed) == (2, 1)
        assert a.p50_ms is not None
