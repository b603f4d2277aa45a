"""Real processes under stops, under every fault over v0, and with an outbox, in short.

``python -m tests.chaos`` is the long form.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.mutations import MUTATIONS, mutated
from tests.chaos.short import CASES, NATIVE_FAULTS


@pytest.mark.chaos
@pytest.mark.parametrize("name", [name for name in CASES if name not in NATIVE_FAULTS])
async def test_nothing_is_lost_and_nothing_is_done_twice_without_a_reason(name: str, tmp_path: Path) -> None:
    problems = await CASES[name](tmp_path, None)
    assert not problems, "\n".join(problems)


@pytest.mark.parametrize("name", MUTATIONS)
def test_every_mutation_still_fits_the_source(name: str, tmp_path: Path) -> None:
    mutated(MUTATIONS[name], tmp_path)
