"""The log lines about attempts that failed: what follows each, and of which run, graph and attempt it is."""

from __future__ import annotations

import json
import logging
import re
from inspect import getsourcelines
from typing import Any

import httpx
import pytest
from trio.testing import MockClock

from exotrio import BaseNode, Graph, NoRetry, RetryPolicyModel
from exotrio._runtime import failed_attempts
from exotrio.cli.terminal.json_logs import JsonFormatter
from exotrio.testing import run_graph
from tests.support.doubles import Call, Fails, V0Server, running
from tests.support.pages import GUIDE, block

SHOP = Graph("shop", namespace="n", retry_policy=RetryPolicyModel.fixed(0.4, retries=2))
LOGGER = failed_attempts.log.name


class Pay(BaseNode):
    async def execute(self) -> None:
        raise ValueError("declined\nby the bank")


class Refuse(BaseNode):
    async def execute(self) -> None:
        raise NoRetry("never")


def graph(node: type[BaseNode]) -> Graph:
    shop = SHOP.model_copy(deep=True)
    shop.add(node)
    return shop


def failures(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [record for record in caplog.records if record.name == LOGGER and " failed" in record.getMessage()]


def form(message: str) -> str:
    """Return a message about an attempt without what differs: the state, the run, numbers, the error."""
    return re.sub(r"run \S+ of graph \w+|: \w+Error.*|\d+", "", message.partition(" (Pay as pay) ")[2])


async def test_an_attempt_that_is_followed_by_another_is_a_warning_in_one_line(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "exotrio")
    await run_graph(graph(Pay), [Pay])
    first, second, last = failures(caplog)
    assert (first.levelname, second.levelname, last.levelname) == ("WARNING", "WARNING", "ERROR")
    who = "(Pay as pay) of run "
    assert who in first.getMessage()
    assert first.getMessage().endswith(
        " of graph shop: attempt 1 of 3 failed, again in 400 ms: ValueError: declined"
    )
    assert second.getMessage().endswith(": attempt 2 of 3 failed, again in 400 ms: ValueError: declined")
    assert last.getMessage().endswith(" of graph shop: attempt 3 of 3 failed: ValueError: declined")
    assert "Traceback" not in logging.Formatter().format(second)
    assert caplog.text.count("Traceback") == 1
    shown = block(GUIDE, "attempt 2 of 6 failed").code.splitlines()
    assert [form(each.getMessage()) for each in (second, last)] == [form(line) for line in shown]
    line = getsourcelines(Pay.execute)[1] + 1
    places = {(each.pathname, each.lineno, each.funcName) for each in (first, second, last)}
    assert places == {(__file__, line, "execute")}, "where the node failed"


async def test_the_traceback_of_an_attempt_that_is_followed_by_another_is_a_debug_line(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "exotrio")
    await run_graph(graph(Pay), [Pay])
    assert caplog.text.count("Traceback") == 3


async def test_json_has_the_graph_and_whether_an_attempt_is_the_last(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    run = await run_graph(graph(Pay), [Pay])
    assert len(run.of("pay")) == 3
    lines: list[dict[str, Any]] = [json.loads(JsonFormatter().format(record)) for record in failures(caplog)]
    assert [(line["graph"], line["attempt"], line["final"]) for line in lines] == [
        ("shop", 1, False),
        ("shop", 2, False),
        ("shop", 3, True),
    ]
    assert "exception" not in lines[0]
    assert lines[2]["exception"].endswith("ValueError: declined\nby the bank")


async def test_an_error_that_is_not_to_be_retried_is_the_last_attempt(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    await run_graph(graph(Refuse), [Refuse])
    (line,) = failures(caplog)
    assert line.levelname == "ERROR"
    assert line.lineno > 0
    assert line.getMessage().endswith(
        ": attempt 1 of 3 failed, and is not tried again: exotrio.NoRetry: never"
    )


@pytest.mark.parametrize(
    ("retried", "says"),
    [
        (True, "WARNING state 000000000000000000000000 (Pay as it) failed, and is tried again: ValueError"),
        (False, "ERROR state 000000000000000000000000 (Pay as it) failed: ValueError"),
        (None, "ERROR state 000000000000000000000000 (Pay as it) failed: ValueError"),
    ],
)
async def test_over_v0_only_what_it_says_is_logged(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture, retried: bool | None, says: str
) -> None:
    class Answers(V0Server):
        async def serve(self, call: Call) -> object:  # type: ignore[override]
            response = await super().serve(call)
            if call.route != "errored":
                return response
            known = {} if retried is None else {"retry_created": retried}
            return httpx.Response(200, json={"status": "ERRORED", **known})

    server = Answers()
    server.add("Pay")
    async with running(server, Pay):
        await server.until(ERRORED=1)
    (line,) = failures(caplog)
    assert f"{line.levelname} {line.getMessage()}".startswith(says)
    assert hasattr(line, "final") is (retried is not None)


async def test_an_error_that_cannot_be_reported_yet_is_logged_at_once_and_once(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    server = V0Server()
    server.before = Fails(("errored",), lambda: httpx.ConnectError("refused"), times=3)
    server.add("Pay")
    async with running(server, Pay):
        await server.until(ERRORED=1)
    early, late = failures(caplog)
    assert early.getMessage().endswith(" failed, which is not reported yet: ValueError: declined")
    assert late.levelname == "ERROR"
