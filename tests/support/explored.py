"""What tests of ``explore`` share: a world that outlives a runtime, and a check that keeps what it saw."""

from __future__ import annotations

from dataclasses import dataclass, field

import trio

from exotrio import BaseNode, Graph
from exotrio.testing import CrashRun, Fault, explore


@dataclass
class World:
    """What outlives a runtime: what its nodes said, and what they keep in ``kept``."""

    log: list[str] = field(default_factory=list)
    begun: trio.Event = field(default_factory=trio.Event)
    kept: dict[object, object] = field(default_factory=dict)


_world = World()


def world() -> World:
    """Return the world of the current run."""
    return _world


def say(what: str) -> None:
    _world.log.append(what)


def fresh() -> World:
    global _world
    _world = World()
    return _world


def graph(node: type[BaseNode]) -> Graph:
    only = Graph("g", namespace="ns")
    only.add(node, identifier="work")
    return only


@dataclass
class Logs:
    """A check that never fails, and keeps what it saw."""

    by_point: dict[str, list[str]] = field(default_factory=dict)
    runs: list[CrashRun[World]] = field(default_factory=list)

    def __call__(self, run: CrashRun[World]) -> None:
        self.by_point[str(run.point).partition(" (")[0]] = list(run.world.log)
        self.runs.append(run)


async def seen(node: type[BaseNode], *faults: Fault) -> Logs:
    logs = Logs()
    await explore(graph(node), [node], setup=fresh, check=logs, faults=faults or tuple(Fault))
    return logs
