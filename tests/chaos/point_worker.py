"""One life of a worker, as its nodes, its wire and the server know it, and what a fault does to it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import trio

from exotrio import Runtime
from exotrio._runtime.lifecycle import Summary
from tests.chaos.point_nodes import HANDS, NAMESPACE, NODES, Key
from tests.chaos.point_server import KEY
from tests.chaos.point_wire import Call, Wire
from tests.chaos.points import ENDS, Fault

if TYPE_CHECKING:
    from tests.chaos.point_world import World

WORKERS = 2
BATCH = 2
PATIENCE = 20.0
"""Grace of a stop with time: longer than any node."""
LAST_GRACE = 60.0
"""Of the stop after the run: time for a report that nobody answers to be sent again."""
CLOSING = 8.6
"""Clean-up, flush and closing, as design section 3 bounds them."""


@dataclass(eq=False)
class Hand:
    """One life of a worker.

    Attributes:
        claimed: States in the replies to its claims, as often as they came.
        repeated: Of those, what had come before: if that is held still, it counts once in the summary.
        seen: Their ids.
        held: Of those, what it has had no definite answer about.
        open: Work whose node was begun and of which the state manager has not said that it knows.
        must_end_by: When a stop that was asked for has to be over.
        mid_claim: The stop came while a claim was in flight: the link hands that back by itself.
    """

    world: World
    name: str
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    claimed: int = 0
    repeated: int = 0
    seen: set[str] = field(default_factory=set)
    held: dict[str, Key] = field(default_factory=dict)
    open: set[Key] = field(default_factory=set)
    must_end_by: float = math.inf
    mid_claim: bool = False
    killed: bool = False
    replaced: trio.Event = field(default_factory=trio.Event)
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
            if self.world.case.api == "v0":  # natively heartbeats keep what a slow node holds
                self.touch(*self.held.values())
            await trio.sleep(self.world.lateness)
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
        if reply is not None and call.claims:
            keys += [self.world.keys[state["state_id"]] for state in reply.get("states", ())]
        if fault is Fault.LATE:
            self.wire.hold(self.world.lateness)
            self.touch(*keys, *self.held.values())
            return None
        if fault in (*ENDS, Fault.RESTART):
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
        if call.claims and status == 200:
            self.mid_claim = self.mid_claim or self.must_end_by < math.inf
            self.claimed += len(reply["states"])
            self.repeated += sum(each["state_id"] in self.seen for each in reply["states"])
            self.seen.update(each["state_id"] for each in reply["states"])
            self.held.update((each["state_id"], world.keys[each["state_id"]]) for each in reply["states"])

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
