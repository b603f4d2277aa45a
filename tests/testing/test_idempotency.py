"""Common mistakes that only a crash reveals: ``explore`` finds each one, and nothing in its correction.

Everything happens for one order, whose name is the key by which it can be recognised.
"""

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
POINTS = int(os.environ.get("EXOTRIO_TEST_POINTS", "2"))
"""Points of a correction that are tried. The long form tries all: 500."""


@dataclass
class World:
    """A bank, a disk, a database. Each call takes a moment before it has its effect."""

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
        """Do it once only, if there is a key."""
        await trio.lowlevel.checkpoint()
        if key is None or key not in self.keys:
            self.log.append(what)
        if key is not None:
            self.keys.add(key)


world = World()
Code = Callable[[BaseNode, World], Awaitable[None]]


@dataclass(frozen=True)
class Mistake:
    """Two pieces of code that do the same while nothing goes wrong, and a check that tells them apart."""

    wrong: Code
    right: Code
    holds: Callable[[World], bool]


async def charge(node: BaseNode, w: World) -> None:
    await w.do("charge")


async def charge_with_key(node: BaseNode, w: World) -> None:
    await w.do("charge", ORDER)


# The lock of a dead owner is never released; one with the order's name can be taken again.


async def lock(node: BaseNode, w: World) -> None:
    while await w.get("lock"):  # noqa: ASYNC110  (as with a database)
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


async def temp_file_of_any_name(node: BaseNode, w: World) -> None:
    name = f"temp {random.random()}"
    await w.put(**{name: "half"})
    await w.put(file="whole")
    await w.remove(name)


async def temp_file_of_one_name(node: BaseNode, w: World) -> None:
    await w.put(temp="half")
    await w.put(file="whole")
    await w.remove("temp")


async def transfer_in_two_steps(node: BaseNode, w: World) -> None:
    if await w.get("a", 10) == 10:
        await w.put(a=0)
        await w.put(b=10)


async def transfer_in_one(node: BaseNode, w: World) -> None:
    if await w.get("a", 10) == 10:
        await w.put(a=0, b=10)


# Only two executions at the same time reveal it.


async def check_then_insert(node: BaseNode, w: World) -> None:
    if "insert" not in w.log:
        await w.do("insert")


async def insert_unless_there(node: BaseNode, w: World) -> None:
    await w.do("insert", ORDER)


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


# A retry in the same process fails, too.

pages: list[str] = []


async def collect_in_module(node: BaseNode, w: World) -> None:
    for page in ("1", "2"):
        await trio.lowlevel.checkpoint()
        pages.append(page)
    await w.put(pages=list(pages))


async def collect_in_node(node: BaseNode, w: World) -> None:
    collected = []
    for page in ("1", "2"):
        await trio.lowlevel.checkpoint()
        collected.append(page)
    await w.put(pages=collected)


# A killed process runs no finally.


async def clean_up_in_finally(node: BaseNode, w: World) -> None:
    if await w.get("busy"):
        return  # another execution does it
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


# A cancelled execution does not know what another one has done since.


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


# An execution that lost its lease overwrites the status of the next one.


async def write_status(node: BaseNode, w: World) -> None:
    await w.put(status="running")
    await trio.sleep(2)
    await w.put(status="done")


async def advance_status(node: BaseNode, w: World) -> None:
    await trio.lowlevel.checkpoint()
    w.rows.setdefault("status", "running")
    await trio.sleep(2)
    await w.put(status="done")


# Only a node that reads self.stopping is drained.


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
    "a lock": Mistake(lock, lock_by_owner, has(done=True)),
    "a temp file": Mistake(
        temp_file_of_any_name, temp_file_of_one_name, lambda w: not any("temp" in name for name in w.rows)
    ),
    "a transfer": Mistake(transfer_in_two_steps, transfer_in_one, has(a=0, b=10)),
    "a check before an insert": Mistake(check_then_insert, insert_unless_there, did("insert")),
    "a requeue": Mistake(submit_and_poll, submit_with_key_and_poll, did("submit")),
    "a global": Mistake(collect_in_module, collect_in_node, has(pages=["1", "2"])),
    "a clean-up in finally": Mistake(clean_up_in_finally, clean_up_what_was_left, has(done=True)),
    "a refund": Mistake(refund_if_it_fails, refund_if_shipping_fails, has(balance=90)),
    "a status": Mistake(write_status, advance_status, has(status="done")),
    "an early end": Mistake(end_early, go_on_later, did("a", "b")),
}


def fresh() -> World:
    global world
    world = World()
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
async def test_its_correction_passes(mistake: Mistake, autojump_clock: MockClock) -> None:
    result = await rehearse(mistake.right, mistake.holds, POINTS)
    assert len(result.tried) == min(POINTS, len(result.points))
