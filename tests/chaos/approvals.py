"""Events are sent to runs while all goes on, by senders that do not wait: early, twice, at several state
managers at once, each with its own idea of the value, and when a deadline passes.

No node runs: a run is three places that wait, one after the other, so only state managers have to do with it.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from typing import Any

import trio
from pydantic import BaseModel

from exotrio import Graph, RequestRefused, StateManager
from exotrio.client import SentEvent

NAMESPACE = "approvals"
"""Not that of the other runs."""
MAX_RUNS = 12
SENDERS = 3
"""Of each event, each at another state manager."""
TRIES = 2
"""How often each sends it."""
TIMEOUT = timedelta(seconds=1)
"""Of the second place, at about which its event is sent."""
LATE = "late"
PLACES = ("first", "race", "last")

Ask = Callable[[Callable[[StateManager], Awaitable[Any]], str], Awaitable[Any]]
"""Ask a state manager something, in this namespace, until it answers."""


class Value(BaseModel):
    by: str


def graph() -> Graph:
    """Return the graph: an event without a deadline, one with, and another one without."""
    made = Graph("approvals", namespace=NAMESPACE)
    first = made.wait("first", Value)
    race = made.wait("race", Value, after=first, timeout=TIMEOUT, on_timeout=Value(by=LATE))
    made.wait(f"last {race.by}", Value, identifier="last")
    return made


@dataclass(slots=True)
class Approvals:
    """Runs that wait for events, and their senders.

    Attributes:
        runs: To start.
        sent: Events that were acknowledged as the first under their name.
        problems: What contradicts another thing, one line each.
    """

    ask: Ask
    rng: random.Random
    runs: int
    sent: int = 0
    problems: list[str] = field(default_factory=list)
    _runs: list[str] = field(default_factory=list)
    _acknowledged: dict[tuple[str, str], list[tuple[str, bool, int]]] = field(
        default_factory=lambda: defaultdict(list)
    )
    """By run and event: the value, whether it was the first, and how many states it woke."""

    async def declare(self) -> None:
        await self.ask(lambda manager: manager.upsert_graph(graph()), NAMESPACE)

    async def run(self, seconds: float) -> None:
        """Start runs one after the other for so long, and send their events."""
        async with trio.open_nursery() as nursery:
            for number in range(self.runs):
                nursery.start_soon(self._one, number)
                await trio.sleep(seconds / self.runs)

    async def check(self) -> None:
        """Compare what the runs have with what was acknowledged."""
        for run in self._runs:
            with trio.move_on_after(30):
                await self.ask(partial(StateManager.wait, run_id=run), NAMESPACE)
            status = await self.ask(partial(StateManager.status, run_id=run), NAMESPACE)
            if status.status != "SUCCESS":
                self.problems.append(f"a run that waits for events is {status.status}: {run}")
                continue
            events = (await self.ask(partial(StateManager.events, run=run), NAMESPACE)).sent
            outputs = {}
            for node in PLACES:
                (texts,) = await self.ask(partial(StateManager.outputs, run=run, node=node), NAMESPACE)
                outputs[node] = texts["by"]
            self._compare(run, {event.name: event.value["by"] for event in events}, outputs)

    def _compare(self, run: str, kept: dict[str, str], outputs: dict[str, str]) -> None:
        expected = {"first": kept["first"], "last": kept[f"last {outputs['race']}"]}
        if {name: outputs[name] for name in expected} != expected:
            self.problems.append(f"the run {run} has other outputs than its events: {outputs}, {kept}")
        for name, value in kept.items():
            acknowledged = self._acknowledged[run, name]
            first = [each for each in acknowledged if each[1]]
            self.sent += len(first)
            if len(first) > 1:
                self.problems.append(f"{len(first)} first events {name!r} were acknowledged: {run}")
            if {each[0] for each in acknowledged} - {value}:
                self.problems.append(f"another {name!r} was acknowledged than {value}: {run} {acknowledged}")
            if name == "race" and any(woken for _, _, woken in first) and outputs["race"] != value:
                self.problems.append(f"the event 'race' woke a state that has {outputs['race']}: {run}")

    async def _one(self, number: int) -> None:
        """Start a run, and send its events."""
        key = f"approvals {number}"
        reply = await self.ask(partial(StateManager.trigger, graph_name="approvals", key=key), NAMESPACE)
        run = reply["run_id"]
        self._runs.append(run)
        async with trio.open_nursery() as nursery:
            for sender in range(SENDERS):
                nursery.start_soon(self._send, run, "first", str(sender), self.rng.uniform(0, 0.5))
                at = 0.5 + TIMEOUT.total_seconds() + self.rng.uniform(-0.6, 0.6)
                nursery.start_soon(self._send, run, "race", str(sender), at)
                for race in (LATE, *map(str, range(SENDERS))):  # most of these are waited for by nothing
                    nursery.start_soon(self._send, run, f"last {race}", str(sender), self.rng.uniform(0, 3))

    async def _send(self, run: str, name: str, by: str, after: float) -> None:
        await trio.sleep(after)
        for _ in range(TRIES):
            answer = await self.ask(partial(_send, run=run, name=name, by=by), NAMESPACE)
            if isinstance(answer, SentEvent):
                self._acknowledged[run, name].append((by, answer.created, answer.woken))
            # Another sender was the first; or the run ended without this event, or is about to.
            elif not any(reason in answer for reason in ("with another value", "has ended", "is too late")):
                self.problems.append(f"the event {name!r} of {run} was refused: {answer}")


async def _send(manager: StateManager, run: str, name: str, by: str) -> SentEvent | str:
    """Send an event once; return the answer, or why it was refused."""
    try:
        return await manager.send(run, name, {"by": by})
    except RequestRefused as error:
        return error.what
