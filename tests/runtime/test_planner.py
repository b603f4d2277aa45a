"""How many states are claimed, and by which request: the rule of ``planner`` as tables."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest.mock import Mock

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from exotrio import BaseNode
from exotrio._execution.handle import Execution
from exotrio._link.port import Claim, Room
from exotrio._nodes.outcome import Executed
from exotrio._runtime.held_claim import HeldClaim
from exotrio._runtime.ledger import Ledger
from exotrio._runtime.planner import BATCH_WAIT, FAST_DELIVERY, ClaimPlanner

BATCH, WORKERS = 16, 4
SLOW = 2 * FAST_DELIVERY


class Plain(BaseNode):
    async def execute(self) -> None: ...


class Scarce(BaseNode):
    concurrency = 2

    async def execute(self) -> None: ...


@dataclass
class Deliveries:
    """Deliveries as the reporter shows them."""

    queued: int = 0
    in_flight: int = 0
    sent_at: float = 0.0
    took: float = 0.0
    failing: bool = False
    stuck: str = ""


@dataclass
class Bench:
    """A planner between a real ledger and a real channel to workers."""

    planner: ClaimPlanner
    ledger: Ledger
    deliveries: Deliveries
    claimed: trio.MemorySendChannel[HeldClaim]
    workers: trio.MemoryReceiveChannel[HeldClaim]

    def hold(self, *, buffered: int = 0, running: int = 0, done: int = 0, node: str = "Plain") -> None:
        """Enter claims in these stages."""
        for stage in ["buffered"] * buffered + ["running"] * running + ["done"] * done:
            number = len(self.ledger.snapshot())
            held = self.ledger.add(Claim(f"state {number}", node, "place", {}))
            assert held is not None
            if stage == "buffered":
                self.claimed.send_nowait(held)
                continue
            self.ledger.run(held, Execution(held.claim))
            if stage == "done":
                self.ledger.finish(held, Executed([]))


@contextmanager
def bench(
    *, native: bool = True, batch_size: int = BATCH, nodes: Any = (Plain,), **deliveries: Any
) -> Iterator[Bench]:
    claimed, workers = trio.open_memory_channel[HeldClaim](batch_size)
    ledger, facts = Ledger(), Deliveries(**deliveries)
    options = Mock(batch_size=batch_size, workers=WORKERS, nodes={node.__name__: node for node in nodes})
    planner = ClaimPlanner(
        options=options,
        ledger=ledger,
        stop=Mock(requested=False),
        link=Mock(is_native=native),
        executor=Mock(accepts=lambda node: True),
        deliveries=facts,
        claimed=claimed,
    )
    with claimed, workers:
        yield Bench(planner, ledger, facts, claimed, workers)


def requested(bench: Bench) -> tuple[int, int]:
    """Return how many states the poller and a report would ask for."""
    report = bench.planner.for_report()
    return bench.planner.for_poll().limit, 0 if report is None else report.limit


async def test_on_v0_only_the_poller_claims_and_one_for_each_worker_after_a_claim_that_brought_less() -> None:
    with bench(native=False) as b:
        assert requested(b) == (BATCH, 0)
        b.hold(running=3, done=2)
        assert requested(b) == (BATCH, 0)
        b.planner.poll_was_short = True
        assert requested(b) == (WORKERS, 0)


@pytest.mark.parametrize(
    ("held", "poll", "report"),
    [
        ({}, BATCH, BATCH - 2),
        # Half of the buffer, and what is left of it; a report leaves an eighth.
        ({"running": 4}, 8, 14),
        ({"running": 4, "buffered": 3}, 5, 11),
        ({"running": 4, "buffered": 8}, 0, 6),
        ({"running": 4, "buffered": 14}, 0, 0),
        ({"running": 4, "buffered": 16}, 0, 0),
        ({"done": 4}, 8, 14),
        ({"done": BATCH + WORKERS}, 8, 14),
    ],
)
async def test_on_a_native_link_poller_and_reports_share_the_buffer(
    held: dict[str, Any], poll: int, report: int
) -> None:
    with bench() as b:
        b.hold(**held)
        assert requested(b) == (poll, report)
        assert b.planner.may_poll() == (poll > 0)


async def test_a_report_leaves_nothing_to_a_poller_that_is_claiming() -> None:
    with bench() as b:
        b.hold(running=4)
        with b.planner.reserve(b.planner.for_poll()):
            b.ledger.claiming = True
            assert requested(b) == (8, 8)
            with b.planner.reserve(b.planner.for_poll()):
                assert requested(b) == (0, 0)
        assert requested(b) == (8, BATCH)


@pytest.mark.parametrize(
    ("fact", "value", "poll", "report"),
    [("failing", True, True, 0), ("stuck", "the state manager refuses the key", False, 0)],
)
async def test_deliveries_that_fail_claim_nothing_and_if_many_do_the_poller_stops_too(
    fact: str, value: Any, poll: bool, report: int
) -> None:
    with bench(**{fact: value}) as b:
        assert (b.planner.may_poll(), requested(b)[1]) == (poll, report)


async def test_nothing_is_claimed_while_more_than_a_full_load_is_being_delivered() -> None:
    with bench() as b:
        b.hold(done=BATCH + WORKERS + 1)
        assert not b.planner.may_poll()
        assert b.planner.for_report() is None


async def test_a_report_claims_nothing_once_a_stop_was_requested() -> None:
    with bench() as b:
        b.planner.stop = Mock(requested=True)
        assert b.planner.for_report() is None


async def test_idle_workers_are_room_and_say_how_many_states_could_begin_at_once() -> None:
    with bench() as b:
        async with trio.open_nursery() as nursery:
            for _ in range(WORKERS):
                nursery.start_soon(b.workers.receive)
            await wait_all_tasks_blocked()
            with b.planner.reserve(Room(limits={"Plain": 8}, limit=8, at_once=0)):
                report = b.planner.for_report()
            nursery.cancel_scope.cancel()
    assert report is not None
    assert (report.limit, report.at_once) == (BATCH + WORKERS - 2 - 8, WORKERS)


async def test_no_more_states_of_a_node_with_concurrency_are_claimed_than_may_run() -> None:
    with bench(nodes=(Plain, Scarce)) as b:
        assert b.planner.for_poll().limits == {"Plain": BATCH, "Scarce": 2}
        b.hold(running=1, node="Scarce")
        assert b.planner.for_poll().limits == {"Plain": 8, "Scarce": 1}
        with b.planner.reserve(b.planner.for_poll()):
            report = b.planner.for_report()
            assert report is not None
            assert report.limits == {"Plain": 6}, "what is in flight counts"
        b.planner.executor = Mock(accepts=lambda node: node is Scarce)
        assert b.planner.for_poll().limits == {"Scarce": 1}


async def test_after_a_release_for_other_runtimes_each_outcome_adds_room_for_one_state() -> None:
    with bench() as b:
        b.hold(running=4)
        b.ledger.reported = b.ledger.reported_by_then = 7
        assert requested(b) == (0, 0)
        b.ledger.reported += 3
        assert requested(b) == (3, 1)
        b.ledger.reported += 100
        assert requested(b) == (8, 14)


async def test_an_answer_that_comes_too_slowly_halves_the_next_claim_and_each_in_time_adds_one() -> None:
    with bench() as b:
        b.planner.shrink_limit(BATCH)
        assert b.planner.for_poll().limit == 8
        b.planner.grow_limit(7)
        assert b.planner.for_poll().limit == 8
        for count in range(8, BATCH + 5):
            b.planner.grow_limit(count)
        assert b.planner.for_poll().limit == BATCH


@pytest.mark.parametrize(
    ("waits", "done", "facts"),
    [
        (False, 0, {}),
        (True, 1, {}),  # on its way to the queue
        (True, 0, {"queued": 1}),
        (True, 1, {"in_flight": 1, "queued": 1}),
        (True, 1, {"in_flight": 1}),  # it was just sent
        (False, 1, {"in_flight": 1, "sent_at": -2 * BATCH_WAIT}),  # it may hang
        (True, 1, {"in_flight": 1, "sent_at": -2 * BATCH_WAIT, "queued": 1}),
        (True, 1, {"took": FAST_DELIVERY}),
        (False, 1, {"took": SLOW}),
        (False, 1, {"queued": 1, "failing": True}),
        (False, 1, {"queued": 1, "native": False}),
        (False, 1, {"queued": 1, "batch_size": 7}),
    ],
)
async def test_the_poller_waits_for_a_report_that_claims_unless_that_would_delay_claims(
    autojump_clock: MockClock, waits: bool, done: int, facts: dict[str, Any]
) -> None:
    with bench(**facts) as b:
        b.hold(done=done)
        b.deliveries.sent_at += trio.current_time()
        assert b.planner.poll_has_to_wait is waits
        b.planner.poll_waited = SLOW
        assert not b.planner.poll_has_to_wait, "a claim that waits at the server costs nothing"
