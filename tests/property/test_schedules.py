"""Schedules that are stored, paused, resumed and cancelled in any order: a model of the runs they start."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from exotrio.manager.engine.schedules import fire_schedules
from tests.support import postgres
from tests.support.helpers import SettableClock, ok, place
from tests.support.manager import open_manager

MINUTE = 60_000
TEN = {"expression": "*/10 * * * *"}
IN_INDIA = {"expression": "5 * * * *", "timezone": "Asia/Kolkata"}
DUE = {TEN["expression"]: (0, 10, 20, 30, 40, 50), IN_INDIA["expression"]: (35,)}
"""The minutes of an hour in UTC in which each is due."""

Step = tuple[str, object]
stored = st.lists(st.sampled_from([TEN, IN_INDIA]), unique_by=lambda value: value["expression"])
steps = st.lists(
    st.tuples(st.just("wait"), st.integers(0, 90))
    | st.tuples(st.just("store"), stored)
    | st.tuples(st.sampled_from(["pause", "resume", "cancel"]), st.none()),
    max_size=20,
)


class Model:
    """How many runs there are, and when each schedule is due next, in minutes."""

    def __init__(self, now: int) -> None:
        self.now = now
        self.runs = 0
        self.paused = False
        self.due: dict[str, int] = {}

    def store(self, expressions: Sequence[str]) -> None:
        self.due = {each: self.due.get(each) or self.next(each) for each in expressions}

    def wait(self, minutes: int) -> None:
        self.now += minutes
        for expression, due in self.due.items():
            if due <= self.now:
                self.runs += not self.paused
                self.due[expression] = self.next(expression)

    def next(self, expression: str) -> int:
        return next(m for m in range(self.now + 1, self.now + 61) if m % 60 in DUE[expression])


@given(played=steps)
@settings(suppress_health_check=list(HealthCheck))
@example(played=[("store", [TEN, IN_INDIA]), ("pause", None), ("wait", 90), ("resume", None), ("wait", 10)])
async def test_a_schedule_starts_the_runs_that_the_model_says(played: list[Step]) -> None:
    await play(":memory:", played)


@given(played=steps)
@settings(suppress_health_check=list(HealthCheck), max_examples=max(1, settings().max_examples // 12))
async def test_a_schedule_on_postgresql_starts_the_runs_that_the_model_says(played: list[Step]) -> None:
    with postgres.database() as database:
        await play(database.url, played)


async def play(db: str, played: list[Step]) -> None:
    clock = SettableClock(28_333_333 * MINUTE)
    model = Model(clock.now_ms // MINUTE)
    # Without its own duty, which the test would sometimes find taken.
    async with open_manager(db, clock=clock, schedules=False) as manager:
        api = manager.api
        await api.register_for([place("a")])
        ok(await api.put_graph("g", api.body([place("a")])), 201)
        for step, value in played:
            if step == "wait":
                assert isinstance(value, int)
                clock.advance(value * MINUTE)
                model.wait(value)
                await manager.service.store.write(fire_schedules)
            elif step == "store":
                assert isinstance(value, list)
                triggers = [{"type": "CRON", "value": each} for each in value]
                ok(await api.put_graph("g", api.body([place("a")], triggers=triggers)), 201)
                model.store([each["expression"] for each in value])
            elif step == "cancel":
                assert ok(await api.cancel_triggers("g"))["cancelled_count"] == len(model.due)
                model.due = {}
            else:
                ok(await api.native("POST", f"graph/g/{step}"))
                model.paused = step == "pause"
            assert ok(await api.runs(1, 1))["total"] == model.runs, step
