"""Real processes under every fault, in short, in a file of its own since each takes a quarter of a minute."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.short import NATIVE_FAULTS


@pytest.mark.chaos
@pytest.mark.parametrize("name", NATIVE_FAULTS)
async def test_nothing_is_lost_and_nothing_is_done_twice_without_a_reason(name: str, tmp_path: Path) -> None:
    problems = await NATIVE_FAULTS[name](tmp_path, None)
    assert not problems, "\n".join(problems)
