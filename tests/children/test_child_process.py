"""Child processes have the options of their parent's Python, and load no code from a working directory that
their parent does not load code from."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.support.processes import ROOT, Process, Server, server

HOSTILE = """
open({mark!r}, "a").close()
raise SystemExit("hostile code runs")
"""
APP = """
from exotrio import BaseNode, Graph, GraphNodeModel, Runtime

class Says(BaseNode):
    runs_in = "process"

    def execute(self):
        return None

graph = Graph("g", nodes=[GraphNodeModel(node_name="Says", namespace="ns", identifier="n", inputs={})])
runtime = Runtime("ns", "rt", [Says])
"""
COMMAND = "from exotrio.cli import main; main()"
"""As the script ``exotrio`` of an environment: its folder is on the path, the working directory is not."""


@pytest.fixture
def places(tmp_path: Path) -> tuple[Path, Path]:
    """Return the user's folder, and a shared one with another user's modules."""
    own, shared = tmp_path / "own", tmp_path / "shared"
    own.mkdir()
    shared.mkdir()
    (own / "app.py").write_text(APP)
    (own / "exotrio-command.py").write_text(COMMAND)
    for name in ("json", "socket", "logging", "subprocess"):
        (shared / f"{name}.py").write_text(HOSTILE.format(mark=str(tmp_path / "hostile code ran")))
    return own, shared


def command(places: tuple[Path, Path], *arguments: str, at: Server | None = None) -> Process:
    own, shared = places
    script = [sys.executable, str(own / "exotrio-command.py"), *arguments]
    return Process(script, cwd=shared, env=None if at is None else at.env)


def test_a_process_node_does_not(places: tuple[Path, Path], tmp_path: Path) -> None:
    with command(places, "run", str(places[0] / "app.py"), "--db", ":memory:") as process:
        process.wait(code=0)
    assert not (tmp_path / "hostile code ran").exists()


def test_dev_does_not(places: tuple[Path, Path], tmp_path: Path) -> None:
    arguments = ["dev", str(places[0] / "app.py"), "--db", ":memory:", "--port", "0", "--trigger"]
    with command(places, *arguments) as process:
        process.line("run .* SUCCESS")
        process.stop(code=0)
    assert not (tmp_path / "hostile code ran").exists()


def test_worker_with_processes_does_not(places: tuple[Path, Path], tmp_path: Path) -> None:
    arguments = ["worker", str(places[0] / "app.py"), "--processes", "1"]
    with server(tmp_path, "--db", ":memory:") as at, command(places, *arguments, at=at) as process:
        process.line("process 1 .* works as")
        process.stop(code=0)
    assert not (tmp_path / "hostile code ran").exists()


DELETED = """
import os, sys
from exotrio import BaseNode, Runtime
from exotrio.monitoring import StateEnded
from tests.support.doubles import V0Server

class Says(BaseNode):
    runs_in = "process"

    def execute(self):
        return None

def ended(event):
    if isinstance(event, StateEnded):
        runtime.stop()

if __name__ == "__main__":
    os.rmdir(os.getcwd())
    server = V0Server()
    server.add("Says")
    runtime = Runtime("ns", "rt", [Says], transport=server)
    runtime.observe(ended)
    print(runtime.start().completed)
"""


def test_a_process_node_runs_after_the_working_directory_was_deleted(tmp_path: Path) -> None:
    program, deleted = tmp_path / "program.py", tmp_path / "deleted"
    program.write_text(DELETED)
    deleted.mkdir()
    path = {"PYTHONPATH": str(ROOT)}
    with Process([sys.executable, str(program)], cwd=deleted, env=path) as process:
        assert process.wait(code=0).out == "1\n"


CHILD = """
import subprocess, sys
from exotrio._children.child_process import child_python

subprocess.run(child_python("-c", "import sys; print(sys.warnoptions, sys.stdout.write_through)"))
"""


@pytest.mark.parametrize("options", [["-u", "-W", "error"], []], ids=["given", "default"])
def test_the_options_of_the_interpreter_are_passed_on(tmp_path: Path, options: list[str]) -> None:
    variables = {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "", "PYTHONWARNINGS": ""}
    with Process([sys.executable, *options, "-c", CHILD], cwd=tmp_path, env=variables) as process:
        assert process.wait(code=0).out == ("['error'] True\n" if options else "[] False\n")
