"""The phases of a runtime are a table."""

from __future__ import annotations

import pytest

from exotrio._runtime.lifecycle import NEXT, Phase, advance

ORDER = list(Phase)


def test_a_runtime_only_moves_forward() -> None:
    assert NEXT.keys() == set(Phase)
    for phase, targets in NEXT.items():
        assert all(ORDER.index(target) > ORDER.index(phase) for target in targets)


def test_each_started_phase_can_stop_and_stays_stopped() -> None:
    assert all(Phase.STOPPED in NEXT[phase] for phase in ORDER[1:-1])
    assert not NEXT[Phase.STOPPED]


def test_a_move_that_is_not_in_the_table_is_a_defect() -> None:
    assert advance(Phase.NEW, Phase.STARTING) is Phase.STARTING
    with pytest.raises(RuntimeError, match="cannot go from draining to running"):
        advance(Phase.DRAINING, Phase.RUNNING)
