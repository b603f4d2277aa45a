"""The page "A new release", played by real processes: version 1 ends what it began, next to version 2."""

from __future__ import annotations

import re
import shlex
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.support import postgres
from tests.support.commands import Cli
from tests.support.pages import PRODUCTION, block
from tests.support.processes import Processes

STATES = 300
APP = """
import trio
from pathlib import Path

from pydantic import BaseModel

from exotrio import BaseNode, Graph, Runtime

CODE = "1"


class Split(BaseNode):
    class Inputs(BaseModel):
        of: str

    class Outputs(BaseModel):
        number: int
        of: str

    async def execute(self):
        journal(self.inputs.of)
        return [self.Outputs(number=number, of=self.inputs.of) for number in range(STATES)]


class Greet(BaseNode):
    class Inputs(BaseModel):
        number: int
        of: str

    async def execute(self):
        while self.inputs.of == "1" and self.inputs.number >= 100 and not Path("go").exists():
            await trio.sleep(0.02)
        journal(self.inputs.of)


def journal(of):
    with open("journal", "a") as file:
        file.write(f"{CODE} {of}\\n")


graph = Graph("greeting", namespace="Greeter", version=CODE)
split = graph.add(Split, of=CODE)
graph.add(Greet, number=split.number, of=split.of)
runtime = Runtime(namespace="Greeter", name="greeter", nodes=[Split, Greet], workers=8)
""".replace("STATES", str(STATES))
# A change that breaks the runs of version 1: an input that they lack.
NEW = APP.replace('CODE = "1"', 'CODE = "2"').replace(
    "        of: str\n\n    async def execute(self):\n        while",
    "        of: str\n        tone: str\n\n    async def execute(self):\n        while",
)
NEW = NEW.replace("of=split.of)", 'of=split.of, tone="kind")')
WORKER = block(PRODUCTION, "--until-drained &")
APPLY = block(PRODUCTION, "graph apply app.py")
LS = block(PRODUCTION, "versions ls")
LISTED = block(PRODUCTION, "version  runtimes  runs in flight")
GRAPH = block(PRODUCTION, 'namespace="Greeter", version="2"')


@pytest.mark.parametrize("engine", ["SQLite", "PostgreSQL"])
def test_the_old_version_ends_what_it_began_next_to_the_new_one_and_exits(
    engine: str, bare: Cli, tmp_path: Path
) -> None:
    assert GRAPH.code.strip() in APP.replace("CODE)", '"2")')
    with Processes() as processes:
        db = tmp_path / "db" if engine == "SQLite" else processes.enter_context(postgres.database()).url
        running = processes.server(tmp_path, "--db", str(db))
        bare.write("app.py", APP)
        cli = bare.at(running, "Greeter")
        worker = shlex.split(WORKER.code.rstrip("&\n "))[3:]
        assert worker[-3:] == ["--code-version", "2", "--until-drained"]
        old = processes.start(*[each.replace("2", "1") for each in worker], cwd=tmp_path, env=running.env)
        old.line("running|RUNNING|registered")
        apply = shlex.split(APPLY.code)[3:]
        cli(*apply, code=0)
        first = cli.json("trigger", "greeting")["run_id"]
        journal = tmp_path / "journal"
        while not journal.exists():
            time.sleep(0.01)  # its first node has not run yet

        cli.write("app.py", NEW)
        assert "would break" not in cli("graph", "check", "app.py", "--against-runs", code=0).out
        new = processes.start(*worker, cwd=tmp_path, env=running.env)
        new.line("running|RUNNING|registered")
        cli(*apply, code=0)
        second = cli.json("trigger", "greeting")["run_id"]
        cli("runs", "watch", second, code=0)
        heads, *lines, last = cli(*shlex.split(LS.code)[3:], code=0).out.splitlines()
        shown = LISTED.code.splitlines()
        assert (heads.split(), last) == (shown[0].split(), shown[-1])
        assert re.fullmatch(r"1 +1 +1 +\d+ \w+ ago +needed", lines[0])
        assert re.fullmatch(r"2 +1 +0 +greeting +needed", lines[1])

        (tmp_path / "go").touch()
        cli("runs", "watch", first, code=0)
        end = old.wait(code=0)
        assert "nothing needs the version of this runtime any more" in end.err
        (left,) = cli.json("versions", "ls")["versions"]
        assert left["version"] == "2"
        new.stop(code=0)
        for run_id in (first, second):
            assert cli.json("runs", "show", run_id)["status"] == "SUCCESS"
    ran = Counter((tmp_path / "journal").read_text("utf-8").splitlines())
    assert ran == {"1 1": STATES + 1, "2 2": STATES + 1}, "nothing on the wrong version"


def test_a_worker_until_drained_executes_runs_without_a_version_only_if_it_is_told_to(
    bare: Cli, tmp_path: Path
) -> None:
    with Processes() as processes:
        running = processes.server(tmp_path)
        cli = bare.at(running, "Greeter")
        cli.write("app.py", APP.replace(", version=CODE)", ")"))
        (tmp_path / "go").touch()
        worker = ("worker", "app.py", "--until-drained", "--code-version")
        without = processes.start(*worker, "1", cwd=tmp_path, env=running.env)
        with_it = processes.start(*worker, "2", "--and-unpinned", cwd=tmp_path, env=running.env)
        for each in (without, with_it):
            each.line("running|RUNNING|registered")
        cli("graph", "apply", "app.py", code=0)
        run_id = cli.json("trigger", "greeting")["run_id"]
        cli("runs", "watch", run_id, code=0)
        versions = {each["worker_id"]: each["version"] for each in cli.json("runtimes", "ls")["runtimes"]}
        states = cli.json("states", "ls", "--run", run_id, "--limit", "1000")["states"]
        assert {versions[each["worker"]] for each in states if each["worker"]} == {"2"}
        for each in (without, with_it):
            each.stop(code=0)
