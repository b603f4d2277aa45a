"""The order of claims against a slow reference, which sorts all waiting states for each claim."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from uuid import uuid4

import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.contract.flow import Flow
from tests.contract.native import B, claim
from tests.support.helpers import ok, place
from tests.support.manager import open_manager

LEVELS = {"high": 0, "normal": 1, "low": 2}


@dataclass(frozen=True)
class Begin:
    """A run that begins with so many states."""

    states: int
    priority: str
    weight: float
    fair_key: str | None


class Reference:
    """The waiting states of one node."""

    def __init__(self) -> None:
        self.virtual_time: defaultdict[int, int] = defaultdict(int)
        self.last: defaultdict[tuple[int, str], int] = defaultdict(int)
        self.waiting: list[tuple[int, int, int, str]] = []
        self.created = 0

    def begin(self, run_id: str, run: Begin) -> None:
        level, share = LEVELS[run.priority], round(1_000_000 / run.weight)
        flow = level, run.fair_key or run_id
        for _ in range(run.states):
            self.last[flow] = max(self.last[flow], self.virtual_time[level]) + share
            self.created += 1
            self.waiting.append((level, self.last[flow], self.created, run_id))

    def claim(self, count: int) -> list[str]:
        taken = sorted(self.waiting)[:count]
        self.waiting = sorted(self.waiting)[count:]
        for level, turn, *_ in taken:
            self.virtual_time[level] = max(self.virtual_time[level], turn)
        return [run_id for *_, run_id in taken]


RUNS = st.builds(
    Begin,
    states=st.integers(1, 12),
    priority=st.sampled_from(sorted(LEVELS)),
    weight=st.sampled_from([0.5, 1.0, 3.0]),
    fair_key=st.sampled_from([None, None, "one", "two"]),
)


@settings(max_examples=15, deadline=None)
@given(st.lists(st.one_of(RUNS, st.integers(1, 9)), max_size=14))
def test_states_are_claimed_in_the_order_of_the_reference(steps: list[Begin | int]) -> None:
    async def run_steps() -> None:
        reference = Reference()
        async with open_manager() as manager:
            api = manager.api
            await Flow.deploy(api, place("f", "b"), place("b"))
            for step in steps:
                if isinstance(step, int):
                    states = await claim(api, {B: step}, limit=step)
                    assert [state["run_id"] for state in states] == reference.claim(step)
                    continue
                in_order = {"priority": step.priority, "weight": step.weight, "fair_key": step.fair_key}
                run_id = str(uuid4())
                ok(await api.native_trigger("graph", run_id, **in_order))
                await Flow(api, "graph", run_id).run("f", *[{"v": "1"}] * step.states)
                reference.begin(run_id, step)
            left = await claim(api, {B: 500}, limit=500)
            assert [state["run_id"] for state in left] == reference.claim(500)

    trio.run(run_steps)
