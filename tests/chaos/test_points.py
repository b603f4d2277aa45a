"""A fault or a cancellation at every named point: the run ends as if nothing had happened."""

from __future__ import annotations

import pytest
from trio.testing import MockClock

from tests.chaos.point_world import World
from tests.chaos.points import Case, deterministic_cases, random_case


@pytest.mark.parametrize("case", list(deterministic_cases()), ids=str)
async def test_nothing_is_lost_by(case: Case, autojump_clock: MockClock) -> None:
    await World(case).live()


@pytest.mark.parametrize("seed", range(30))
async def test_nothing_is_lost_by_several_faults(seed: int, autojump_clock: MockClock) -> None:
    await World(random_case(seed)).live()
