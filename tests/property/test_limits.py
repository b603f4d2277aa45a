"""Limits against a slow, obvious reference: a list of states and a list of starts, counted each time."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import count
from random import Random
from typing import Any

import pytest

from exotrio._wire.limits import LimitChange
from exotrio.manager.engine.leases import Terms, expire
from exotrio.manager.engine.limits import set_limit
from tests.contract.flow import Flow
from tests.contract.native import claim, executed_item, item_for, report
from tests.support.helpers import NO_RETRY, SettableClock, node_name, ok, place
from tests.support.manager import Manager, open_manager

PERIOD_MS = 60_000
PARTS = 60
PLACES = {
    "a": [{"name": "x", "key": "${{store.k}}"}],
    "b": [{"name": "x", "key": "${{store.k}}"}, {"name": "y"}],
    "c": [{"name": "rate", "key": "${{store.k}}"}, {"name": "y"}],
    "d": [],
}
"""The limits of the node of each graph."""
NODES = {node_name(graph): 9 for graph in PLACES}


@dataclass
class Waiting:
    """A state of the reference: its limits with their keys, and its claim while its slots are held, also
    after it has ended."""

    run_id: str
    pairs: list[tuple[str, str]]
    held: dict[str, Any] | None = None
    has_ended: bool = False
    was_released: bool = False


@dataclass
class Reference:
    """What may be claimed, by counting."""

    clock: SettableClock
    at_most: dict[str, int] = field(default_factory=lambda: {"x": 1, "y": 2})
    starts: int = 2
    states: dict[str, Waiting] = field(default_factory=dict)
    started: list[tuple[int, tuple[str, str], str]] = field(default_factory=list)

    def has_room(self, state: Waiting, *, period_ms: int = PERIOD_MS) -> bool:
        return all(self._has_room(pair, period_ms) for pair in state.pairs)

    def _has_room(self, pair: tuple[str, str], period_ms: int) -> bool:
        if pair[0] == "rate":
            after = self.clock.now_ms - period_ms
            return sum(at > after and each == pair for at, each, _ in self.started) < self.starts
        held = sum(pair in state.pairs for state in self.states.values() if state.held is not None)
        return held < self.at_most[pair[0]]

    def claim(self, claimed: dict[str, Any]) -> None:
        """Check that a state that was claimed is one that may be, and the first of those with its limits."""
        state = self.states[claimed["run_id"]]
        assert state.held is None
        assert not state.has_ended
        assert self.has_room(state), state
        for other in self.states.values():
            if other is state:
                break
            waits = other.held is None and not other.has_ended and not other.was_released
            assert not (waits and other.pairs == state.pairs), "an earlier state with the same limits waits"
        state.held = claimed
        self.started += [(self.clock.now_ms, pair, state.run_id) for pair in state.pairs if pair[0] == "rate"]

    def free(self, state: Waiting, *, ended: bool, gives_back: bool = False) -> None:
        state.held, state.has_ended, state.was_released = None, ended, not ended
        if gives_back:
            for last in sorted(each for each in self.started if each[2] == state.run_id)[-1:]:
                self.started.remove(last)


class Walk:
    """Random steps of a state manager and of the reference."""

    def __init__(self, manager: Manager, clock: SettableClock, seed: int) -> None:
        self.manager = manager
        self.random = Random(seed)
        self.reference = Reference(clock)
        self.numbers = count()

    async def step(self) -> None:
        steps = (self.trigger, self.trigger, self.claim, self.claim, self.end, self.end, self.release)
        seldom = (self.expire, self.change, self.wait, self.end_before_the_node, self.stop, self.beat)
        await self.random.choice((*steps, *seldom))()

    async def trigger(self) -> None:
        graph, key = self.random.choice([*PLACES]), self.random.choice("kl")
        run_id = ok(await self.manager.api.trigger(graph, store={"k": key}))["run_id"]
        pairs = [(each["name"], key if "key" in each else "") for each in PLACES[graph]]
        self.reference.states[run_id] = Waiting(run_id, pairs)

    async def claim(self) -> None:
        nodes = self.random.sample([*NODES], k=self.random.randint(1, len(NODES)))
        for state in await claim(
            self.manager.remote, dict.fromkeys(nodes, 9), limit=self.random.randint(1, 5)
        ):
            self.reference.claim(state)

    def _some_held(self, *, stopping: bool = False) -> list[Waiting]:
        held = [
            state
            for state in self.reference.states.values()
            if state.held is not None and state.has_ended is stopping
        ]
        return self.random.sample(held, k=self.random.randint(0, len(held)))

    async def end(self) -> None:
        for state in self._some_held():
            assert state.held is not None
            assert await report(self.manager.remote, executed_item(state.held)) == ["ok"]
            self.reference.free(state, ended=True)

    async def release(self) -> None:
        for state in self._some_held():
            assert state.held is not None
            ok(await self.manager.remote.release(states=[item_for(state.held)]))
            self.reference.free(state, ended=False, gives_back=True)

    async def end_before_the_node(self) -> None:
        for state in self._some_held():
            assert state.held is not None
            if self.random.random() < 0.5:
                ok(await self.manager.api.native("POST", f"run/{state.run_id}/cancel"))
            else:
                stuck = item_for(state.held, outcome="errored", error="timed out", stuck=True)
                assert await report(self.manager.remote, stuck) == ["ok"]
            state.has_ended = True

    async def stop(self) -> None:
        for state in self._some_held(stopping=True):
            assert state.held is not None
            if self.random.random() < 0.5:
                assert await report(self.manager.remote, executed_item(state.held)) == ["stale"]
            else:
                ok(await self.manager.remote.release(states=[item_for(state.held)]))
            self.reference.free(state, ended=True)

    async def beat(self) -> None:
        for state in self._some_held(stopping=True):
            assert state.held is not None
            ok(await self.manager.remote.heartbeat(states=[item_for(state.held)]))

    async def expire(self) -> None:
        await self.manager.service.store.write(expire, 10**15, Terms(poison_limit=1_000))
        for state in self.reference.states.values():
            if state.held is not None:
                self.reference.free(state, ended=state.has_ended)

    async def change(self) -> None:
        name = self.random.choice(["x", "y"])
        self.reference.at_most[name] = self.random.randint(0, 3)
        change = LimitChange(at_most=self.reference.at_most[name])
        await self.manager.service.store.write(set_limit, "tests", name, change)

    async def wait(self) -> None:
        self.reference.clock.advance(self.random.choice([1, 500, 20_000, PERIOD_MS]))

    async def check_nothing_waits_in_vain(self) -> None:
        """Claim until nothing is left, and check that no state waits for which there is room."""
        while states := await claim(self.manager.remote, NODES, limit=9):
            for claimed in states:
                self.reference.claim(claimed)
        for state in self.reference.states.values():
            if state.held is None and not state.has_ended:
                later = PERIOD_MS + PERIOD_MS // PARTS
                assert not self.reference.has_room(state, period_ms=later), state


@pytest.mark.parametrize("seed", range(6))
async def test_claims_are_those_of_a_slow_reference(seed: int) -> None:
    clock = SettableClock()
    # The clock of leases stands still, so that none ends by itself.
    async with open_manager(clock=clock, monotonic=lambda: 0) as manager:
        walk = Walk(manager, clock, seed)
        for name, change in {
            "x": LimitChange(at_most=1),
            "y": LimitChange(at_most=2),
            "rate": LimitChange(starts=2, period_ms=PERIOD_MS),
        }.items():
            await manager.service.store.write(set_limit, "tests", name, change)
        clock.advance(1)
        for graph, limits in PLACES.items():
            await Flow.deploy(
                manager.api,
                place(graph, limits=limits),
                graph=graph,
                retry_policy=NO_RETRY,
                store_config={"required_keys": ["k"], "default_values": {}},
            )
        for number in range(160):
            await walk.step()
            if number % 10 == 9:
                await walk.check_nothing_waits_in_vain()
