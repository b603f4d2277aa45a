"""Commands at a state manager, and with nodes, that say what a terminal would obey: it is only shown."""

from __future__ import annotations

import json
import logging
import re
import signal
from pathlib import Path
from typing import Any

import pytest

import exotrio._http.response as http_answer
from exotrio import GraphInvalid
from exotrio._util.json import decode
from exotrio._util.words import harmless, harmless_json, one_line
from exotrio.cli.terminal.logs import TextFormatter
from exotrio.cli.top.screen import Screen, screen_lines
from tests.support.commands import Cli, with_graph
from tests.support.overviews import node, overview, run, runtime
from tests.support.processes import EXOTRIO, Server, ended, exotrio

BIDI = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
OBEYED = re.compile(f"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029{BIDI}]")
MARKUP = "[red]x[bold]"
ALLOWED = f"{MARKUP}\x9b31m\x85\u202e\u2066"
"""In names of graphs and nodes, where other control characters are refused."""
HOSTILE = f"{ALLOWED}\x1b[31m\x1b]0;title\x07\x08\r\x7f\nFORGED 1\u2028FORGED 2"

KEPT = re.compile(
    r"[0-9a-f]{8,24}|[0-9a-f-]{36}|\d{4}-\d\d-\d\dT.*|[A-Z_]+|[\d.]+|running|stopped|native", re.ASCII
)
"""Ids, times, statuses and the like."""


def hostile(value: Any, by: str, *, inside: str = "") -> Any:
    """Return a body with ``by`` after every text that a user or a worker could have chosen."""
    match value:
        case dict():
            free = inside in {"inputs", "outputs", "data", "parents", "default_values"}
            return {
                f"{key}{by}" if free else key: hostile(each, by, inside=key) for key, each in value.items()
            }
        case list():
            return [hostile(each, by, inside=inside) for each in value]
        case bool() if inside == "shows_tasks":
            return True
        case str() if inside not in {"strategy", "type", "kind"} and not KEPT.fullmatch(value):
            return f"{value}{by}"
    return value


def assert_harmless(text: str) -> None:
    """Check that nothing in an output is obeyed, and that nothing passes for a line of ours."""
    assert not OBEYED.search(text), ascii(text)
    assert not re.search("^FORGED", text, re.MULTILINE), text


@pytest.fixture(scope="module", autouse=True)
def runs() -> dict[str, str]:
    """Return the id of a run that failed, and of one of its states; filled by the first test."""
    return {}


@pytest.fixture
def cli(running: Server, runs: dict[str, str], bare: Cli) -> Cli:
    cli = with_graph(bare, running)
    if not runs:
        runs["good"] = cli("trigger", "fan", "--follow").out.split()[0]
        runs["bad"] = cli("trigger", "fan", "--follow", "--store", "bad=1").out.split()[0]
        states = cli.json("states", "ls", "--run", runs["bad"])["states"]
        runs["state"] = next(state["id"] for state in states if state["error"])
        runs["worker"] = cli.json("runtimes", "ls")["runtimes"][0]["worker_id"]
    return cli


COMMANDS = [
    "graph ls",
    "graph show fan",
    "graph apply nodes.py",
    "graph show no-such",
    "nodes ls",
    "runs ls",
    "runs ls --graph no-such",
    "runs show {bad}",
    "runs watch {good}",
    "runs watch {bad}",
    "runs show no-such-run",
    "runs retry {good}",
    "runs cancel {good}",
    "states ls",
    "states ls --run {bad} --place no-such",
    "states show {state}",
    "states show no-such",
    "states retry {good}",
    "trigger fan --follow",
    "trigger fan --follow --store bad=1",
    "trigger no-such",
    "runtimes ls",
    "runtimes tasks {worker}",
    "runtimes tasks no-such",
    "runtimes drain no-such",
    "audit ls",
    "top --once",
    "doctor",
]


REPEAT_NOTHING = {
    "doctor",
    "graph apply nodes.py",
    "runs show no-such-run",
    "states retry {good}",
    "states show no-such",
}
"""What these say is ours alone, as long as nothing is wrong."""


@pytest.mark.parametrize("by", [HOSTILE, ALLOWED], ids=["any", "allowed"])
@pytest.mark.parametrize("command", COMMANDS)
def test_control_characters_of_a_state_manager_are_escaped(
    cli: Cli, runs: dict[str, str], command: str, by: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_answer, "decode", lambda text: hostile(decode(text), by))
    cli.set(COLUMNS="600")  # or tables leave out what they have no room for
    words = [word.format(**runs) for word in command.split()]
    end = cli(*words)
    assert end.out or end.err
    assert_harmless(end.out)
    assert_harmless(end.err)
    if by == ALLOWED and command not in REPEAT_NOTHING:
        assert MARKUP in end.out + end.err, "what is tested here was not shown"
    if by == HOSTILE:
        end = cli(*words, "-o", "json")
        assert_harmless(end.err)
        assert_harmless(end.out)
        if end.out:
            json.loads(end.out)


def test_every_text_of_top_is_one_harmless_line() -> None:
    nodes = [node(HOSTILE, waiting=1, eligible=1, offered_by=[HOSTILE])]
    runtimes = [runtime(worker_id=HOSTILE, runtime=HOSTILE, phase=HOSTILE)]
    runs = [{**run(1), "run_id": "\x9b\nFORGED", "graph_name": HOSTILE}]
    oldest = {"node": HOSTILE, "waits_ms": 1}
    shown = overview(namespace=HOSTILE, nodes=nodes, runtimes=runtimes, runs=runs, oldest=oldest)
    lines = [line.plain for line in screen_lines(Screen(shown, HOSTILE, problem=HOSTILE), 2_000, None)]
    assert sum(MARKUP in line for line in lines) == 6
    for line in lines:
        assert_harmless(line)
        assert "\n" not in line


def test_texts_for_terminals() -> None:
    assert harmless("a\x1b[31m\x9b\u202e\tb\nc") == "a\\x1b[31m\\x9b\\u202e\tb\nc"
    assert one_line("a\tb\nc\r") == "a\\tb\\nc\\x0d"
    body = {"a": HOSTILE}
    shown = harmless_json(json.dumps(body, ensure_ascii=False))
    assert_harmless(shown)
    assert json.loads(shown) == body


APP = f"""
import os
import trio
from exotrio import BaseNode, Graph, RetryPolicyModel, Runtime
from pydantic import BaseModel

HOSTILE = {HOSTILE!r}


class Say(BaseNode):
    class Inputs(BaseModel):
        bad: str

    class Outputs(BaseModel):
        message: str

    async def execute(self):
        self.progress(0.5, HOSTILE)
        while os.path.exists("hold"):
            await trio.sleep(0.01)
        if self.inputs.bad:
            raise ValueError(HOSTILE)
        return self.Outputs(message=HOSTILE)


policy = RetryPolicyModel(max_retries=0)
graph = Graph("graph" + {ALLOWED!r}, namespace="n", retry_policy=policy)
first = graph.add(Say, identifier="first" + {ALLOWED!r}, bad="")
graph.add(Say, identifier="bad" + {ALLOWED!r}, after=first, bad="1")
graph.add(Say, identifier="last", after=first, bad="")
runtime = Runtime(namespace="n", name="r" + {ALLOWED!r}, nodes=[Say], poll_interval=0.02)
"""


@pytest.mark.parametrize("options", [("-vv",), ("--log-format", "json", "-vv"), ("-o", "json")], ids=" ".join)
def test_control_characters_of_nodes_and_graphs_are_escaped(options: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(APP, "utf-8")
    end = ended("run", "app.py", *options, cwd=tmp_path, code=1)
    assert_harmless(end.out)
    assert_harmless(end.err)
    assert MARKUP in end.out
    assert MARKUP in end.err
    if "-o" in options:
        (output,) = json.loads(end.out)["outputs"]
        assert output["outputs"] == {"message": HOSTILE}
    if "--log-format" in options:
        logged = [json.loads(line).get("exception", "") for line in end.err.splitlines()]
        assert any(HOSTILE in error for error in logged), "nothing of a message is lost"


def test_bars_show_names_as_they_are(tmp_path: Path) -> None:
    from tests.support.terminals import Terminal

    (tmp_path / "app.py").write_text(APP, "utf-8")
    (tmp_path / "hold").touch()
    with Terminal([*EXOTRIO, "run", "app.py"], cwd=tmp_path, env={"COLUMNS": "200"}) as terminal:
        terminal.until(f"50 %: {MARKUP}")
        (tmp_path / "hold").unlink()
        assert terminal.wait() == 1
        assert f"first{MARKUP}\\x9b31m\\x85\\u202e\\u2066" in terminal.screen
        assert not re.search(f"[\x80-\x9f\u2028{BIDI}]", terminal.screen)


def test_dev_escapes_control_characters_of_nodes_and_graphs(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(APP, "utf-8")
    with exotrio("dev", "app.py", "--port", "0", "--trigger", "-v", cwd=tmp_path) as dev:
        dev.line(r"^run .* of graph .*: FAILED")
        end = dev.stop(signal.SIGINT)
    assert_harmless(end.out)
    assert_harmless(end.err)
    assert MARKUP in end.err


def test_further_lines_of_a_log_entry_and_of_an_error_are_indented() -> None:
    record = logging.LogRecord("exotrio", logging.ERROR, "", 0, "%s failed: %s", ("x", HOSTILE), None)
    first, *more = TextFormatter().format(record).split("\n")
    assert re.match(r"\d{4}-\d\d-\d\dT\S+Z ERROR   exotrio: x failed: ", first)
    assert more
    assert all(line.startswith("  ") for line in more)
    refused = GraphInvalid("two\nlines", ["a\nFORGED"], where="there\nFORGED", fix="so\nFORGED")
    assert str(refused) == "two\n  lines:\n  - a\n    FORGED\nthere\n  FORGED\nso\n  FORGED"
