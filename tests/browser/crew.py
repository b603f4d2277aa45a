"""Runtimes that are played: they claim, report and beat at a state manager, in a time of its own."""

from __future__ import annotations

import heapq
import random
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from exotrio.manager import Service
from exotrio.manager.store.view import View
from tests.contract.api import Api
from tests.contract.native import item_for
from tests.support.helpers import SettableClock, ok

BEAT_MS = 10_000
BATCH = 64

Inputs = Mapping[str, Any]
Act = Callable[[Inputs, random.Random], dict[str, Any]]
"""What a node makes of its inputs: the fields of an outcome."""


@dataclass(frozen=True)
class Part:
    """How one node is played.

    Attributes:
        seconds: How long it takes in the middle.
        act: Gives its outcome.
    """

    seconds: float
    act: Act


@dataclass
class Hand:
    """One runtime.

    Attributes:
        nodes: What it asks for.
        workers: How many nodes it runs at once.
        holding: What it runs, each with when that will end.
        leaves_at: When it stops claiming, reporting and beating, as by kill -9.
    """

    worker_id: str
    runtime: str
    nodes: tuple[str, ...]
    workers: int
    phase: str = "running"
    tasks: str | None = None
    leaves_at: int | None = None
    progress: Mapping[str, tuple[float | None, str]] = field(default_factory=dict)
    holding: list[tuple[int, dict[str, Any]]] = field(default_factory=list)

    @property
    def is_free(self) -> bool:
        return self.phase == "running" and len(self.holding) < self.workers


class Crew:
    """Plays runtimes until a time that is given.

    Attributes:
        quantum: Milliseconds that pass at least, where much happens.
    """

    def __init__(
        self, service: Service, api: Api, clock: SettableClock, parts: Mapping[str, Part], hands: list[Hand]
    ) -> None:
        self._service = service
        self._api = api
        self._clock = clock
        self._parts = parts
        self.hands = hands
        self.quantum = 250
        self._plan: list[tuple[int, int, Callable[[], Awaitable[None]]]] = []
        self._beaten = 0

    def at(self, when_ms: int, do: Callable[[], Awaitable[None]]) -> None:
        """Do something at a time to come."""
        heapq.heappush(self._plan, (when_ms, len(self._plan), do))

    async def play(self, until_ms: int) -> None:
        """Let time pass, and do what there is to do in it."""
        while self._clock.now_ms < until_ms:
            while self._plan and self._plan[0][0] <= self._clock.now_ms:
                await heapq.heappop(self._plan)[2]()
            now = self._clock.now_ms
            for hand in self._present():
                await self._report(hand)
            await self._claim(now)
            if now - self._beaten >= BEAT_MS:
                self._beaten = now
                for hand in self._present():
                    await self.beat(hand)
            self._clock.now_ms = min(until_ms, max(now + 10, await self._next()))

    def _present(self) -> list[Hand]:
        return [hand for hand in self.hands if hand.leaves_at is None or self._clock.now_ms < hand.leaves_at]

    async def _next(self) -> int:
        """Return when something can happen."""
        times = [when for when, _, _ in self._plan[:1]]
        busy = [ends for hand in self._present() for ends, _ in hand.holding]
        if busy:
            # Not one by one, where hundreds end in a second.
            times += [max(min(busy), self._clock.now_ms + self.quantum), self._beaten + BEAT_MS]
        free = {node for hand in self._present() if hand.is_free for node in hand.nodes}
        times += [
            max(due, self._clock.now_ms + self.quantum)
            for node, due in (await self._due()).items()
            if node in free
        ]
        return min(times, default=self._clock.now_ms + 3_600_000)

    async def _due(self) -> dict[str, int]:
        """Return since or from when each node has a state to claim."""
        return await self._service.store.read(_due)

    async def _claim(self, now: int) -> None:
        due = {node for node, when in (await self._due()).items() if when <= now}
        for hand in self._present():
            wanted = due.intersection(hand.nodes)
            if wanted and hand.is_free:
                await self._ask(hand, wanted, free=hand.workers - len(hand.holding))

    async def _ask(self, hand: Hand, nodes: Iterable[str], *, free: int) -> None:
        limits = dict.fromkeys(sorted(nodes), free)
        reply = ok(await self._api.native_claim(limits, limit=min(free, BATCH), worker_id=hand.worker_id))
        for state in reply["states"]:
            seconds = self._parts[state["node_name"]].seconds * _fate(state).lognormvariate(0, 0.45)
            hand.holding.append((self._clock.now_ms + round(seconds * 1000), state))

    async def _report(self, hand: Hand) -> None:
        now = self._clock.now_ms
        over = [state for ends, state in hand.holding if ends <= now]
        if not over:
            return
        hand.holding = [(ends, state) for ends, state in hand.holding if ends > now]
        items = [
            item_for(state, **self._parts[state["node_name"]].act(state["inputs"], _fate(state)))
            for state in over
        ]
        ok(await self._api.outcomes(*items))

    async def beat(self, hand: Hand, **more: Any) -> None:
        """Send a sign of life."""
        states = []
        for index, (_, state) in enumerate(hand.holding):
            fraction, text = hand.progress.get(state["node_name"], (None, ""))
            said = {"progress": {"fraction": fraction, "text": text}} if text else {}
            states.append(item_for(state, running=index < hand.workers, **said))
        beat = {
            "worker_id": hand.worker_id,
            "runtime": hand.runtime,
            "phase": hand.phase,
            "busy": len(states),
            "workers": hand.workers,
            "states": states,
            "shows_tasks": bool(hand.tasks),
            **more,
        }
        ok(await self._api.native("POST", "heartbeat", json=beat))

    async def last_beat(self, hand: Hand) -> None:
        """Send a sign of life with its tasks, and ask for work: what there is, it has already."""
        await self.beat(hand, tasks=hand.tasks)
        if hand.phase == "running":
            await self._ask(hand, (), free=0)


def _fate(state: Mapping[str, Any]) -> random.Random:
    """Return what decides about one attempt: the same in each playing, whatever else is played."""
    place = f"{state['run_id']} {state['identifier']} {state['lease']['attempt']}"
    return random.Random(f"{place} {sorted(state['inputs'].items())}")


def _due(view: View) -> dict[str, int]:
    rows = view.execute(
        "SELECT name, min(enqueue_after) FROM states JOIN nodes ON nodes.id = node_id"
        " WHERE status = 'CREATED' GROUP BY node_id"
    )
    return dict(rows.fetchall())
