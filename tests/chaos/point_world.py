"""A world for one case: a server, two workers that are started again whenever they end, a client,
faults that strike as planned, and notes of all that happened."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import httpx
import trio

from exotrio import Runtime, StateManager
from exotrio._errors import DatabaseError
from exotrio._ledger import Summary
from exotrio._node import declare
from exotrio._wire import ErroredItem, ItemResult, RequeuedItem
from tests.chaos.point_nodes import GRAPH, HANDS, NAMESPACE, NODES, Key
from tests.chaos.point_server import ASKER, KEY, Server, open_server
from tests.chaos.point_wire import LATENESS, Call, Wire
from tests.chaos.points import Case, Fault, Strike

WORKERS = 2
BATCH = 2
PATIENCE = 20.0
"""Grace of a stop with time: longer than any node."""
LAST_GRACE = 60.0
"""Of the stop after the run: time for a report that nobody answers to be sent again."""
CLOSING = 8.6
"""Clean-up, flush and closing, as design section 3 bounds them."""
LONGEST = 900.0
SETTLING = 70.0
"""Seconds after the last worker ended in which everything still on its way has arrived."""


class Quiet(httpx.AsyncBaseTransport):
    """Carries the client's requests past all points."""

    def __init__(self, world: World) -> None:
        self._world = world

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        from tests.chaos.point_server import Exchange

        exchange = Exchange(request, await request.aread(), None)
        self._world.server.deliver(exchange)
        await exchange.answered.wait()
        return exchange.response()


@dataclass(eq=False)
class Hand:
    """One life of a worker, as its nodes, its wire and the server know it.

    Attributes:
        claimed: States in the replies to its claims, as often as they came.
        held: Of those, what it has had no definite answer about.
        open: Work whose node was begun and of which the state manager has not said that it knows.
        must_end_by: When a stop that was asked for has to be over.
        mid_claim: The stop came while a claim was in flight: the link hands that back by itself.
    """

    world: World
    name: str
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    claimed: int = 0
    held: dict[str, Key] = field(default_factory=dict)
    open: set[Key] = field(default_factory=set)
    must_end_by: float = math.inf
    mid_claim: bool = False
    killed: bool = False
    summary: Summary | None = None

    async def live(self) -> None:
        """Run until stopped, or until the run is over."""
        world = self.world
        self.wire = Wire(world.server, world.nursery, self)
        self.runtime = Runtime(
            NAMESPACE,
            self.name,
            NODES,
            key=KEY,
            workers=WORKERS,
            batch_size=BATCH,
            poll_interval=0.5,
            shutdown_grace=PATIENCE,
            transport=self.wire,
        )
        HANDS.set(self)
        with self.scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._stop_in_the_end)
                try:
                    await self.runtime.run()
                except Exception as error:
                    world.problems.append(f"{self.name} raised {error!r}")
                finally:
                    self.summary = self.runtime.summary
                    if not self.killed and trio.current_time() > self.must_end_by:
                        late = trio.current_time() - self.must_end_by
                        world.problems.append(f"{self.name} stopped {late:.2f} s late")
                nursery.cancel_scope.cancel()

    async def _stop_in_the_end(self) -> None:
        await self.world.over.wait()
        self.must_end(LAST_GRACE)
        self.runtime.stop(LAST_GRACE)

    def must_end(self, grace: float) -> None:
        self.must_end_by = min(self.must_end_by, trio.current_time() + grace + CLOSING)
        self.mid_claim = self.mid_claim or self.wire.claiming > 0

    # -- for nodes

    def begins(self, key: Key) -> None:
        self.world.executions[key] += 1
        self.open.add(key)

    def accepted(self, what: str, key: Key) -> bool:
        return self.world.accepted[what, key] > 0

    async def reach(self, point: str, *keys: Key) -> None:
        fault = self.world.reach(point)
        if fault is Fault.LATE:
            self.touch(*self.held.values())
            await trio.sleep(LATENESS)
        elif fault is not None:
            self.suffer(fault, *keys)
        if self.killed:
            await trio.sleep_forever()

    # -- for the wire

    async def reach_wire(self, point: str, call: Call, reply: Any) -> Fault | None:
        if call.operation == "claim" and reply is not None and not reply.get("states"):
            return None  # what there is to lose is what it took
        if call.operation == "heartbeat" and not call.states:
            return None
        fault = self.world.reach(point)
        if fault is None:
            return None
        keys = [self.world.keys[state] for state in call.states]
        if reply is not None and call.operation == "claim":
            keys += [self.world.keys[state["state_id"]] for state in reply["states"]]
        if fault is Fault.LATE:
            self.wire.hold()
            self.touch(*keys, *self.held.values())
            return None
        if fault in (Fault.CANCEL, Fault.STOP, Fault.STOP_PATIENTLY, Fault.KILL, Fault.RESTART):
            self.suffer(fault, *keys)
            return fault
        if self.world.case.api == "v0" and (
            fault is Fault.SILENCE or call.operation in ("requeue", "release")
        ):
            # Repeated after its claim timed out, or never, lest a stock server runs a state again that ended.
            self.touch(*keys)
        return fault

    def answered(self, call: Call, status: int, reply: Any) -> None:
        """Note what the worker was told by the state manager itself."""
        world = self.world
        if status >= 500:
            return
        if call.operation == "claim" and status == 200:
            self.claimed += len(reply["states"])
            self.held.update((each["state_id"], world.keys[each["state_id"]]) for each in reply["states"])
        if call.operation in ("report", "requeue", "release"):
            for state in call.states:
                self.held.pop(state, None)
                self.open.discard(world.keys[state])
        if call.operation == "report" and status == 200:
            if call.route == "outcomes":
                for item, result in zip(call.body, reply["items"], strict=True):
                    if result["result"] in ("ok", "duplicate"):
                        world.acknowledged.append((item["state_id"], item["outcome"], item))
            else:
                world.acknowledged.append((call.states[0], call.route, call.body))

    def violates(self, what: str) -> None:
        self.world.problems.append(f"{self.name}: {what}")

    # -- faults

    def suffer(self, fault: Fault, *keys: Key) -> None:
        """Let a fault happen to this worker, or through it to the server. Returns at once."""
        match fault:
            case Fault.CANCEL:
                self.must_end(0.0)
                self.scope.cancel()
            case Fault.STOP:
                self.must_end(0.0)
                self.runtime.stop(0)
            case Fault.STOP_PATIENTLY:
                self.must_end(PATIENCE)
                self.runtime.stop()
                return
            case Fault.KILL:
                self.killed = True
                self.wire.cut()
                self.scope.cancel()
            case Fault.RESTART:
                self.world.server.restart()
                return
        # Held, not only open: what is begun in the same moment has heard of nothing yet.
        self.touch(*keys, *self.open, *self.held.values())

    def touch(self, *keys: Key) -> None:
        self.world.touched.update(set(keys))


class World:
    """Attributes:
    visits: How often each point was reached.
    struck: What struck.
    touched: How many faults touched a piece of work: each may make it run once more.
    executions: How often each was begun.
    expired: Leases that ended.
    """

    server: Server
    nursery: trio.Nursery

    def __init__(self, case: Case) -> None:
        self.case = case
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
        self.hands: list[Hand] = []
        self.problems: list[str] = []
        self.over = trio.Event()
        self.took = 0.0

    async def live(self) -> None:
        """Run the graph to its end, whatever strikes, and then some."""
        with trio.fail_after(LONGEST):
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
                    await trio.sleep(SETTLING)
                    from tests.chaos.point_invariants import check

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
        if use_case == "expire" and (self.over.is_set() or not any(hand.killed for hand in self.hands)):
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
            await trio.sleep(LATENESS)
        elif fault is Fault.RESTART:
            self.server.restart()
        elif hand is not None:
            hand.suffer(fault)

    def committed(self, use_case: str, args: tuple[Any, ...], result: Any) -> None:
        match use_case:
            case "claim":
                for taken in result.states:
                    state_id = taken.v0["state_id"]
                    self.keys[state_id] = (taken.v0["node_name"], taken.v0["inputs"]["key"])
                    self.tokens[state_id] = taken.native["lease"]["token"]
            case "record_batch":
                for item, reply in zip(args[1], result, strict=True):
                    if reply.result is ItemResult.OK:
                        self._accept(item, item.token)
            case "record_v0":
                if result.result is ItemResult.OK:
                    self._accept(args[2], None)
            case "expire":
                self.expired += result

    def _accept(self, item: Any, token: str | None) -> None:
        key = self.keys[item.state_id]
        if token != self.tokens[item.state_id]:
            self.problems.append(f"a stale outcome of {key} was accepted")
        if isinstance(item, RequeuedItem):
            self.accepted["requeued" if item.delay_ms > 1 else "released", key] += 1
            return
        self.accepted["errored" if isinstance(item, ErroredItem) else "ended", key] += 1
        self.ended[item.state_id] += 1

    def defect(self, error: BaseException) -> None:
        self.problems.append(f"the state manager failed: {error!r}")
