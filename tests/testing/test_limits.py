"""Limits in ``run_graph`` and ``explore``: as with any state manager, and in virtual time."""

from __future__ import annotations

from bisect import bisect_left
from typing import ClassVar

import pytest
import trio
from pydantic import BaseModel
from trio.testing import MockClock

from exotrio import BaseNode, Graph
from exotrio.testing import explore, run_graph


class Number(BaseModel):
    n: int


class Fan(BaseNode):
    Inputs, Outputs = Number, Number

    async def execute(self) -> list[Number]:
        return [Number(n=n) for n in range(self.inputs.n)]


class Call(BaseNode):
    """Calls a service for a moment."""

    Inputs = Number
    begun: ClassVar[list[float]] = []
    now = most = 0

    async def execute(self) -> None:
        cls = type(self)
        cls.begun.append(trio.current_time())
        cls.now += 1
        cls.most = max(cls.most, cls.now)
        try:
            await trio.sleep(0.01)
        finally:
            cls.now -= 1


def graph(calls: int, **limit: int) -> Graph:
    Call.begun, Call.now, Call.most = [], 0, 0
    made = Graph("calls", namespace="tests")
    fan = made.add(Fan, n=calls)
    made.add(Call, after=fan, n=fan.n, limits=made.limit("service", **limit))
    return made


async def test_100_calls_a_minute_take_no_real_time(autojump_clock: MockClock) -> None:
    run = await run_graph(graph(250, starts=100, period=60), [Fan, Call])
    assert run.status == "SUCCESS"
    times = sorted(Call.begun)
    assert len(times) == 250
    assert max(bisect_left(times, at + 60) - index for index, at in enumerate(times)) == 100
    assert 120 <= times[-1] - times[0] <= 124


async def test_no_more_calls_run_at_once_than_the_limit_says(autojump_clock: MockClock) -> None:
    run = await run_graph(graph(9, at_most=2), [Fan, Call])
    assert run.status == "SUCCESS"
    assert (Call.most, len(Call.begun)) == (2, 9)


async def test_faults_leave_no_call_without_its_slot(autojump_clock: MockClock) -> None:
    made = graph(2, at_most=1)

    def check(_: object) -> None:
        assert Call.now == 0

    found = await explore(made, [Fan, Call], check=check)
    assert not found.failures


async def test_a_run_that_a_limit_stops_says_so(autojump_clock: MockClock) -> None:
    why = r"call is CREATED \(2 states\): waits for limit service: it is 0, which stops all; 0 before it$"
    with pytest.raises(trio.TooSlowError, match=why):
        await run_graph(graph(2, at_most=0), [Fan, Call], timeout=5)
