"""The clock of a database: what its samples say, however late their answers are."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from exotrio.manager.store.postgres import clock
from exotrio.manager.store.postgres.clock import ServerClock

SERVER_IS_AHEAD_MS = 1_000_000.0


class Trips:
    """A connection, and the clocks of both sides: each question takes so many ms there, and so many back.

    Like a connection in a transaction, it sends a question only when its answer is read.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 5_000.0
        self.ahead = SERVER_IS_AHEAD_MS
        self._trips: list[tuple[float, float]] = []
        monkeypatch.setattr(clock, "_own_ms", lambda: self.now)

    def execute(self, sql: str, parameters: tuple[object, ...] = ()) -> Trips:
        assert "clock_timestamp()" in sql
        return self

    def fetchone(self) -> tuple[float]:
        there, back = self._trips.pop(0)
        self.now += there
        at = self.now + self.ahead
        self.now += back
        return (at,)

    def measure(self, measured: ServerClock, trips: Iterable[tuple[float, float]]) -> float:
        """Measure with these trips, and return by how much the clock is wrong after it."""
        self._trips = list(trips)
        measured.measure(self)  # type: ignore[arg-type]
        assert self._trips == [], "not all samples were taken"
        return measured() - (self.now + self.ahead)


@pytest.fixture
def trips(monkeypatch: pytest.MonkeyPatch) -> Trips:
    return Trips(monkeypatch)


@pytest.mark.parametrize("quickest", range(3))
def test_the_sample_that_was_answered_first_counts_wherever_it_comes(trips: Trips, quickest: int) -> None:
    taken = [(400.0, 0.0), (0.0, 300.0)]
    taken.insert(quickest, (2.0, 2.0))
    assert abs(trips.measure(ServerClock(), taken)) <= 1


def test_a_delay_on_one_way_makes_it_wrong_by_half_of_it(trips: Trips) -> None:
    assert abs(trips.measure(ServerClock(), [(100.0, 0.0)] * 3) - 50) <= 1


def test_slow_answers_change_nothing_that_is_known_better(trips: Trips) -> None:
    measured = ServerClock()
    trips.measure(measured, [(1.0, 1.0)] * 3)
    trips.now += 60_000
    assert abs(trips.measure(measured, [(200.0, 0.0)] * 3)) <= 1


def test_slow_answers_are_believed_if_they_prove_that_the_clock_was_set(trips: Trips) -> None:
    measured = ServerClock()
    trips.measure(measured, [(1.0, 1.0)] * 3)
    trips.ahead -= 3_600_000
    assert abs(trips.measure(measured, [(200.0, 0.0)] * 3) - 100) <= 1


def test_slow_answers_are_believed_once_two_clocks_may_have_drifted_apart(trips: Trips) -> None:
    measured = ServerClock()
    trips.measure(measured, [(1.0, 1.0)] * 3)
    trips.ahead += 40
    trips.now += 1_000_000  # at a ten-thousandth, 100 ms
    assert abs(trips.measure(measured, [(50.0, 50.0)] * 3)) <= 1
