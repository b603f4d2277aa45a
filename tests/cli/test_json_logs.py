"""One JSON object per line, whatever is logged."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest

from exotrio._execution.handle import Execution, execution_context
from exotrio._link.port import Claim
from exotrio._runtime.held_claim import HeldClaim
from exotrio._util.redaction import Redactor
from exotrio.cli.terminal.json_logs import JsonFormatter

CLAIM = Claim("s1", "Digest", "digest", {}, graph_name="g", run_id="r1", token="t", attempt=2)
OTHER = Claim("s2", "Scan", "scan", {})  # as v0 hands it out: without run and attempt
ABOUT = {"run": "r1", "graph": "g", "state": "s1", "node": "Digest", "attempt": 2}


class Log:
    """A logger, and the lines that were written."""

    def __init__(self) -> None:
        self._stream = io.StringIO()
        handler = logging.StreamHandler(self._stream)
        handler.setFormatter(JsonFormatter())
        self.to = logging.Logger("test")
        self.to.addHandler(handler)

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self._stream.getvalue().splitlines()]

    @property
    def fields(self) -> dict[str, Any]:
        """The fields of the only line except time, level, logger and message."""
        (line,) = self.lines
        return {name: line[name] for name in line if name not in ("time", "level", "logger", "message")}


@pytest.fixture
def log() -> Iterator[Log]:
    token = execution_context.set(None)
    yield Log()
    execution_context.reset(token)


@pytest.mark.parametrize(
    ("message", "args", "shown"),
    [
        ("plain", (), "plain"),
        ("two\nlines \x1b[31m", (), "two\nlines \x1b[31m"),
        ("not a number: %d", ("x",), "'not a number: %d' % ('x',) (TypeError: %d format: a real"),
        ("surrogate \udcff", (), "surrogate \\udcff"),
        ("NaN Infinity", (), "NaN Infinity"),
        ("%(a)s", ({"a": 1},), "1"),
    ],
)
def test_any_message_is_one_line_of_json(log: Log, message: str, args: tuple[Any, ...], shown: str) -> None:
    log.to.warning(message, *args)
    (line,) = log.lines
    assert line["message"].startswith(shown)
    assert (line["level"], line["logger"]) == ("WARNING", "test")


def test_a_line_about_one_state_names_it_wherever_it_is_written(log: Log) -> None:
    log.to.info("%s is cancelled", HeldClaim(CLAIM))
    assert log.fields == ABOUT


def test_fields_that_v0_lacks_are_left_out(log: Log) -> None:
    log.to.info("%s is cancelled", HeldClaim(OTHER))
    assert log.fields == {"state": "s2", "node": "Scan"}


def test_a_line_about_several_states_is_about_none(log: Log) -> None:
    log.to.info("%s and %s", HeldClaim(CLAIM), HeldClaim(OTHER))
    assert log.fields == {}


async def test_a_line_written_in_an_execution_is_about_its_state_unless_it_names_another(log: Log) -> None:
    execution_context.set(Execution(CLAIM))
    log.to.info("here")
    log.to.info("%s there", HeldClaim(OTHER))
    log.to.info("elsewhere", extra={"run": "r9", "attempt": object()})
    here, there, elsewhere = log.lines
    assert here.items() >= ABOUT.items()
    assert (there["state"], there["node"]) == ("s2", "Scan")
    assert not {"run", "attempt"} & there.keys(), "those are of the other state"
    assert elsewhere["run"] == "r9"
    assert elsewhere["attempt"].startswith("<object")


async def test_secrets_of_the_state_are_masked_in_messages_exceptions_and_stacks(log: Log) -> None:
    execution = Execution(CLAIM)
    execution.progress.redactor = Redactor(["sesame-4711", "short"])
    execution_context.set(execution)
    try:
        raise ValueError("no sesame-4711")
    except ValueError:
        log.to.exception("with %s", "sesame-4711", stack_info=True, extra={"run": "of sesame-4711"})
    (line,) = log.lines
    assert (line["message"], line["run"]) == ("with ***", "of ***")
    assert line["exception"].endswith("ValueError: no ***")
    assert "test_json_logs.py" in line["stack"]
    assert "sesame-4711" not in json.dumps({**line, "stack": ""})
