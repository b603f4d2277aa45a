"""The figures of the table of ``tests.bench.peers``, of one system: one round.

Each is the same piece of work in every system: jobs that do nothing, submitted and run by one process, which
shares the machine with the database. What is counted ends when the last job has begun, or the join.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from itertools import count

import anyio

from tests.bench.adapters import Adapter
from tests.bench.adapters.jobs import Jobs

PAUSE = 0.02
"""Mean seconds between two jobs for latency, so that the system is idle again by then."""
LIMIT = 120.0
"""Seconds a figure may take."""


@dataclass(frozen=True)
class Sizes:
    """How much to measure.

    Attributes:
        stored: Jobs that are submitted first, and then run.
        wide: Parts of the fan-out for throughput.
        fan: Parts of the fan-out for latency.
        latencies: Jobs started on an idle system; a quarter as many chains.
    """

    stored: int = 10_000
    wide: int = 5_000
    fan: int = 1_000
    latencies: int = 100

    @classmethod
    def scaled(cls, scale: float) -> Sizes:
        return cls(**{name: max(round(size * scale), 4) for name, size in vars(cls()).items()})


class Measurement:
    """Measures a system that is connected."""

    def __init__(self, system: Adapter, jobs: Jobs, sizes: Sizes) -> None:
        self._system, self._jobs, self._sizes = system, jobs, sizes
        self._tags = (f"{random.randrange(10**6)}-{number}" for number in count())

    async def all(self) -> dict[str, float | None]:
        """Return each figure by its name, or None if it took too long."""
        figures = {"stored": await _limited(self._stored)}
        figures["plain"] = await _limited(self._plain)
        wide, fan = partial(self._fan_out, self._sizes.wide), partial(self._fan_out, self._sizes.fan)
        async with self._system.working():
            figures["idle"] = await _limited(self._idle)
            figures["chain"] = await _limited(self._chain)
            figures["fan"] = await _limited(fan)
            seconds = await _limited(wide)
            figures["wide"] = seconds and self._sizes.wide / seconds
        return figures

    async def _stored(self) -> float:
        """Jobs per second stored by bulk calls."""
        self._plain_tag = next(self._tags)
        payloads = [f"mark {self._plain_tag}"] * self._sizes.stored
        begin = time.perf_counter()
        await self._system.submit(payloads)
        return self._sizes.stored / (time.perf_counter() - begin)

    async def _plain(self) -> float:
        """Jobs per second of those that were stored."""
        done = self._jobs.expect(self._plain_tag, self._sizes.stored)
        begin = time.perf_counter()
        async with self._system.working():
            await done()
            return self._sizes.stored / (time.perf_counter() - begin)

    async def _fan_out(self, size: int) -> float:
        """Seconds of a fan-out until its join."""
        tag = next(self._tags)
        done = self._jobs.expect(tag)
        begin = time.perf_counter()
        await self._system.fan_out(tag, size)
        await done()
        return time.perf_counter() - begin

    async def _idle(self) -> float:
        """Milliseconds from the submission of a job until it begins, p50."""

        async def one() -> float:
            tag = next(self._tags)
            done = self._jobs.expect(tag)
            begin = time.perf_counter()
            await self._system.submit([f"mark {tag}"])
            await done()
            return self._jobs.began(tag) - begin

        return await self._median(one, self._sizes.latencies)

    async def _chain(self) -> float:
        """Milliseconds from the submission of a chain of five until its last job begins, p50."""

        async def one() -> float:
            tag = next(self._tags)
            done = self._jobs.expect(tag, 5)
            begin = time.perf_counter()
            await self._system.chain(tag, 5)
            await done()
            return self._jobs.began(tag) - begin

        return await self._median(one, self._sizes.latencies // 4)

    async def _median(self, one: Callable[[], Awaitable[float]], times: int) -> float:
        await one()
        seconds = []
        for _ in range(times):
            await anyio.sleep(random.uniform(0, 2 * PAUSE))
            seconds.append(await one())
        return statistics.median(seconds) * 1000


async def _limited(measure: Callable[[], Awaitable[float]]) -> float | None:
    with anyio.move_on_after(LIMIT):
        return await measure()
    return None
