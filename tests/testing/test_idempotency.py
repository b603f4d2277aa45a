"""Twenty mistakes that only a crash shows, as people make them: ``explore`` finds each, and nothing in its
correction. Everything happens for one order, whose name is the key by which it can be recognised."""

from __future__ import annotations

import os
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from exotrio import BaseNode, Graph, GraphNodeModel, ReQueueAfterSignal
from exotrio.testing import CheckFailed, CrashRun, Exploration, explore

ORDER = "order 1"
POINTS = int(os.environ.get("EXOTRIO_TEST_POINTS", "4"))
"""Most points that are tried of a correction. The long form tries all: 500."""


@dataclass
class World:
    """A bank, a disk, a database, a post office. Each call takes a moment before it has its effect."""

    rows: dict[str, Any] = field(default_factory=dict)
    log: list[str] = field(default_factory=list)
    keys: set[str] = field(default_factory=set)

    async def get(self, name: str, default: Any = None) -> Any:
        await trio.lowlevel.checkpoint()
        return self.rows.get(name, default)

    async def put(self, **rows: Any) -> None:
        """One transaction."""
        await trio.lowlevel.checkpoint()
        self.rows |= rows

    async def remove(self, name: str) -> Any:
        await trio.lowlevel.checkpoint()
        return self.rows.pop(name, None)

    async def do(self, what: str, key: str | None = None) -> None:
        """Once only, if the other side is told a key."""
        await trio.lowlevel.checkpoint()
        if key is None or key not in self.keys:
            self.log.append(what)
        if key is not None:
            self.keys.add(key)


world = World()
Code = Callable[[BaseNode, World], Awaitable[None]]


@dataclass(frozen=True)
class Mistake:
    """Two pieces of code that do the same while nothing goes wrong, and how one can tell."""

    wrong: Code
    right: Code
    holds: Callable[[World], bool]


# 1, 2, 3


async def charge(node: BaseNode, w: World) -> None:
    await w.do("charge")


async def charge_with_key(node: BaseNode, w: World) -> None:
    await w.do("charge", ORDER)


async def append_to_file(node: BaseNode, w: World) -> None:
    text = await w.get("file", "")
    await w.put(file=text + "line\n")


async def write_file(node: BaseNode, w: World) -> None:
    await w.put(file="line\n")


async def count(node: BaseNode, w: World) -> None:
    await trio.lowlevel.checkpoint()
    w.rows["count"] = w.rows.get("count", 0) + 1


async def count_orders(node: BaseNode, w: World) -> None:
    await trio.lowlevel.checkpoint()
    w.keys.add(ORDER)
    w.rows["count"] = len(w.keys)


# 4: the lock of a dead owner is never released; one with the order's name is its own again


async def lock(node: BaseNode, w: World) -> None:
    while await w.get("lock"):  # noqa: ASYNC110  (as one does that asks a database)
        await trio.sleep(5)
    await w.put(lock="taken")
    await w.put(done=True)
    await w.remove("lock")


async def lock_by_owner(node: BaseNode, w: World) -> None:
    while await w.get("lock", ORDER) != ORDER:  # noqa: ASYNC110
        await trio.sleep(5)
    await w.put(lock=ORDER)
    await w.put(done=True)
    await w.remove("lock")


# 5


async def temp_file_of_any_name(node: BaseNode, w: World) -> None:
    name = f"temp {random.random()}"
    await w.put(**{name: "half"})
    await w.put(file="whole")
    await w.remove(name)


async def temp_file_of_one_name(node: BaseNode, w: World) -> None:
    await w.put(temp="half")
    await w.put(file="whole")
    await w.remove("temp")


# 6


async def transfer_in_two_steps(node: BaseNode, w: World) -> None:
    if await w.get("a", 10) == 10:
        await w.put(a=0)
        await w.put(b=10)


async def transfer_in_one(node: BaseNode, w: World) -> None:
    if await w.get("a", 10) == 10:
        await w.put(a=0, b=10)


# 7


async def mail_before_commit(node: BaseNode, w: World) -> None:
    if not await w.get("paid"):
        await w.do("mail")
        await w.put(paid=True)


async def mail_after_commit(node: BaseNode, w: World) -> None:
    await w.put(paid=True)
    await w.do("mail", f"message {ORDER}")


# 8: only two at the same time show it


async def check_then_insert(node: BaseNode, w: World) -> None:
    if "insert" not in w.log:
        await w.do("insert")


async def insert_unless_there(node: BaseNode, w: World) -> None:
    await w.do("insert", ORDER)


# 9


async def cache_before_result(node: BaseNode, w: World) -> None:
    if not await w.get("cache"):
        await w.put(cache=True)
        await w.put(result=42)


async def cache_after_result(node: BaseNode, w: World) -> None:
    if not await w.get("cache"):
        await w.put(result=42)
        await w.put(cache=True)


# 10


async def submit_and_poll(node: BaseNode, w: World) -> None:
    if not await w.get("polled"):
        await w.do("submit")
        await w.put(polled=True)
        raise ReQueueAfterSignal(timedelta(seconds=1))


async def submit_with_key_and_poll(node: BaseNode, w: World) -> None:
    if not await w.get("polled"):
        await w.do("submit", ORDER)
        await w.put(polled=True)
        raise ReQueueAfterSignal(timedelta(seconds=1))


# 11: a retry in the same process meets it, too

pages: list[str] = []


async def collect_in_module(node: BaseNode, w: World) -> None:
    for page in ("1", "2"):
        await trio.lowlevel.checkpoint()
        pages.append(page)
    await w.put(pages=list(pages))


async def collect_in_node(node: BaseNode, w: World) -> None:
    found = []
    for page in ("1", "2"):
        await trio.lowlevel.checkpoint()
        found.append(page)
    await w.put(pages=found)


# 12: a kill has no finally


async def clean_up_in_finally(node: BaseNode, w: World) -> None:
    if await w.get("busy"):
        return  # somebody else does it
    w.rows["busy"] = True
    try:
        await w.put(done=True)
    finally:
        del w.rows["busy"]


async def clean_up_what_was_left(node: BaseNode, w: World) -> None:
    w.rows["busy"] = True
    try:
        await w.put(done=True)
    finally:
        w.rows.pop("busy", None)


# 13: who is cancelled does not know what another one has done since


async def refund_if_it_fails(node: BaseNode, w: World) -> None:
    await w.put(balance=90)
    try:
        await trio.sleep(2)
        await trio.sleep(2)
    except BaseException:
        w.rows["balance"] = 100
        raise


async def refund_if_shipping_fails(node: BaseNode, w: World) -> None:
    await w.put(balance=90)
    try:
        await trio.sleep(2)
        await trio.sleep(2)
    except Exception:
        w.rows["balance"] = 100
        raise


# 14


async def move_by_removing_first(node: BaseNode, w: World) -> None:
    text = await w.remove("old")
    await w.put(new=text)


async def move_by_writing_first(node: BaseNode, w: World) -> None:
    if (text := await w.get("old")) is not None:
        await w.put(new=text)
        await w.remove("old")


# 15


async def book(node: BaseNode, w: World) -> None:
    balance = await w.get("balance", 100)
    await w.put(balance=balance - 10)


async def book_with_order(node: BaseNode, w: World) -> None:
    if not await w.get("booked"):
        await w.put(balance=90, booked=True)


# 16


async def draw_number_first(node: BaseNode, w: World) -> None:
    if not await w.get("invoice"):
        number = await w.get("next", 1)
        await w.put(next=number + 1)
        await w.put(invoice=number)


async def draw_number_with_invoice(node: BaseNode, w: World) -> None:
    if not await w.get("invoice"):
        await w.put(next=2, invoice=1)


# 17


async def take_from_queue_first(node: BaseNode, w: World) -> None:
    if job := await w.remove("queue"):
        await w.do(job)


async def take_from_queue_last(node: BaseNode, w: World) -> None:
    if job := await w.get("queue"):
        await w.do(job, ORDER)
        await w.remove("queue")


# 18


async def batch(node: BaseNode, w: World) -> None:
    for item in "ab":
        await w.do(item)


async def batch_with_keys(node: BaseNode, w: World) -> None:
    for item in "ab":
        await w.do(item, item)


# 19: who lost its lease writes over what the next one wrote


async def write_status(node: BaseNode, w: World) -> None:
    await w.put(status="running")
    await trio.sleep(2)
    await w.put(status="done")


async def advance_status(node: BaseNode, w: World) -> None:
    await trio.lowlevel.checkpoint()
    w.rows.setdefault("status", "running")
    await trio.sleep(2)
    await w.put(status="done")


# 20: only a node that asks for it is drained


async def end_early(node: BaseNode, w: World) -> None:
    for item in "ab":
        if node.stopping:
            return
        await w.do(item, item)


async def go_on_later(node: BaseNode, w: World) -> None:
    for item in "ab":
        if node.stopping:
            raise ReQueueAfterSignal(timedelta(seconds=1))
        await w.do(item, item)


def has(**rows: Any) -> Callable[[World], bool]:
    return lambda w: w.rows.items() >= rows.items()


def did(*what: str) -> Callable[[World], bool]:
    return lambda w: w.log == list(what)


MISTAKES = {
    "a charge": Mistake(charge, charge_with_key, did("charge")),
    "a file that is appended to": Mistake(append_to_file, write_file, has(file="line\n")),
    "a counter": Mistake(count, count_orders, has(count=1)),
    "a lock": Mistake(lock, lock_by_owner, has(done=True)),
    "a temp file": Mistake(
        temp_file_of_any_name, temp_file_of_one_name, lambda w: not any("temp" in name for name in w.rows)
    ),
    "a transfer": Mistake(transfer_in_two_steps, transfer_in_one, has(a=0, b=10)),
    "a mail before the commit": Mistake(mail_before_commit, mail_after_commit, did("mail")),
    "a check before an insert": Mistake(check_then_insert, insert_unless_there, did("insert")),
    "a cache": Mistake(cache_before_result, cache_after_result, has(result=42)),
    "a requeue": Mistake(submit_and_poll, submit_with_key_and_poll, did("submit")),
    "a global": Mistake(collect_in_module, collect_in_node, has(pages=["1", "2"])),
    "a clean-up in finally": Mistake(clean_up_in_finally, clean_up_what_was_left, has(done=True)),
    "a refund": Mistake(refund_if_it_fails, refund_if_shipping_fails, has(balance=90)),
    "a move": Mistake(move_by_removing_first, move_by_writing_first, has(new="text")),
    "a balance": Mistake(book, book_with_order, has(balance=90)),
    "an invoice number": Mistake(draw_number_first, draw_number_with_invoice, has(next=2, invoice=1)),
    "a queue": Mistake(take_from_queue_first, take_from_queue_last, did("job")),
    "a batch": Mistake(batch, batch_with_keys, did("a", "b")),
    "a status": Mistake(write_status, advance_status, has(status="done")),
    "an early end": Mistake(end_early, go_on_later, did("a", "b")),
}


def fresh() -> World:
    global world
    world = World(rows={"old": "text", "queue": "job"})
    pages.clear()
    return world


async def rehearse(code: Code, holds: Callable[[World], bool], max_points: int = 500) -> Exploration:
    class Work(BaseNode):
        async def execute(self) -> None:
            await code(self, world)

    def check(run: CrashRun[World]) -> None:
        assert holds(run.world)

    graph = Graph("g", [GraphNodeModel(node_name="Work", namespace="ns", identifier="work")])
    return await explore(
        graph, [Work], setup=fresh, check=check, max_points=max_points, max_failures=1, timeout=60
    )


each = pytest.mark.parametrize("mistake", MISTAKES.values(), ids=MISTAKES)


@each
async def test_a_mistake_is_found(mistake: Mistake, autojump_clock: MockClock) -> None:
    with pytest.raises(CheckFailed, match=r"^1 fault broke the check"):
        await rehearse(mistake.wrong, mistake.holds)


@each
async def test_in_its_correction_nothing_is_found(mistake: Mistake, autojump_clock: MockClock) -> None:
    found = await rehearse(mistake.right, mistake.holds, POINTS)
    assert len(found.tried) == min(POINTS, len(found.points))
