"""Real processes under every fault over v0, and with an outbox, in short.

With ``EXOTRIO_CHAOS=long`` also under stops alone; ``python -m tests.chaos`` is the long form.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.chaos.mutation import changed
from tests.chaos.mutations import MUTATIONS
from tests.chaos.short import LONG_ONLY, OTHERS

CASES = {**OTHERS, **(LONG_ONLY if os.environ.get("EXOTRIO_CHAOS") == "long" else {})}


@pytest.mark.chaos
@pytest.mark.parametrize("name", CASES)
async def test_nothing_is_lost_and_nothing_is_done_twice_without_a_reason(name: str, tmp_path: Path) -> None:
    problems = await CASES[name](tmp_path, None)
    assert not problems, "\n".join(problems)


@pytest.mark.parametrize("name", MUTATIONS)
def test_every_mutation_still_fits_the_source(name: str) -> None:
    for mutation in MUTATIONS[name].all:
        changed(mutation)
