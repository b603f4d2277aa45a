"""Random runs of random graphs, in a random order of outcomes, against the slow model."""

from __future__ import annotations

from itertools import count

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.property.model import FAILED, PENDING, TIMEOUT_MS, VERSIONS, Outputs, Plan, State
from tests.property.plans import BRANCH, BRANCH_TEXTS, FIELD, branching_plans, familiar_plans, plans
from tests.property.twin import Twin
from tests.support import postgres
from tests.support.helpers import SettableClock
from tests.support.manager import open_manager, recount, recount_ended_runs, tallied

STEPS = 30
MAX_STATES = 45

# What lets a run go on stands several times: otherwise most runs would be over before they got anywhere.
GOING_ON = ["one", "fan-out"] * 5
MOVES = [
    *GOING_ON,
    "bad",
    "mixed",
    "none",
    "errored",
    "errored",
    "pruned",
    "requeued",
    *["released", "saved"] * 3,
    "retry",
    "retry run",
    "forget",
    "pause",
    "pause",
    "trigger again",
    "repin",
    *["waited", "send", "send"],
    "expire",
]
WHEN_IDLE = [
    "retry",
    "retry",
    "stop",
    "retry run",
    "forget",
    "pause",
    "trigger again",
    "repin",
    *["send", "expire"] * 2,
]
ENDS = [*["executed"] * 4, "errored", "pruned", "cancelled"]
"""Of runs that states wait for."""
EVENTS = ["e1", "e2"]
"""What nodes wait for."""
EXAMPLES = 2 * settings().max_examples


class Driver:
    """Draw what happens next."""

    def __init__(self, twin: Twin, data: st.DataObject) -> None:
        self.twin = twin
        self.data = data
        self.serial = count()

    def output(self, good: bool = True) -> Outputs:
        number = str(next(self.serial))
        values: Outputs = {"n": number, FIELD: f"v{number}"} if good else {"n": number}
        if any(place.when for place in self.twin.model.plan.places):
            values[BRANCH] = self.data.draw(st.sampled_from(BRANCH_TEXTS), label="branch")
        return values

    async def step(self) -> bool:
        """Take one step; return False when nothing is left to do."""
        twin, model = self.twin, self.twin.model
        natively = self.data.draw(st.integers(0, 3), label="claim") > 0
        # Seldom of a version that is not that of the run: nothing goes on with it.
        versions = [*[model.version] * 4, None, *VERSIONS]
        await twin.claim(natively, self.data.draw(st.sampled_from(versions), label="version"))
        queued = twin.queued()
        waiting = model.waiting()
        if not queued and waiting and min(state.due_ms for state in waiting) > model.now_ms:
            twin.advance(min(state.due_ms for state in model.waiting()) - model.now_ms)
            await twin.expired()
            return True
        for_runs = model.for_runs()
        if for_runs and not self.data.draw(st.integers(0, 3 if queued else 1), label="below"):
            how = self.data.draw(st.sampled_from(ENDS), label="how")
            await twin.run_ended(self.pick(for_runs), how, self.output())
            return True
        moves = MOVES if queued else WHEN_IDLE
        move = self.data.draw(st.sampled_from(moves), label="move")
        if move == "stop":
            return False
        if move == "retry":
            # Few states ended badly, and few of those were left out by a united node that ran.
            bad = [state for state in model.states if state.status in {*FAILED, "PRUNED"}]
            left_out = [state for state in bad if model.out_of_date([state])]
            await twin.retried(self.pick(left_out or bad or model.states), self.draw_bool("from beginning"))
        elif move == "retry run":
            await twin.retried_run(self.draw_bool("from beginning"))
        elif move == "forget":
            version = self.data.draw(st.sampled_from([None, *VERSIONS]), label="version")
            await twin.forget_inputs(self.pick_place(model.plan), version)
        elif move == "repin":
            await twin.repinned(self.data.draw(st.sampled_from(VERSIONS), label="version"))
        elif move == "pause":
            await twin.pause_or_resume(self.pick_place(model.plan))
        elif move == "trigger again":
            values = self.data.draw(st.sampled_from([{}, {"inputs": {"p": "x"}}, {"store": {"k": "v"}}]))
            through = self.data.draw(st.sampled_from(["v0", "native", "a list"]), label="through")
            await twin.trigger_again(through, **values)
        elif move == "send":
            await self.send()
        elif move == "expire":
            twin.advance(self.data.draw(st.sampled_from([1, TIMEOUT_MS - 1, TIMEOUT_MS]), label="time"))
            await twin.expired()
        elif move == "saved":
            held = [state for state in queued if twin.tokens[state][-1]]
            await twin.saved({state: self.checkpoint() for state in held})
        else:
            await self.report(move, self.pick(queued))
        return True

    async def send(self) -> None:
        """Send an event that is waited for, or one that is early, or of another value."""
        model = self.twin.model
        awaited = sorted({state.event for state in model.states if state.waits and state.event})
        places = [place.identifier for place in model.plan.places if place.event]
        early = [f"{name}-{end}" for name in places for end in ("", "v0", "v1")]
        names = [*awaited * 3, *early, *EVENTS, *model.mailbox]
        name = self.data.draw(st.sampled_from(names), label="event")
        again = name in model.mailbox and self.draw_bool("the same value")
        await self.twin.sent(name, model.mailbox[name] if again else self.output())

    def draw_bool(self, label: str) -> bool:
        return self.data.draw(st.booleans(), label=label)

    def checkpoint(self) -> tuple[int, str]:
        """Return a number, which may be older than one before, and a value that is like no other."""
        return self.data.draw(st.integers(1, 5), label="number"), f"c{next(self.serial)}"

    def pick(self, states: list[State]) -> State:
        return states[self.data.draw(st.integers(0, len(states) - 1), label="which")]

    def pick_place(self, plan: Plan) -> str:
        names = [place.identifier for place in plan.places if place.runs_node]
        return self.data.draw(st.sampled_from(names), label="which place")

    async def report(self, move: str, state: State) -> None:
        twin = self.twin
        token = twin.tokens[state][-1]
        saves = self.checkpoint() if token and self.draw_bool("with a checkpoint") else None
        if move == "errored":
            await twin.errored(state, saves)
        elif move == "pruned":
            await twin.pruned(state, saves)
        elif move == "requeued":
            delay = self.data.draw(st.sampled_from([1, 700, 5000]), label="delay")
            await twin.requeued(state, delay, saves)
        elif move == "waited":
            await twin.waited(state, self.data.draw(st.sampled_from(EVENTS), label="event"), saves)
        elif move == "released":
            if token:  # v0 has no such request
                await twin.released(state, saves)
        elif move == "none":
            await twin.executed(state, [], saves)
        else:
            small = move in {"one", "bad"} or len(twin.model.states) > MAX_STATES
            size = 1 if small else self.data.draw(st.integers(2, 3), label="fan-out")
            good = [move in {"one", "fan-out"} or (move == "mixed" and number != 1) for number in range(size)]
            await twin.executed(state, [self.output(each) for each in good], saves)

    async def finish(self) -> None:
        """Let everything that is left succeed, what is paused too."""
        twin, model = self.twin, self.twin.model
        for identifier in sorted(model.paused):
            await twin.pause_or_resume(identifier)
        while model.waiting() or twin.queued() or any(state.waits for state in model.states):
            for name in {state.event for state in model.states if state.waits and state.event}:
                await twin.sent(name, self.output())
            for state in model.for_runs():
                await twin.run_ended(state, "executed", self.output())
            await twin.claim(version=model.version)
            for state in twin.queued():
                await twin.executed(state, [self.output()])
            if model.waiting():
                soonest = min(state.due_ms for state in model.waiting())
                twin.advance(max(0, soonest - model.now_ms))
                await twin.expired()  # an event would be too late for these


@settings(suppress_health_check=list(HealthCheck), max_examples=EXAMPLES)
@given(plan=plans() | familiar_plans(), data=st.data())
async def test_every_run_goes_as_the_model_says(plan: Plan, data: st.DataObject) -> None:
    await play(":memory:", plan, data)


@settings(suppress_health_check=list(HealthCheck), max_examples=EXAMPLES // 3)
@given(plan=branching_plans(), data=st.data())
async def test_every_run_with_branches_goes_as_the_model_says(plan: Plan, data: st.DataObject) -> None:
    await play(":memory:", plan, data)


@settings(suppress_health_check=list(HealthCheck), max_examples=EXAMPLES // 20)
@given(plan=plans() | familiar_plans() | branching_plans(), data=st.data())
async def test_every_run_on_postgresql_goes_as_the_model_says(plan: Plan, data: st.DataObject) -> None:
    with postgres.database() as database:
        await play(database.url, plan, data)


async def play(db: str, plan: Plan, data: st.DataObject) -> None:
    """Drive one run to its end."""
    clock = SettableClock()
    async with open_manager(db, clock=clock) as manager:
        version = data.draw(st.sampled_from([None, *VERSIONS]), label="version")
        twin = await Twin.start(manager, clock, plan, version)
        driver = Driver(twin, data)
        for _ in range(STEPS):
            if not await driver.step():
                break
        await driver.finish()
        await twin.compare(thoroughly=True)
        assert not {state.status for state in twin.model.states} & PENDING
        assert not twin.model.stale()
        await manager.service.store.read(recount)
        if db == ":memory:":
            await tallied(manager.service, clock)
            await manager.service.store.read(recount_ended_runs)
