"""The event loop: a node that blocks it is named, and many short states do not keep it."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import Counter

import pytest
import trio

from exotrio import BaseNode
from exotrio._runtime.worker import TURN
from tests.support.doubles import NativeServer, V0Server, running
from tests.support.processes import TEST_TIMEOUT

warned = threading.Event()


class Warned(logging.Handler):
    """Lets the node go on that is warned of."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())
        warned.set()


def block() -> None:
    assert warned.wait(TEST_TIMEOUT)


class Blocking(BaseNode):
    async def execute(self) -> None:
        block()


class BlockingAsyncio(Blocking):
    runs_in = "asyncio"

    async def execute(self) -> None:
        await asyncio.sleep(0)
        block()


@pytest.mark.parametrize(
    ("node", "what", "fix"),
    [
        (Blocking, "node Blocking blocks the event loop in ", "make it a plain def"),
        (BlockingAsyncio, "node BlockingAsyncio blocks the asyncio loop in ", "by asyncio.to_thread"),
    ],
)
async def test_a_node_that_blocks_a_loop_is_named_with_its_line_while_it_does(
    node: type[BaseNode], what: str, fix: str
) -> None:
    warned.clear()
    handler = Warned()
    log = logging.getLogger("exotrio.runtime")
    log.addHandler(handler)
    server = V0Server(**{node.__name__: 1})
    try:
        async with running(server, node):
            await server.until(lambda: {*server.statuses()}.isdisjoint({"CREATED", "QUEUED"}))
    finally:
        log.removeHandler(handler)
    (line,) = handler.lines
    number = block.__code__.co_firstlineno + 1
    assert line.startswith(what)
    assert f"test_loop_watch.py:{number} (block) for more than 1 s" in line
    assert fix in line


async def test_states_that_compute_leave_the_loop_to_others_after_the_turn_of_each_worker() -> None:
    began: list[int] = []
    steps = 0

    class Computes(BaseNode):
        async def execute(self) -> None:
            began.append(steps)
            until = time.perf_counter() + 3 * TURN
            while time.perf_counter() < until:
                pass

    server = NativeServer(Computes=12)
    async with running(server, Computes, workers=2, batch_size=12):
        while server.statuses()["EXECUTED"] < 12:
            await trio.lowlevel.checkpoint()
            steps += 1
    # In a step of the loop each task runs once, in any order: each worker twice between two runs of this one.
    assert max(Counter(began).values()) <= 4
