"""The phases of a runtime are an order."""

from __future__ import annotations

from itertools import combinations

import pytest

from exotrio._runtime.lifecycle import Phase, advance


def test_a_runtime_only_moves_forward() -> None:
    for earlier, later in combinations(Phase, 2):
        assert advance(earlier, later) is later
        with pytest.raises(RuntimeError, match=f"cannot go from {later.value} to {earlier.value}"):
            advance(later, earlier)


def test_a_phase_is_entered_once() -> None:
    for phase in Phase:
        with pytest.raises(RuntimeError, match="cannot go from"):
            advance(phase, phase)
