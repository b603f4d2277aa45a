"""A world for one case: a server, two workers that are started again whenever they end, a client,
faults that strike as planned, and notes of all that happened."""

from __future__ import annotations

import logging
import random
import zlib
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from itertools import count
from typing import Any
from unittest import mock

import httpx
import trio

from exotrio import StateManager
from exotrio._nodes.checks import declare
from exotrio._runtime import heartbeat
from exotrio._wire.native import ErroredItem, ItemReply, RequeuedItem
from exotrio._wire.vocabulary import ItemResult
from exotrio.errors import DatabaseError
from exotrio.manager.engine.claims import Claimed
from tests.chaos.point_nodes import GRAPH, NAMESPACE, NODES, TOKEN, Key
from tests.chaos.point_server import ASKER, KEY, TERMS, Exchange, Server, open_server
from tests.chaos.point_worker import Hand
from tests.chaos.points import Case, Fault, Strike
from tests.support.spans import Spans, recording

LATENESS = {"native": 10.0, "v0": 20.0}
"""Seconds of a delay: longer than leases and claim timeouts, shorter than the patience of a request."""
LONGEST = 900.0
CLOCKS = {Fault.CLOCK_BACK: -3_600_000, Fault.CLOCK_AHEAD: 40 * 86_400_000}


class Quiet(httpx.AsyncBaseTransport):
    """Carries the client's requests past all points."""

    def __init__(self, world: World) -> None:
        self._world = world

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        exchange = Exchange(request, await request.aread(), None)
        self._world.server.deliver(exchange)
        await exchange.answered.wait()
        return exchange.response()


class World:
    """One case, from an empty database to the end of its run.

    Args:
        case: What strikes.
        seed: Of chance, jitter and the order of tasks.

    Attributes:
        visits: How often each point was reached.
        struck: What struck.
        touched: How many faults touched a piece of work: each may make it run once more.
        executions: How often each was begun.
        keys: Which work a state is an attempt at.
        tokens: The last lease token of each state.
        accepted: How often the state manager took an error, a requeue or an end of some work.
        ended: How many outcomes that end it were accepted of each state.
        acknowledged: Outcomes a worker was told to be taken: state, kind, content.
        expired: Leases that ended.
        spans: What is traced, in every second case; the others show that nothing needs it.
        traced: The trace contexts of accepted outcomes.
        problems: What is wrong, in words.
    """

    server: Server
    nursery: trio.Nursery

    def __init__(self, case: Case, seed: int = 0) -> None:
        self.case = case
        self.seed = seed
        self.lateness = LATENESS[case.api]
        self.visits: Counter[str] = Counter()
        self.struck: list[Strike] = []
        self.touched: Counter[Key] = Counter()
        self.executions: Counter[Key] = Counter()
        self.keys: dict[str, Key] = {}
        self.tokens: dict[str, str | None] = {}
        self.accepted: Counter[tuple[str, Key]] = Counter()
        self.ended: Counter[str] = Counter()
        self.acknowledged: list[tuple[str, str, Mapping[str, Any]]] = []
        self.expired = 0
        self.spans: Spans | None = None
        self.traced: list[str | None] = []
        self.hands: list[Hand] = []
        self.problems: list[str] = []
        self.over = trio.Event()
        self.took = 0.0

    async def live(self, check: Callable[[World], Awaitable[None]]) -> None:
        """Run the graph to its end, whatever strikes, and then some; then call ``check``.

        Raises:
            trio.TooSlowError: the run did not end.
        """
        # In process leases do not end, so it beats as often as it likes; these do end.
        beats = mock.patch.object(heartbeat, "INTERVAL_IN_PROCESS", TERMS.lease_ttl_ms / 3000)
        reproducible = _reproducible(f"{self.seed} {self.case}")
        traces = recording() if zlib.crc32(f"{self.seed} {self.case}".encode()) % 2 else nullcontext()
        with beats, reproducible, _listening(self.problems), traces as self.spans, trio.fail_after(LONGEST):
            async with trio.open_nursery() as self.nursery:
                native = self.case.api == "native"
                async with open_server(self.nursery, self, native=native) as self.server:
                    async with trio.open_nursery() as slots:
                        run_id = await self._trigger()
                        slots.start_soon(self._slot, "a")
                        slots.start_soon(self._slot, "b")
                        await self._wait(run_id)
                        self.took = trio.current_time()
                        self.over.set()
                    # Until all that was late has arrived.
                    late = any(strike.fault is Fault.LATE for strike in self.struck)
                    await trio.sleep(self.lateness + 1 if late else 1)
                    await check(self)
                    self.nursery.cancel_scope.cancel()

    async def _trigger(self) -> str:
        quiet = Quiet(self)
        async with httpx.AsyncClient(transport=quiet, base_url="http://chaos") as client:
            body = {
                "runtime_name": "setup",
                "runtime_namespace": NAMESPACE,
                "nodes": [
                    {**declare(node).model_dump(mode="json"), "namespace": NAMESPACE} for node in NODES
                ],
            }
            response = await client.put(
                f"/v0/namespace/{NAMESPACE}/nodes/", json=body, headers={"x-api-key": KEY}
            )
            assert response.status_code == 200, response.text
        async with StateManager(NAMESPACE, key=KEY, transport=quiet) as manager:
            await manager.upsert_graph(GRAPH)
            run_id: str = (await manager.trigger(GRAPH.name))["run_id"]
            return run_id

    async def _wait(self, run_id: str) -> None:
        while True:
            row = await self.server.store.read(
                lambda view: view.row("SELECT pending FROM runs WHERE run_id = ?", (run_id,))
            )
            if row is not None and row[0] == 0:
                return
            await trio.sleep(0.25)

    async def _slot(self, name: str) -> None:
        for life in count(1):
            hand = Hand(self, f"{name}{life}")
            self.hands.append(hand)
            await hand.live()
            if self.over.is_set():
                return
            await trio.sleep(0.5)

    def reach(self, point: str) -> Fault | None:
        """Count a visit and return what strikes at it."""
        self.visits[point] += 1
        for strike in self.case.strikes:
            if strike.point == point and strike.nth == self.visits[point]:
                self.struck.append(strike)
                return strike.fault
        return None

    # -- for the server

    async def reach_commit(self, when: str, use_case: str, result: Any) -> None:
        if use_case == "claim" and when == "after" and not result.states:
            return
        if use_case == "sweep" and (self.over.is_set() or not any(hand.killed for hand in self.hands)):
            return
        fault = self.reach(f"{when} the commit of {use_case}")
        if fault is None:
            return
        hand: Hand | None = ASKER.get()
        if fault is Fault.DISK:
            raise DatabaseError("chaos: the disk is full")
        if fault is Fault.LATE:
            for each in self.hands:
                each.touch(*each.held.values())
            await trio.sleep(self.lateness)
        elif fault is Fault.RESTART:
            self.server.restart()
        elif fault in CLOCKS:
            self.server.ahead_ms += CLOCKS[fault]
        elif hand is not None:
            hand.suffer(fault)

    def committed(self, use_case: str, args: tuple[Any, ...], result: Any) -> None:
        match use_case:
            case "claim" | "claim_once_ready":
                self._handed_out(result)
            case "record_batch":
                self._recorded(args[1], result)
            case "record_and_claim":
                replies, claimed = result
                self._recorded(args[1], replies)
                self._handed_out(claimed)
            case "record_v0":
                if result.result is ItemResult.OK:
                    self._accept(args[1], None)
            case "heartbeat" | "release":
                states, replies = (args[1], result) if use_case == "release" else (args[1].states, result[0])
                for held, reply in zip(states, replies, strict=True):
                    if reply.result == "ok" and held.token != self.tokens[held.state_id]:
                        key = self.keys[held.state_id]
                        self.problems.append(f"{use_case} of {key} was accepted from a former holder")
            case "sweep":
                self.expired += result.ended

    def _handed_out(self, claimed: Claimed) -> None:
        for taken in claimed.states:
            state_id = taken.v0["state_id"]
            for hand in self.hands:
                if state_id in hand.held:
                    hand.replaced.set()
            inputs = taken.v0["inputs"]
            self.keys[state_id] = (inputs["place"], inputs["key"])
            self.tokens[state_id] = taken.native["lease"]["token"]

    def _recorded(self, items: Sequence[Any], replies: Sequence[ItemReply]) -> None:
        for item, reply in zip(items, replies, strict=True):
            if reply.result is ItemResult.OK:
                self._accept(item, item.token)

    def _accept(self, item: Any, token: str | None) -> None:
        key = self.keys[item.state_id]
        if token != self.tokens[item.state_id]:
            self.problems.append(f"a stale outcome of {key} was accepted")
        if isinstance(item, RequeuedItem):
            self.accepted["requeued" if item.delay_ms > 1 else "released", key] += 1
            return
        self.traced.append(item.trace)
        self.accepted["errored" if isinstance(item, ErroredItem) else "ended", key] += 1
        self.ended[item.state_id] += 1

    def defect(self, error: BaseException) -> None:
        self.problems.append(f"the state manager failed: {error!r}")


@contextmanager
def _reproducible(seed: str) -> Iterator[None]:
    """Let chance, jitter and the order of tasks hang on ``seed`` alone."""
    scheduler: Any = trio._core._run
    state = random.getstate()
    random.seed(seed)
    scheduler._r.seed(seed)
    with mock.patch.object(scheduler, "_ALLOW_DETERMINISTIC_SCHEDULING", True):
        try:
            yield
        finally:
            random.setstate(state)


@contextmanager
def _listening(problems: list[str]) -> Iterator[None]:
    """Note what must never be logged: a defect, or a secret."""

    class Ear(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            text = record.getMessage()
            if record.exc_info or record.levelno >= logging.CRITICAL:
                problems.append(f"{record.name} logged {text}: {record.exc_info and record.exc_info[1]!r}")
            if TOKEN in text:
                problems.append(f"{record.name} logged a secret: {text}")

    ear, logger = Ear(), logging.getLogger("exotrio")
    logger.addHandler(ear)
    try:
        yield
    finally:
        logger.removeHandler(ear)
