"""A node is paused and resumed while work flows: meanwhile nothing of it is claimed, whatever happens.

Whether states wait then is a matter of chance. So there is a last pause, after all other faults: of a state
that waits while a later one, of another node, is claimed.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import Any

import psycopg
import trio

from exotrio import StateManager
from exotrio.client import StateStatus, StateSummary
from exotrio.graph import pinned_name
from tests.chaos.graph import VERSIONS
from tests.support.postgres import Database

NODES = ("Fan", "Step", "Note")
"""Those that may be paused: each has many states, and the first one runs in separate processes."""
MAX_PAUSED = 2.0
"""Seconds; the state manager may be away for longer meanwhile."""
WAITING_OR_HELD = (StateStatus.CREATED, StateStatus.QUEUED)

Ask = Callable[[Callable[[StateManager], Awaitable[Any]]], Awaitable[Any]]
"""Ask the state manager something, until it answers."""
Trigger = Callable[[], Awaitable[str]]
"""Start a run, and return its id."""


@dataclass(slots=True)
class Pausing:
    """Pauses nodes, one at a time each.

    Attributes:
        paused: Nodes that are.
        watched: States that waited while their node was paused.
        problems: What was claimed nevertheless, one line each.
    """

    ask: Ask
    rng: random.Random
    database: Database | None
    paused: set[str] = field(default_factory=set)
    watched: int = 0
    problems: list[str] = field(default_factory=list)

    async def one(self) -> None:
        """Pause a node for a while, and watch its states."""
        if not (nodes := sorted(set(NODES) - self.paused)):
            return
        node = self.rng.choice(nodes)
        self.paused.add(node)
        await self.ask(partial(StateManager.pause_node, name=node))
        await self._claims_have_ended()
        end = trio.current_time() + self.rng.uniform(0.5, 1.0) * MAX_PAUSED
        before = now = await self._states(node)
        while trio.current_time() < end:
            await trio.sleep(0.2)
            now = await self._states(node)
            claimed = _claimed(before, now)
            if claimed:
                self.problems.append(f"{len(claimed)} states of {node} were claimed while it was paused")
                break
        self.watched += sum(state.status == StateStatus.CREATED for state in now.values())
        await self.ask(partial(StateManager.resume_node, name=node))
        self.paused.discard(node)

    async def last(self, first: Trigger, second: Trigger) -> None:
        """Pause a node, and look whether a state of it still waits when another one was claimed after it.

        A claim asks for all nodes and takes the oldest states of each, so it would have taken that one, too.
        """
        node = NODES[0]
        await self.ask(partial(StateManager.pause_node, name=node))
        await self._claims_have_ended()
        run = await first()
        await self._state(run, node)
        await self._state(await second(), node)
        state = await self._state(run, node)
        if state.status != StateStatus.CREATED:
            self.problems.append(f"the last state of {node} was claimed while it was paused")
        self.watched += 1
        await self.ask(partial(StateManager.resume_node, name=node))

    async def _state(self, run: str, node: str) -> StateSummary:
        """Return the only state of a node in a run, once the one before it has ended."""
        while True:
            for name in _names(node):
                page = await self.ask(partial(StateManager.states, run=run, node=name))
                for state in page.states:
                    return state
            await trio.sleep(0.1)

    async def _states(self, node: str) -> dict[str, StateSummary]:
        """Return each state of a node that waits or is held."""
        states: dict[str, StateSummary] = {}
        for name in _names(node):
            before = None
            while True:
                page = await self.ask(
                    partial(
                        StateManager.states, node=name, status=WAITING_OR_HELD, limit=1_000, before=before
                    )
                )
                states |= {state.id: state for state in page.states}
                if (before := page.next) is None:
                    break
        return states

    async def _claims_have_ended(self) -> None:
        """Wait for those that began before the pause, which on PostgreSQL may still be on their way."""
        if self.database is None:
            return
        open_before: set[tuple[int, datetime]] | None = None
        while open_before is None or open_before:
            try:
                now = await trio.to_thread.run_sync(self.database.transactions)
                open_before = now if open_before is None else open_before & now
            except psycopg.OperationalError:
                pass  # it has crashed, and with it all of them; it is restarted
            await trio.sleep(0.05)


def _names(node: str) -> list[str]:
    """Return the names of a node and of its versions, which are paused with it."""
    return [node, *(pinned_name(node, version) for version in VERSIONS)]


def _claimed(before: Mapping[str, StateSummary], now: Mapping[str, StateSummary]) -> set[str]:
    """Return the states that were claimed between two looks at them.

    Not those that a runtime had before: though its lease ended, it may renew or report what waits again.
    """
    ended = {id for id, state in before.items() if state.worker is None and id not in now}
    return ended | {
        id for id, state in now.items() if state.worker != (before[id].worker if id in before else None)
    }
