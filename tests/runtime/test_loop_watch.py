"""A node that blocks the event loop is named while it does."""

from __future__ import annotations

import logging
import threading

from exotrio import BaseNode
from tests.support.doubles import V0Server, runtime, until_and_stop
from tests.support.processes import PATIENCE

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
    assert warned.wait(PATIENCE)


class Blocking(BaseNode):
    async def execute(self) -> None:
        block()


async def test_a_node_that_blocks_the_loop_is_named_with_its_line_while_it_does() -> None:
    handler = Warned()
    log = logging.getLogger("exotrio.runtime")
    log.addHandler(handler)
    server = V0Server()
    server.add("Blocking")
    try:
        await until_and_stop(
            runtime(server, Blocking), server, lambda: {*server.statuses()}.isdisjoint({"CREATED", "QUEUED"})
        )
    finally:
        log.removeHandler(handler)
    (line,) = handler.lines
    number = block.__code__.co_firstlineno + 1
    assert line.startswith("node Blocking blocks the event loop in ")
    assert f"test_loop_watch.py:{number} (block) for more than 1 s" in line
    assert "make it a plain def" in line
