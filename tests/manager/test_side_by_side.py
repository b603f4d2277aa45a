"""Every use case at the same time as every other on a few runs, through two stores on one PostgreSQL.

Transactions take their locks in one order, so that none is ever ended as a deadlock, and counters are right
in the end whatever the order was. At no time more states are held than a limit says, and in the end each
state that waits for one finds room.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, suppress
from functools import partial
from itertools import count
from random import Random
from typing import Any

import pytest
import trio

from exotrio._wire.graphs import GraphRequest
from exotrio._wire.heartbeats import HeartbeatRequest, HeartbeatState
from exotrio._wire.limits import LimitChange
from exotrio._wire.native import (
    Checkpoint,
    ErroredItem,
    ExecutedItem,
    OutcomeItem,
    PrunedItem,
    ReleasedState,
    RequeuedItem,
)
from exotrio._wire.v0 import RegisterRequest
from exotrio._wire.vocabulary import Priority
from exotrio.manager.engine import (
    claims,
    deletion,
    graphs,
    leases,
    limits,
    managers,
    moves,
    nodes,
    outcomes,
    pausing,
    releases,
    retention,
    retries,
    runs,
    schedules,
    triggers,
    workers,
)
from exotrio.manager.engine.due_work import Step, due_work
from exotrio.manager.engine.portions import go_on
from exotrio.manager.rules.errors import Refused
from exotrio.manager.store.base import Store
from exotrio.manager.store.cipher import Cipher, encrypt_again
from exotrio.manager.store.driver import put_meta
from exotrio.manager.store.opening import open_store
from exotrio.manager.store.transaction import Transaction
from exotrio.manager.store.view import View
from tests.support.due import clear, discard
from tests.support.helpers import declare, node_name, place
from tests.support.manager import gate, recount
from tests.support.postgres import Database, database
from tests.support.stores import until

NAMESPACE, GRAPH = "tests", "graph"
CIPHER = Cipher(bytes(32), bytes([1] * 32))
TERMS = leases.Terms(lease_ttl_ms=60_000, claim_timeout_ms=60_000, poison_limit=3)
OPERATIONS = 1_200
TASKS = 12
RUNS = 4
WORKERS = ("w0", "w1", "w2")
# Each sibling of b is a separate group, which u unites; top unites all of them.
PLACES = [
    place("r", "b"),
    place("b", "c", limits=[{"name": "fixed"}]),
    place("c", "u", inputs={"p": "${{r.outputs.v}}"}, limits=[{"name": "moved"}, {"name": "fixed"}]),
    place(
        "u",
        "top",
        unites="b",
        strategy="ALL_DONE",
        inputs={"all": "${{c.outputs.v}}"},
        limits=[{"name": "moved"}],
    ),
    place("top", unites="r", inputs={"all": "${{u.outputs.v}}"}),
]
NODES = [node_name(each["identifier"]) for each in PLACES]
MAX_HELD = {"fixed": 4, "moved": 3}
"""By limit; that of ``moved`` is also less at times."""


def graph_request(version: int) -> GraphRequest:
    return GraphRequest.model_validate(
        {
            "secrets": {"token": f"a secret {version}"},
            "nodes": [{"namespace": NAMESPACE, **each} for each in PLACES],
            "retry_policy": {"max_retries": 1, "strategy": "FIXED", "backoff_factor": 1},
            "store_config": {"required_keys": [], "default_values": {"version": str(version)}},
            "triggers": [
                {"type": "CRON", "value": {"expression": f"{each} * * * *", "timezone": zone}}
                for each, zone in zip(range(version), ("UTC", "Asia/Kolkata", "UTC"), strict=False)
            ],
            "limits": [{"name": "fixed", "at_most": MAX_HELD["fixed"]}],
        }
    )


class Crowd:
    """What several tasks do to the same states, each in another order.

    What one task holds another one may report, renew or release, too, as if requests came twice.
    """

    def __init__(self, stores: Sequence[Store]) -> None:
        self.stores = stores
        self.numbers = count()
        self.now = 1_000_000_000
        self.runs: list[str] = []
        self.held: list[tuple[str, str | None]] = []
        self.done: dict[str, int] = {}
        self.operations = {
            self.claim: 8,
            self.report: 10,
            self.report_v0: 3,
            self.beat: 5,
            self.release: 2,
            self.release_claim: 1,
            self.trigger: 1,
            self.cancel: 0.5,
            self.prioritize: 1,
            self.retry_run: 2,
            self.go_on: 4,
            self.retry_state: 2,
            self.sweep: 4,
            self.forget: 1,
            self.clear: 0.5,
            self.upsert: 1,
            self.set_limit: 2,
            self.register: 0.5,
            self.fire: 1,
            self.cancel_schedules: 0.5,
            self.pause: 1,
            self.delete: 0.3,
            self.encrypt: 0.5,
        }

    async def run(self, task: int) -> None:
        random = Random(task)
        operations, weights = zip(*self.operations.items(), strict=True)
        while next(self.numbers) < OPERATIONS:
            (operation,) = random.choices(operations, weights)
            try:
                await operation(random)
            except Refused:
                continue
            self.done[operation.__name__] = self.done.get(operation.__name__, 0) + 1

    async def write(self, random: Random, use_case: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return await random.choice(self.stores).write(use_case, *args, **kwargs)

    def some_held(self, random: Random) -> list[tuple[str, str | None]]:
        """Return some of the last states that were claimed, in any order, now and then one of them twice."""
        recent = self.held[-60:]
        return random.choices(recent, k=random.randint(1, 12)) if recent else []

    def tokens(self, random: Random) -> list[tuple[str, str]]:
        return [(state_id, token) for state_id, token in self.some_held(random) if token is not None]

    async def claim(self, random: Random) -> None:
        claim_id = None if random.random() < 0.25 else f"claim {random.randrange(1_000)}"
        claimer = claims.Claimer(
            manager="m0" if random.random() < 0.1 else None,
            now=self.now,
            ttl_ms=random.choice((0, 60_000)),
            worker=None if claim_id is None else random.choice(WORKERS),
            claim_id=claim_id,
            run_id=random.choice(self.runs) if self.runs and random.random() < 0.3 else None,
            announces=random.random() < 0.5,
        )
        counts = dict.fromkeys(random.sample(NODES, k=3), random.randint(1, 8))
        taken = await self.write(random, claims.claim, NAMESPACE, counts, 12, claimer)
        self.held += [(each["state_id"], each["lease"]["token"]) for each in taken.states]

    def item(self, random: Random, state_id: str, token: str) -> OutcomeItem:
        held: dict[str, Any] = {
            "state_id": state_id,
            "token": token,
            "trace": self.trace(random),
            "checkpoint": self.checkpoint(random),
        }
        match random.choices(("executed", "errored", "pruned", "requeued"), (10, 6, 1, 1))[0]:
            case "executed":
                # Without v the states that follow c cannot be built.
                output = {} if random.random() < 0.3 else {"v": str(random.random()), "w": ""}
                return ExecutedItem(**held, outputs=[output] * random.choice((1, 1, 1, 2, 4)))
            case "errored":
                return ErroredItem(**held, error="on purpose")
            case "pruned":
                return PrunedItem(**held, data={})
            case _:
                return RequeuedItem(**held, delay_ms=1)

    def trace(self, random: Random) -> str | None:
        return random.choice((None, f"00-{random.getrandbits(128):032x}-{random.getrandbits(64):016x}-01"))

    def checkpoint(self, random: Random) -> Checkpoint | None:
        if random.random() < 0.3:
            return None
        return Checkpoint(number=random.randint(1, 9), value=f'{{"row": {random.random()}}}')

    async def report(self, random: Random) -> None:
        items = [self.item(random, *held) for held in self.tokens(random)]
        await self.write(random, outcomes.record_batch, NAMESPACE, items)

    async def report_v0(self, random: Random) -> None:
        for state_id, token in self.some_held(random):
            if token is None:
                item = self.item(random, state_id, "")
                await self.write(random, outcomes.record_v0, NAMESPACE, item)

    async def beat(self, random: Random) -> None:
        states = [
            HeartbeatState(
                state_id=state_id,
                token=token,
                running=random.random() < 0.5,
                checkpoint=self.checkpoint(random),
            )
            for state_id, token in self.tokens(random)
        ]
        beat = HeartbeatRequest(worker_id=random.choice(WORKERS), states=states)
        await self.write(random, workers.heartbeat, NAMESPACE, beat, self.now, TERMS)

    async def release(self, random: Random) -> None:
        states = [
            ReleasedState(
                state_id=state_id,
                token=token,
                trace=self.trace(random),
                checkpoint=self.checkpoint(random),
            )
            for state_id, token in self.tokens(random)
        ]
        await self.write(random, releases.release, NAMESPACE, states, random.choice((0, 1)))

    async def release_claim(self, random: Random) -> None:
        claim_id = f"claim {random.randrange(1_000)}"
        await self.write(random, releases.release_claim, NAMESPACE, claim_id, self.now)

    async def trigger(self, random: Random) -> None:
        by: dict[str, Any] = {random.choice(("run_id", "key")): f"run {random.randrange(10_000)}"}
        run = triggers.NewRun(store={"version": "x"}, **by)
        started = await self.write(random, triggers.trigger, NAMESPACE, GRAPH, run)
        self.runs = [*self.runs, started.run_id][-RUNS:]

    async def cancel(self, random: Random) -> None:
        if self.runs:
            await self.write(random, runs.cancel, NAMESPACE, random.choice(self.runs))

    async def retry_run(self, random: Random) -> None:
        for run in self.runs:
            with suppress(Refused):
                request_id, again = str(random.randrange(100)), random.random() < 0.5
                await self.write(random, retries.retry_run, NAMESPACE, run, request_id, from_beginning=again)

    async def prioritize(self, random: Random) -> None:
        for run in self.runs:
            with suppress(Refused):
                await self.write(random, runs.set_priority, NAMESPACE, run, random.choice([*Priority]))

    async def go_on(self, random: Random) -> int:
        """Move, or retry, one more portion of each run."""
        due = await self.stores[0].read(due_work, (Step.GO_ON,))
        return sum([await self.write(random, go_on, [number]) for number in due.get(Step.GO_ON, ())])

    async def retry_state(self, random: Random) -> None:
        for state_id, _ in self.some_held(random):
            with suppress(Refused):
                await self.write(random, retries.retry_by_hand, NAMESPACE, state_id, str(random.random()))

    async def sweep(self, random: Random) -> None:
        """Sweep in time, too late, or after the clock was set back; a state manager is lost now and then."""
        self.now += random.choice((5_000, 5_000, 5_000, 600_000, -3_000))
        if random.random() < 0.5:
            await self.write(random, managers.enter, "m0", self.now)
        await self.write(random, managers.sweep, "m1", self.now, TERMS, None)

    async def forget(self, random: Random) -> None:
        await self.write(random, workers.forget, NAMESPACE, random.choice(WORKERS), self.now)

    async def clear(self, random: Random) -> None:
        for step in (partial(discard, keep_ms=0), clear, retention.drop_templates):
            await self.write(random, step)

    async def upsert(self, random: Random) -> None:
        request = graph_request(random.randint(1, 3))
        prepared = graphs.prepare(NAMESPACE, GRAPH, request, CIPHER, 1_700_000_000_000)
        await self.write(random, graphs.upsert, NAMESPACE, GRAPH, prepared)

    async def set_limit(self, random: Random) -> None:
        change = LimitChange(at_most=random.randint(0, MAX_HELD["moved"]))
        await self.write(random, limits.set_limit, NAMESPACE, "moved", change)

    async def drain(self) -> None:
        """Run all that is left and some new runs, with the limit as low as it gets without a stop."""
        store = self.stores[1]
        for _ in range(5):
            await store.write(triggers.trigger, NAMESPACE, GRAPH, triggers.NewRun())
        await store.write(limits.set_limit, NAMESPACE, "moved", LimitChange(at_most=1))
        await store.write(leases.expire, self.now + 10**9, TERMS, sweeper="m1")
        # Nor do nodes of cancelled runs go on, whose slots are kept until a time on another clock.
        await store.write(lambda tx: tx.execute("UPDATE slots SET check_at = 0 WHERE check_at > 0"))
        claimer = claims.Claimer(manager=None, now=self.now, ttl_ms=60_000)
        await trio.sleep(0.01)  # a retry is due after 1 ms
        while await self.go_on(Random(0)):
            pass
        while (
            taken := await store.write(claims.claim, NAMESPACE, dict.fromkeys(NODES, 9), 30, claimer)
        ).states:
            for each in taken.states:
                outputs = [{"v": "", "w": ""}] * (2 if each["identifier"] == "r" else 1)
                item = ExecutedItem(state_id=each["state_id"], token="", outputs=outputs)
                await store.write(outcomes.record_v0, NAMESPACE, item)

    async def register(self, random: Random) -> None:
        declared = [declare(each["node_name"], list(each["inputs"])) for each in PLACES]
        random.shuffle(declared)
        request = RegisterRequest.model_validate({"runtime_name": "tests", "nodes": declared})
        await self.write(random, nodes.register, NAMESPACE, request)

    async def encrypt(self, random: Random) -> None:
        key = bytes([random.randrange(2)] * 32)
        await self.write(random, encrypt_again, Cipher(key, bytes(32), bytes([1] * 32)))

    async def fire(self, random: Random) -> None:
        await self.write(random, schedules.fire_schedules)

    async def cancel_schedules(self, random: Random) -> None:
        await self.write(random, schedules.cancel_schedules, NAMESPACE, GRAPH)

    async def pause(self, random: Random) -> None:
        node = random.choice(NODES)
        for what, name in ((("node", node)), ("schedule", GRAPH)):
            await self.write(random, getattr(pausing, f"pause_{what}"), NAMESPACE, name)
            await self.write(random, getattr(pausing, f"resume_{what}"), NAMESPACE, name)

    async def delete(self, random: Random) -> None:
        store = random.choice(self.stores)
        for run in await store.read(deletion.pending_runs, NAMESPACE, GRAPH, True):
            with suppress(Refused):
                await self.write(random, runs.cancel, NAMESPACE, run)
        await self.write(random, deletion.delete_graph, NAMESPACE, GRAPH)
        await self.upsert(random)


@pytest.fixture
async def shared() -> AsyncIterator[tuple[Database, Sequence[Store]]]:
    with database() as fresh:
        # So that one does not take a second.
        fresh.execute(f"ALTER DATABASE {fresh.name} SET deadlock_timeout = '50ms'")
        async with AsyncExitStack() as stack:
            yield fresh, [await stack.enter_async_context(open_store(fresh.url)) for _ in range(2)]


async def test_nothing_that_happens_at_the_same_time_is_a_deadlock_or_counted_wrong(
    shared: tuple[Database, Sequence[Store]], monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (moves, retries):
        monkeypatch.setattr(module, "PORTION", 1)
    fresh, stores = shared
    before = len(fresh.server.log)
    crowd = Crowd(stores)
    random = Random(0)
    await crowd.register(random)
    await crowd.set_limit(random)
    await crowd.upsert(random)
    await crowd.trigger(random)
    most: Counter[str] = Counter()
    async with trio.open_nursery() as watching:
        watching.start_soon(watch_limits, stores[0], most)
        async with trio.open_nursery() as nursery:
            for task in range(TASKS):
                nursery.start_soon(crowd.run, task)
        watching.cancel_scope.cancel()
    # Between two readings more states may have been held than in both.
    assert 1 < most["fixed"] <= MAX_HELD["fixed"]
    assert most["moved"] <= MAX_HELD["moved"]
    assert crowd.done.keys() >= {each.__name__ for each in crowd.operations}, crowd.done
    await crowd.drain()
    assert (
        await stores[0].read(lambda view: view.row("SELECT 1 FROM states WHERE status = 'CREATED'")) is None
    )
    while await stores[0].write(clear):
        pass
    await stores[0].read(recount)
    await stores[0].read(no_counter_is_negative)
    text = fresh.server.log[before:]
    assert "deadlock detected" not in text, text


async def test_a_claim_that_is_repeated_holds_no_due_states_while_it_waits(
    shared: tuple[Database, Sequence[Store]],
) -> None:
    crowd = Crowd(shared[1])
    held, due = await one_held_and_one_due(crowd)

    async def repeat() -> None:
        claimed = await crowd.stores[0].write(claims.claim, NAMESPACE, {NODES[0]: 2}, 2, claimer(crowd))
        assert claimed.seqs == [held]

    await without_deadlock(shared, held, due, repeat)


async def test_a_sweep_after_the_clock_was_set_back_locks_states_in_order(
    shared: tuple[Database, Sequence[Store]],
) -> None:
    crowd = Crowd(shared[1])
    held, due = await one_held_and_one_due(crowd)

    def set_back(tx: Transaction) -> None:
        put_meta(tx, "clock_set_back", json.dumps((tx.now_ms, 60_000, held)))
        tx.execute("UPDATE states SET created_at = created_at + 60000 WHERE seq = ?", (due,))
        at = crowd.now - round(TERMS.sweep_interval * 1000)
        tx.insert("duties", ("name", "at"), [(managers.SWEEP, at), (managers.RECOVERY, crowd.now)])

    await crowd.stores[0].write(set_back)

    async def sweep() -> None:
        await crowd.stores[0].write(managers.sweep, "m1", crowd.now, TERMS, None)

    await without_deadlock(shared, held, due, sweep)


async def test_leases_are_extended_without_a_deadlock_with_a_heartbeat(
    shared: tuple[Database, Sequence[Store]],
) -> None:
    fresh, stores = shared
    before, crowd = len(fresh.server.log), Crowd(stores)
    key = (NAMESPACE, "w0")

    def add(tx: Transaction) -> None:
        tx.insert(
            "limits", ("namespace", "name", "at_most", "created_at", "updated_at"), [("t", "l", 1, 0, 0)]
        )
        limit = tx.one("SELECT id FROM limits")["id"]
        tx.insert("slots", ("limit_id", "key", "state", "check_at"), [(limit, "", 1, tx.now_ms + 1_000)])

    await stores[0].write(add)
    await stores[0].write(workers.heartbeat, NAMESPACE, HeartbeatRequest(worker_id="w0", states=[]), 1, TERMS)
    with gate() as closed:

        def beat(tx: Transaction) -> None:
            tx.execute(f"SELECT state FROM slots ORDER BY state{tx.for_update('slots')}").fetchall()
            closed.hold()
            tx.execute("UPDATE workers SET seen_at = 2 WHERE namespace = ? AND worker_id = ?", key)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(stores[0].write, beat)
            await trio.to_thread.run_sync(closed.wait_entered)
            nursery.start_soon(stores[1].write, leases.extend, crowd.now, 1_000, TERMS)
            await until(fresh.blocked)
            closed.open()
    text = fresh.server.log[before:]
    assert "deadlock detected" not in text, text


def claimer(crowd: Crowd) -> claims.Claimer:
    return claims.Claimer(manager=None, now=crowd.now, ttl_ms=60_000, worker="w0", claim_id="claim")


async def one_held_and_one_due(crowd: Crowd) -> tuple[int, int]:
    """Return the numbers of two states: one held under a claim id, and one after it that is due."""
    random = Random(0)
    await crowd.register(random)
    await crowd.set_limit(random)
    await crowd.upsert(random)
    for _ in range(2):
        await crowd.stores[0].write(triggers.trigger, NAMESPACE, GRAPH, triggers.NewRun())
    claimed = await crowd.stores[0].write(claims.claim, NAMESPACE, {NODES[0]: 1}, 1, claimer(crowd))
    (held,) = claimed.seqs
    due = await crowd.stores[0].read(lambda view: view.one("SELECT seq FROM states WHERE status = 'CREATED'"))
    assert held < due["seq"]
    return held, due["seq"]


async def without_deadlock(
    shared: tuple[Database, Sequence[Store]], first: int, second: int, call: Callable[[], Awaitable[None]]
) -> None:
    """Make a call while another transaction locks two states, by number; that must end neither of them."""
    fresh, stores = shared
    before, has_ended = len(fresh.server.log), False
    with gate() as closed:

        def lock_both(tx: Transaction) -> None:
            for seq in (first, second):
                tx.row(f"SELECT seq FROM states WHERE seq = ?{tx.for_update('states')}", (seq,))
                closed.hold()

        async def call_and_note() -> None:
            nonlocal has_ended
            await call()
            has_ended = True

        async with trio.open_nursery() as nursery:
            nursery.start_soon(stores[1].write, lock_both)
            await trio.to_thread.run_sync(closed.wait_entered)
            nursery.start_soon(call_and_note)
            await until(lambda: has_ended or fresh.blocked())
            closed.open()
    text = fresh.server.log[before:]
    assert "deadlock detected" not in text, text


async def watch_limits(store: Store, most: Counter[str]) -> None:
    """Note the maximum of states that hold each limit at once."""
    while True:
        most |= await store.read(held_by_limit)
        await trio.lowlevel.checkpoint()


def held_by_limit(view: View) -> Counter[str]:
    names = dict(map(tuple, view.execute("SELECT id, name FROM limits")))
    held = view.execute("SELECT limits FROM states WHERE status = 'QUEUED' AND limits IS NOT NULL")
    return Counter(names[limit] for (text,) in held for limit, _ in json.loads(text))


def no_counter_is_negative(view: View) -> None:
    for table, columns in (
        ("runs", ("pending", "success", "errored", "retried")),
        ("counts", ("pending", "success", "errored", "next_created_error", "retry_created", "pruned")),
        ("unite_counters", ("pending", "failed", "succeeded")),
    ):
        negative = " OR ".join(f"{column} < 0" for column in columns)
        assert not view.execute(f"SELECT * FROM {table} WHERE {negative}").fetchall()
