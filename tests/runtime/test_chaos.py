"""Whatever fails and whenever the stop comes: nothing is lost without being named, and the end is in time."""

from __future__ import annotations

import random
from typing import Any

import httpx
import pytest
import trio
from pydantic import BaseModel
from trio.testing import MockClock

from exotrio import BaseNode, Phase
from tests.support.doubles import Call, NativeServer, V0Server, reply, runtime


class Works(BaseNode):
    """Takes its time, and some time to clean up."""

    class Inputs(BaseModel):
        seconds: str

    async def execute(self) -> None:
        try:
            await trio.sleep(float(self.inputs.seconds))
        finally:
            with trio.move_on_after(min(float(self.inputs.seconds) / 10, 7), shield=True):
                await trio.sleep_forever()


class Chaos:
    """A hook that delays, refuses, breaks and hangs, as often as its seed says.

    Args:
        served: The server did what was asked: no failure may say that it did not.
    """

    def __init__(self, rng: random.Random, badness: float, *, served: bool) -> None:
        self.rng = rng
        self.badness = badness
        self.served = served

    async def __call__(self, call: Call) -> httpx.Response | None:
        await trio.sleep(self.rng.expovariate(10))
        if self.rng.random() > self.badness:
            return None
        match self.rng.randrange(4 if self.served else 6):
            case 0:
                raise httpx.ReadError("chaos")
            case 1:
                await trio.sleep(40)
                return None
            case 2:
                return httpx.Response(502, content=b"<html>")
            case 3:
                return reply(500)
            case 4:
                raise httpx.ConnectError("chaos")
        return reply(503)


@pytest.mark.parametrize("way", ["stop", "stop twice", "cancel"])
@pytest.mark.parametrize("kind", [V0Server, NativeServer])
@pytest.mark.parametrize("seed", range(10))
async def test_every_state_ends_is_free_again_or_is_named(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture, kind: type[V0Server], seed: int, way: str
) -> None:
    rng = random.Random(seed)
    server = kind()
    for _ in range(30):
        server.add("Works", seconds=str(rng.expovariate(1 / rng.choice([0.1, 3, 30]))))
    badness = rng.choice([0.0, 0.1, 0.5])
    rt = runtime(server, Works, workers=rng.randint(1, 5), batch_size=rng.randint(1, 12))
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            await nursery.start(rt.run)
            server.before = Chaos(rng, badness, served=False)
            server.after = Chaos(rng, badness / 2, served=True)
            await trio.sleep(rng.expovariate(1 / 5))
            began = trio.current_time()
            if way == "cancel":
                scope.cancel()
            else:
                rt.stop()
                if way == "stop twice":
                    await trio.sleep(rng.random() * 5)
                    rt.stop(0)
                    began = trio.current_time()
    assert trio.current_time() - began <= (28.6 if way == "stop" else 8.6)
    assert rt.phase is Phase.STOPPED

    summary: Any = rt.summary
    held = {state.id for state in server.states.values() if state.status == "QUEUED"}
    unnamed = held - set(summary.left_behind)
    # A claim that could not even be given up is logged as such; its leases run out.
    assert len(unnamed) <= summary.lost_claims or "leases have to expire" in caplog.text
    assert not server.routes("errored")
    if badness == 0:
        assert not held
        assert summary.exit_code == 0
        assert summary.completed == server.statuses()["EXECUTED"]
