"""The workers of a campaign, by slot: another one replaces each that ends, and how each ends is recorded."""

from __future__ import annotations

import signal
from collections import Counter
from dataclasses import dataclass, field

import trio

from exotrio._shared.settings import CODE_VERSION_VARIABLE
from tests.chaos.cluster import Child, Cluster, ready, until
from tests.chaos.graph import VERSIONS
from tests.chaos.plan import STOPS, Fault, Plan

EXIT_TIMEOUT = 32.0
"""Seconds a process may take to stop: the 28 a worker promises, and a busy machine."""


@dataclass(slots=True)
class Crew:
    """The workers.

    Attributes:
        members: The present worker of each slot.
        busy: Slots that something is being done to.
        exits: Exit codes of workers that were requested to stop.
        problems: How some ended that should not have.
        in_order: Processes that stopped and said that nothing is left: exit code 0.
    """

    plan: Plan
    cluster: Cluster
    members: list[Child] = field(default_factory=list)
    busy: set[int] = field(default_factory=set)
    exits: Counter[int] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)
    in_order: set[int] = field(default_factory=set)
    _ended_by_us: set[int] = field(default_factory=set)

    async def muster(self) -> None:
        """Start all and wait until they are registered."""
        self.members = [await self._start(slot) for slot in range(self.plan.processes)]
        with trio.fail_after(60):
            await until(lambda: all(map(ready, self.members)))

    async def dismiss(self) -> None:
        """Ask all to stop, and wait for it."""
        async with trio.open_nursery() as nursery:
            for child in self.members:
                nursery.start_soon(self._terminate, child, Fault.TERM)

    def free(self) -> list[int]:
        """Return the slots nothing is being done to."""
        return [slot for slot in range(len(self.members)) if slot not in self.busy]

    async def kill(self, slot: int) -> None:
        """Kill one, as ``kill -9`` does."""
        child = self.members[slot]
        self._ended_by_us.add(child.pid)
        child.send(signal.SIGKILL)
        await child.wait()

    async def replace(self, slot: int) -> None:
        """Start a successor in a slot whose worker ended."""
        self.members[slot] = await self._start(slot)

    async def roll(self, slot: int, kind: str, background: trio.Nursery) -> None:
        """Ask one to stop, in a way of ``STOPS``. Its successor starts at once, or after it if they share an
        outbox."""
        child = self.members[slot]
        if self.plan.outbox:
            self.busy.add(slot)
            background.start_soon(self._succeed, slot, child, kind)
        else:
            background.start_soon(self._terminate, child, kind)
            await self.replace(slot)

    async def _succeed(self, slot: int, child: Child, kind: str) -> None:
        await self._terminate(child, kind)
        await self.replace(slot)
        self.busy.discard(slot)

    async def _start(self, slot: int) -> Child:
        env = {} if self.plan.v0_only else {CODE_VERSION_VARIABLE: VERSIONS[slot % len(VERSIONS)]}
        if self.plan.outbox:
            env["CHAOS_OUTBOX"] = str(self.cluster.folder / f"outbox-{slot}")
        child = await self.cluster.start_worker(f"worker-{slot}", **env)
        self.cluster.nursery.start_soon(self._expect_no_end, child)
        return child

    async def _expect_no_end(self, child: Child) -> None:
        code = await child.wait()
        if child.pid not in self._ended_by_us:
            self.problems.append(f"a worker ended by itself with exit code {code}: {child.log}")

    async def _terminate(self, child: Child, kind: str) -> None:
        self._ended_by_us.add(child.pid)
        code = await stop(child, STOPS[kind])
        if code is None:
            self.problems.append(f"a worker did not stop within {EXIT_TIMEOUT} s: {child.log}")
            return
        self.exits[code] += 1
        if code == 0:
            self.in_order.add(child.pid)
        # On v0 a claim whose answer was cut may have taken something: then 75 is the truth. Before a process
        # has loaded our code it has no handler for the signal, and holds nothing.
        loading = code == -STOPS[kind] and not ready(child)
        if code != 0 and not (code == 75 and self.plan.v0_only) and not loading:
            self.problems.append(f"a worker that was asked to stop ended with {code}: {child.log}")


async def stop(child: Child, number: signal.Signals = signal.SIGTERM) -> int | None:
    """Ask a process to stop and return its exit code; None if it had to be killed."""
    child.send(number)
    with trio.move_on_after(EXIT_TIMEOUT):
        return await child.wait()
    child.send(signal.SIGKILL)
    return None
