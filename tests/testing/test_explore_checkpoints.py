"""``explore`` on nodes with checkpoints: what is stored when a fault strikes, and how much is done again."""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass, field
from types import ModuleType
from typing import ClassVar

import pytest
import trio
from pydantic import BaseModel
from trio.testing import MockClock

from exotrio import BaseNode, HandOver
from exotrio.testing import CheckFailed, CrashRun, Exploration, Fault, RunStatus, Work, explore
from tests.support.explored import World, fresh, graph, say


class Steps(BaseNode):
    """Takes a second for each of three rows."""

    library: ClassVar[ModuleType] = trio

    class Checkpoint(BaseModel):
        row: int = 0

    class Outputs(BaseModel):
        rows: int

    async def execute(self) -> Outputs:
        for row in range(self.checkpoint.row, 3):
            await self.library.sleep(1)
            say(f"row {row}")
            self.checkpoint = self.Checkpoint(row=row + 1)
            if self.stopping:
                raise HandOver
        return self.Outputs(rows=3)


class StepsOnAsyncio(Steps):
    runs_in = "asyncio"
    library: ClassVar[ModuleType] = asyncio


on_both_loops = pytest.mark.parametrize("node", [Steps, StepsOnAsyncio])


@dataclass
class Runs:
    """A check that fails for no fault, and keeps what it saw: by the point, without the line of code."""

    logs: dict[str, list[str]] = field(default_factory=dict)
    repeated: dict[str, Work] = field(default_factory=dict)

    def __call__(self, run: CrashRun[World]) -> None:
        assert run.status is RunStatus.SUCCESS
        if run.point is not None:
            point = re.sub(r" \(.*\)", "", str(run.point))
            # A copy: killed code continues for a moment after the check.
            self.logs[point], self.repeated[point] = list(run.world.log), run.repeated


async def explored(node: type[BaseNode], *faults: Fault) -> tuple[Exploration, Runs]:
    runs = Runs()
    return await explore(graph(node), [node], setup=fresh, check=runs, faults=faults), runs


@on_both_loops
async def test_a_node_is_killed_before_each_checkpoint_is_sent_and_after_it_is_stored(
    node: type[Steps], autojump_clock: MockClock
) -> None:
    result, runs = await explored(node, Fault.KILLED, Fault.STORED)
    assert runs.logs == {
        "work was killed before it began": ["row 0", "row 1", "row 2"],
        "work was killed at its await 1": ["row 0", "row 1", "row 2"],
        "work was killed at its await 2, its checkpoint 1 not sent": ["row 0", "row 0", "row 1", "row 2"],
        "work was killed at its await 2, its checkpoint 1 stored": ["row 0", "row 1", "row 2"],
        "work was killed at its await 3, its checkpoint 2 not sent": [
            "row 0",
            "row 1",
            "row 0",
            "row 1",
            "row 2",
        ],
        "work was killed at its await 3, its checkpoint 2 stored": ["row 0", "row 1", "row 2"],
        "work was killed after it ended, before its report": ["row 0", "row 1", "row 2"] * 2,
    }
    # The await at which it is killed begins again in any case.
    again = [work.awaits for point, work in runs.repeated.items() if "checkpoint" in point]
    assert again == [2, 1, 3, 1]
    assert str(result).endswith("; at most 3 awaits (3.0 s) repeated")
    assert result.repeated.awaits == 3


@on_both_loops
async def test_a_stop_sends_the_newest_checkpoint_with_the_release(
    node: type[Steps], autojump_clock: MockClock
) -> None:
    result, runs = await explored(node, Fault.STOPPED, Fault.DRAINED)
    assert len(runs.logs) == 8
    assert all(log == ["row 0", "row 1", "row 2"] for log in runs.logs.values())
    assert result.repeated.awaits == 1


async def test_a_check_that_limits_the_repeated_work_finds_a_node_that_saves_too_late(
    autojump_clock: MockClock,
) -> None:
    class Late(Steps):
        async def execute(self) -> Steps.Outputs:
            for _ in range(4):
                await trio.sleep(1)
            self.checkpoint = self.Checkpoint(row=1)
            await trio.sleep(1)
            return self.Outputs(rows=3)

    def check(run: CrashRun[None]) -> None:
        assert run.repeated.awaits <= 2

    with pytest.raises(CheckFailed, match=r"work was killed at its await 5 .*, its checkpoint 1 not sent"):
        await explore(graph(Late), [Late], check=check, faults=[Fault.KILLED])


class Pays(BaseNode):
    """Records each payment before it is made."""

    class Checkpoint(BaseModel):
        begun: int = 0

    async def execute(self) -> None:
        for number in range(self.checkpoint.begun, 2):
            await self.save_checkpoint(self.Checkpoint(begun=number + 1))
            await trio.lowlevel.checkpoint()
            say(f"paid {number}")


async def test_what_waits_for_its_checkpoint_never_happens_twice(autojump_clock: MockClock) -> None:
    _, runs = await explored(Pays, Fault.KILLED, Fault.STORED, Fault.STOPPED, Fault.SUSPENDED)
    assert all(log.count(f"paid {number}") <= 1 for log in runs.logs.values() for number in (0, 1))
    assert any("paid 0" not in log for log in runs.logs.values())


class Plain(BaseNode):
    class Checkpoint(BaseModel):
        row: int = 0

    def execute(self) -> None:
        say(f"from {self.checkpoint.row}")
        self.save_checkpoint_sync(self.Checkpoint(row=1))


async def test_a_plain_node_sets_its_checkpoint_without_waiting(autojump_clock: MockClock) -> None:
    _, runs = await explored(Plain, Fault.KILLED)
    assert list(runs.logs.values()) == [["from 0"], ["from 0", "from 0"]]
