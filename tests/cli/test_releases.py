"""``graph check --against-runs``: what a release would break, before it is deployed; ``versions ls``."""

from __future__ import annotations

import json
import re
import shlex
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.commands import NODES, Cli, fails
from tests.support.pages import PRODUCTION, block
from tests.support.processes import EXAMPLES, exotrio, server

APP = (EXAMPLES / "deploy" / "app.py").read_text("utf-8")
NEW = APP.replace("        name: str\n", "        name: str\n        tone: str\n")
NEW = NEW.replace('graph.add(Greet, name="you")', 'graph.add(Greet, name="you", tone="kind")')
"""A new input without a default."""
CHECK = block(PRODUCTION, "graph check app.py")
PRINTS = block(PRODUCTION, "of graph greeting would break")


@pytest.fixture
def cli(bare: Cli, tmp_path: Path) -> Iterator[Cli]:
    bare.write("app.py", APP)
    with server(tmp_path) as running, exotrio("worker", "app.py", cwd=tmp_path, env=running.env) as worker:
        worker.line("running|RUNNING|registered")
        bare.at(running, "Greeter")("graph", "apply", "app.py", code=0)
        yield bare


def waiting_run(cli: Cli) -> str:
    run_id: str = cli.json("trigger", "greeting", "-i", "name=Ada", "--start-delay", "3600")["run_id"]
    return run_id


def test_a_check_against_runs_prints_what_the_page_shows(cli: Cli) -> None:
    command = shlex.split(CHECK.code)[3:]
    same = cli(*command, code=0)
    assert same.out.splitlines()[1:] == ["no run in flight of namespace Greeter has a node that changed"]
    runs = [waiting_run(cli) for _ in range(3)]
    cli.write("app.py", NEW)
    end = cli(*command, code=1)
    shown = re.sub(r"[0-9a-f]{8}(, |$)", r"ID\1", PRINTS.code, flags=re.MULTILINE)
    ids = ", ".join(run_id[:8] for run_id in runs)
    assert end.out == shown.replace("ID, ID, ID", ids)
    assert "rehearse OLD_FILE --successor NEW_FILE" in end.err
    compared = cli.json(*command, code=1)["against_runs"]
    assert (compared["runs"], compared["checked"], compared["is_more"]) == (3, 3, False)
    assert compared["broken"][0]["run_ids"] == runs
    assert compared["broken"][0]["change"]["field"] == "Inputs.tone"
    assert cli("graph", "check", "app.py", code=0).out == "app.py: graph greeting is valid\n", (
        "nothing is asked"
    )
    for run_id in runs:
        cli("runs", "cancel", run_id)
    cli(*command, code=0)


def test_a_check_against_runs_needs_the_nodes_and_a_state_manager(bare: Cli) -> None:
    bare.write("nodes.py", NODES)
    fails(bare("graph", "check", "nodes.py", "--against-runs"), 2, "no state manager is given")
    bare.at_no_server().write("graph.json", bare_graph())
    end = bare("graph", "check", "graph.json", "--against-runs", code=2)
    assert "--against-runs needs the nodes: name the Python file of their Runtime, too" in end.err
    fails(bare("graph", "check", "nodes.py", "--against-runs"), 4, "127.0.0.1:1")


def bare_graph() -> str:
    place = {"node_name": "A", "namespace": "n", "identifier": "a", "inputs": {}, "next_nodes": []}
    return json.dumps({"name": "g", "secrets": {}, "nodes": [place]})


def test_versions_are_listed_with_what_needs_them(bare: Cli, tmp_path: Path) -> None:
    pinned = APP.replace('namespace="Greeter")', 'namespace="Greeter", version="1")')
    bare.write("app.py", pinned)
    worker = ("worker", "app.py", "--code-version", "1")
    with server(tmp_path) as running, exotrio(*worker, cwd=tmp_path, env=running.env) as process:
        process.line("running|RUNNING|registered")
        cli = bare.at(running, "Greeter")
        cli("graph", "apply", "app.py", code=0)
        run_id = waiting_run(cli)
        while not cli.json("versions", "ls")["versions"][0]["runtimes"]:
            time.sleep(0.05)  # it has not claimed yet
        assert cli("versions", "ls").out.splitlines()[-1] == "1 version in namespace Greeter"
        heads, line, *_ = cli("versions", "ls", code=0).out.splitlines()
        assert heads.split("  ")[0] == "version"
        assert re.fullmatch(r"1 +1 +1 +\S+ s ago +greeting +needed", line)
        (shown,) = cli.json("versions", "ls")["versions"]
        assert (shown["runs"], shown["graphs"], shown["needed"]) == (1, ["greeting"], True)
        cli("graph", "apply", cli.write("app.py", APP), code=0)
        cli("runs", "cancel", run_id)
        assert cli("versions", "ls", code=0).out.splitlines()[1].endswith("may be stopped")
        assert "nothing needs version 1 any more: 1 runtime may be stopped" in cli("doctor").out
