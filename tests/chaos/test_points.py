"""A fault or a cancellation at every named point: the run ends as if nothing had happened.

Every combination of point and fault takes a minute. Without ``EXOTRIO_CHAOS=long`` the tests take each point
with one fault, and what ``point_mutations`` needs; ``python -m tests.chaos.points`` takes them all.
"""

from __future__ import annotations

import os

import pytest
from trio.testing import MockClock

from tests.chaos.mutation import changed
from tests.chaos.point_invariants import check
from tests.chaos.point_mutations import MUTATIONS
from tests.chaos.point_world import World
from tests.chaos.points import Case, deterministic_cases, random_case

LONG = os.environ.get("EXOTRIO_CHAOS") == "long"
SHORT = {
    *map(str, deterministic_cases(every=False)),
    *(case for mutation in MUTATIONS.values() for case in mutation.cases),
}
CASES = [case for case in deterministic_cases() if LONG or str(case) in SHORT]


@pytest.mark.parametrize("name", MUTATIONS)
def test_every_mutation_still_fits_the_source_and_its_case_is_tried(name: str) -> None:
    changed(MUTATIONS[name])
    assert set(MUTATIONS[name].cases) <= set(map(str, CASES))


@pytest.mark.parametrize("case", CASES, ids=str)
async def test_nothing_is_lost_by(case: Case, autojump_clock: MockClock) -> None:
    await World(case).live(check)


@pytest.mark.parametrize("seed", range(400 if LONG else 6))
async def test_nothing_is_lost_by_several_faults(seed: int, autojump_clock: MockClock) -> None:
    await World(random_case(seed), seed).live(check)
