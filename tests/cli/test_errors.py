"""Errors people make, and what the command line says to them: what, where it came from, how to fix it."""

from __future__ import annotations

import logging
import os
import shlex
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from exotrio._http import discovery
from exotrio.cli import main
from exotrio.client import _calls
from exotrio.manager.store.schema import VERSION
from tests.support.commands import Cli, fails
from tests.support.helpers import free_port, sql
from tests.support.processes import KEY, ROOT, Server, disk_of, ended, environment, server

PYTHON = shlex.join([sys.executable])
HEAD = """
from exotrio import BaseNode, Graph, GraphNodeModel, Runtime
from pydantic import BaseModel


class Greet(BaseNode):
    class Inputs(BaseModel):
        name: str

    class Outputs(BaseModel):
        text: str

    async def execute(self):
        return self.Outputs(text=f"Hello, {self.inputs.name}!")


def place(identifier, node="Greet", **more):
    more = {"inputs": {"name": "you"}, **more}
    return GraphNodeModel(node_name=node, namespace="n", identifier=identifier, **more)


"""
GRAPH = 'graph = Graph("greeting", nodes=[place("greet")])\n'
RUNTIME = 'runtime = Runtime(namespace="n", name="r", nodes=[Greet])\n'

FILES = {
    "ok.py": HEAD + GRAPH + RUNTIME,
    "raises.py": "import json\njson.loads('{')\n",
    "wordy.py": "raise ValueError('one\\ntwo\\nthree')\n",
    "exits.py": "import sys\nsys.exit('not today')\n",
    "syntax.py": "x = 1\ndef f(:\n",
    "imports.py": "import no_such_thing\n",
    "no_runtime.py": HEAD + GRAPH,
    "no_graph.py": HEAD + RUNTIME,
    "two_runtimes.py": HEAD + GRAPH + RUNTIME + RUNTIME.replace("runtime =", "other ="),
    "two_graphs.py": HEAD
    + GRAPH
    + GRAPH.replace("graph =", "other =").replace("greeting", "farewell")
    + RUNTIME,
    "unguarded.py": HEAD + GRAPH + RUNTIME + "runtime.start()\n",
    "unguarded_trio.py": HEAD
    + GRAPH
    + RUNTIME
    + "import trio\nasync def main():\n    async with trio.open_nursery() as nursery:\n"
    "        await nursery.start(runtime.run)\ntrio.run(main)\n",
    "bad_nodes.py": HEAD
    + GRAPH
    + "class Other: ...\n"
    + "class Count(Greet):\n    class Secrets(BaseModel):\n        number: int\n\n"
    + 'runtime = Runtime(namespace="", name="r", nodes=[Other, Count, Greet, Greet], workers=0)\n',
    "bad_graph.py": HEAD
    + 'graph = Graph("bad", nodes=[place("a", "Greed", next_nodes=["b"]),'
    + ' place("b", inputs={"nam": "you"})])\n'
    + RUNTIME,
    "foreign_node.py": HEAD
    + "class Bye(Greet): ...\n"
    + 'graph = Graph("both", nodes=[place("a", next_nodes=["b"]), place("b", "Bye")])\n'
    + 'both = Runtime(namespace="n", name="r", nodes=[Greet, Bye])\n'
    + 'one = Runtime(namespace="n", name="r", nodes=[Greet])\n',
    "typed.py": HEAD
    + "class Count(Greet):\n    class Inputs(BaseModel):\n        count: int\n\n"
    + 'graph = Graph("typed", namespace="n")\ngraph.add(Count, count=1)\n'
    + 'runtime = Runtime(namespace="n", name="r", nodes=[Count])\n',
    "empty.key": " \n",
    "notes.txt": HEAD + GRAPH + RUNTIME,
    "text.db": "This is no database. " * 100,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("errors")
    for name, text in FILES.items():
        (folder / name).write_text(text, "utf-8")
    (folder / "binary.key").write_bytes(b"\xff\xfe\x00")
    sql(folder / "other.db", "CREATE TABLE t (x)")
    assert ended("run", "ok.py", "--db", "newer.db", cwd=folder).code == 0
    sql(folder / "newer.db", f"PRAGMA user_version = {VERSION + 1}")
    return folder


@pytest.fixture
def cli(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Cli]:
    """Commands in the folder, in this process, that find no module of an earlier one."""
    before = dict(sys.modules)
    yield Cli(folder, monkeypatch, capsys)
    for name in sys.modules.keys() - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(folder)):
            del sys.modules[name]


@pytest.fixture(scope="module")
def running(folder: Path) -> Iterator[Server]:
    with server(folder, "--db", "busy.db") as running:
        yield running


@pytest.mark.parametrize(
    ("arguments", "code", "parts"),
    [
        ("server --keep 30", 2, ["'30' is not a duration", "60s, 5m, 12h or 30d"]),
        ("trigger g --weight abc", 2, ["'--weight'", "'abc' is not a number from 0.01 to 100"]),
        ("trigger g --weight 101", 2, ["'--weight'", "'101' is not a number from 0.01 to 100"]),
        ("trigger g --fair-key=", 2, ["'--fair-key'", "the fair key is empty, or has blanks at its ends"]),
        ("rnu ok.py", 2, ["No such command 'rnu'"]),
        ("run", 2, ["FILE_OR_MODULE"]),
        ("run ok.py --inptu a=b", 2, ["--inptu", "--input"]),
        ("run ok.py -i name", 2, ["'name' is not of the form NAME=VALUE"]),
        ("run ok.py -i =x", 2, ["'=x' is not of the form NAME=VALUE"]),
        ("run ok.py -i name=a -i name=b", 2, ["'name' is given twice"]),
        ("run ok.py -i nam=x", 2, ["'greet' in graph 'greeting' has no input 'nam'; it has: name"]),
        ("run typed.py -i count=x", 2, ["'count' of 'count' in graph 'typed' must be a whole number"]),
        ("run ok.py --db=", 2, ["the name of the database is empty"]),
        ("run ok.py --resume x -i name=y", 2, ["--resume"]),
        ("run gone.py", 3, ["there is no file gone.py", "looked up in {folder}"]),
        ("run two_graph.py", 3, ["there is no file two_graph.py; did you mean two_graphs.py?"]),
        ("run .", 3, [". is a folder"]),
        ("run gone", 3, ["there is no module 'gone'", "./gone.py"]),
        ("run ok.gone", 3, ["there is no module 'ok.gone'"]),
        ("run notes.txt", 3, ["notes.txt is not a Python file", "ends in .py"]),
        ("run :runtime", 3, ["no file or module is named", "':runtime'"]),
        ("run ok.py:", 3, ["there is no module 'ok.py:'", "after the colon", "app.py:runtime"]),
        ("run ok.py:graph", 3, ["no Runtime 'graph'", "chosen with --graph", "it has: runtime"]),
        ("run ok.py --resume", 2, ["'--resume' requires an argument", "see: python -m exotrio run --help"]),
        ("run ok.py --serve x", 2, ["'x' is not a valid port"]),
        ("worker gone.py", 3, ["there is no file gone.py"]),
        ("run ok.py:runtme", 3, ["no Runtime 'runtme'; did you mean 'runtime'?", "it has: runtime"]),
        (
            "run ok.py --graph greting",
            3,
            ["no Graph 'greting'; did you mean 'greeting'?", "it has: greeting"],
        ),
        ("run no_runtime.py", 3, ["no Runtime at its top level", "runtime = Runtime("]),
        ("run no_graph.py", 3, ["no Graph at its top level", "graph = Graph("]),
        ("run two_runtimes.py", 3, ["2 Runtimes", "runtime, other", "two_runtimes.py:runtime"]),
        ("run two_graphs.py", 3, ["2 Graphs", "greeting, farewell", "--graph NAME"]),
        ("run raises.py", 3, ["JSONDecodeError", "{folder}/raises.py, line 2", f"{PYTHON} raises.py"]),
        ("run raises", 3, ["JSONDecodeError", f"{PYTHON} -m raises"]),
        ("run wordy.py", 3, ["ValueError: one\n", "line 1"]),
        ("run exits.py", 3, ["SystemExit: not today", "line 2"]),
        ("run syntax.py", 3, ["SyntaxError", "{folder}/syntax.py, line 2"]),
        ("run imports.py", 3, ["No module named 'no_such_thing'", "{folder}/imports.py, line 1"]),
        ("run unguarded.py", 3, ["starts its Runtime", "{folder}/unguarded.py, line", "__main__"]),
        ("run unguarded_trio.py", 3, ["starts its Runtime", "__main__"]),
        ("run foreign_node.py:one", 3, ["'Bye' is not registered in namespace 'n'"]),
        ("run ok.py --resume nope", 6, ["no run 'nope'", ".exotrio/state.db", "--resume"]),
        ("run ok.py --db ok.py/x.db", 2, ["ok.py/x.db", "--db FILE"]),
        ("run ok.py --db /proc/x/state.db", 2, ["/proc/x/state.db", "--db FILE"]),
        ("run ok.py --db .", 2, ["Is a directory", "--db FILE"]),
        ("run ok.py --db /", 2, ["the database / cannot be opened: Is a directory", "--db FILE"]),
        ("run ok.py --db text.db", 2, ["text.db", "not a database"]),
        ("run ok.py --db other.db", 2, ["other.db was not made by exotrio"]),
        ("run ok.py --db newer.db", 2, ["a newer exotrio", "upgrade"]),
        ("worker ok.py", 2, ["EXOSPHERE_STATE_MANAGER_URI", "EXOSPHERE_API_KEY"]),
        ("server --port 70000", 2, ["70000 is not in the range 0<=x<=65535"]),
        ("server --port 4999 --metrics-port 4999", 2, ["port 4999", "--metrics-port", "--open-metrics"]),
        ("server --grace soon", 2, ["'soon' is not a number of seconds"]),
        ("server --port 0 --key-file empty.key --db k.db", 2, ["empty.key is empty"]),
        ("server --port 0 --key-file binary.key --db k.db", 2, ["binary.key cannot be read"]),
        ("server --port 0 --host 0.0.0.0 --db k.db", 2, ["needs a key", "0.0.0.0", "--key-file"]),
        (
            "server --port 0 --host no.such.host.invalid --key a-key-of-enough-length --db k.db",
            2,
            ["has no address"],
        ),
    ],
)
def test_an_error_has_at_most_three_lines(cli: Cli, arguments: str, code: int, parts: list[str]) -> None:
    if "/proc" in arguments and not sys.platform.startswith("linux"):
        pytest.skip("a folder in which no user can make files")
    fails(cli(*arguments.split()), code, *(part.replace("{folder}", str(cli.folder)) for part in parts))


def test_an_error_is_printed_by_a_separate_process_as_well(folder: Path) -> None:
    fails(ended("run", "raises.py", cwd=folder), 3, "JSONDecodeError", f"{folder}/raises.py, line 2")


def test_without_a_command_the_help_is_shown(cli: Cli) -> None:
    end = cli(code=2)
    for command in ("run", "worker", "server"):
        assert f"\n  {command} " in end.err


def test_every_problem_of_nodes_and_runtime_is_named(cli: Cli) -> None:
    fails(
        cli("run", "bad_nodes.py"),
        2,
        "namespace is blank",
        "Other does not inherit from exotrio.BaseNode",
        "Count.Secrets.number: must be of type str",
        "2 node classes are named Greet",
        "workers is 0",
        f"in {cli.folder}/bad_nodes.py, line ",
    )


def test_every_problem_of_a_graph_is_named(cli: Cli) -> None:
    end = cli("run", "bad_graph.py")
    fails(end, 3, "graph 'bad' is invalid", "'Greed' is not registered", "input 'name': it is missing")


def test_a_node_of_an_earlier_runtime_is_named_and_not_waited_for(cli: Cli) -> None:
    assert cli("run", "foreign_node.py:both", "--db", "stale.db").code == 0
    end = cli("run", "foreign_node.py:one", "--db", "stale.db")
    fails(end, 3, "node 'b' runs 'Bye'", "add them to its nodes=[...]")


@pytest.mark.parametrize("command", ["run ok.py --db", "server --port 0 --db"])
def test_a_database_belongs_to_one_process(cli: Cli, running: Server, command: str) -> None:
    end = cli(*command.split(), "busy.db")
    fails(end, 7, f"is in use by process {running.process.pid}", "--db FILE")


def test_a_port_belongs_to_one_process(cli: Cli, running: Server) -> None:
    port = running.uri.rsplit(":", 1)[1]
    fails(cli("server", "--port", port, "--db", "p.db"), 7, f"port {port} is in use")


@pytest.mark.parametrize("command", ["run", "worker"])
def test_a_refused_key_is_an_error(cli: Cli, running: Server, command: str) -> None:
    cli.at(running).set(EXOSPHERE_API_KEY="another")
    end = cli(command, "ok.py", code=5)
    assert f"error: the state manager at {running.uri} answered 401" in end.err
    assert "EXOSPHERE_API_KEY" in end.err
    if command == "run":
        fails(end, 5)
    # This process goes on, though that of a worker would have to end soon after its stop.
    assert "exotrio watchdog" not in [thread.name for thread in threading.enumerate()]


def test_an_unknown_run_at_a_remote_state_manager_is_an_error(cli: Cli, running: Server) -> None:
    fails(
        cli.at(running)("run", "ok.py", "--resume", "nope"), 6, "no run 'nope' in namespace 'n'", running.uri
    )


@pytest.mark.parametrize(
    "command",
    [
        "limits show NAME",
        "limits set NAME --at-most 2",
        "limits rm NAME",
        "graph show NAME",
        "graph delete NAME",
        "graph pause NAME",
        "nodes pause NAME",
        "runs show NAME",
        "runs cancel NAME",
        "states show NAME",
        "states retry NAME",
        "runtimes drain NAME",
        "trigger NAME",
        "keys revoke NAME",
    ],
)
def test_a_name_that_cannot_stand_in_a_path_is_named(cli: Cli, running: Server, command: str) -> None:
    cli.at(running)
    for name in ("", ".", "..", os.fsdecode(b"\xff")):
        end = cli(*(name if word == "NAME" else word for word in command.split()))
        assert end.code not in (0, 1), end
        reasons = (repr(name), "cannot stand in a URL path", "half of a surrogate pair")
        assert any(reason in end.err for reason in reasons), end
        for untrue in ("too old", "speaks only v0", "404", "405"):
            assert untrue not in end.err, end


def test_a_filter_that_is_not_utf_8_is_an_error(cli: Cli, running: Server) -> None:
    fails(cli.at(running)("runs", "ls", "--graph", os.fsdecode(b"\xff")), 6, "no graph")


def test_run_without_a_reachable_state_manager_is_an_error(cli: Cli) -> None:
    fails(
        cli.at_no_server()("run", "ok.py"),
        4,
        "http://127.0.0.1:1 cannot be reached",
        "python -m exotrio server",
    )


def test_a_state_manager_that_never_answers_is_an_error(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(discovery, "DISCOVERY_TIMEOUT", 0.05)
    monkeypatch.setattr(_calls, "MAX_PAUSE", 0.0)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        uri = f"http://127.0.0.1:{silent.getsockname()[1]}"
        cli.set(EXOSPHERE_STATE_MANAGER_URI=uri, EXOSPHERE_API_KEY=KEY)
        fails(cli("runs", "ls", "-n", "n"), 4, f"{uri} did not answer within 0.", "is it overloaded")


def test_errors_of_an_embedded_state_manager_name_no_address(cli: Cli) -> None:
    assert cli("run", "ok.py", "-i", "name=x", "--db", "kept.db").code == 0
    end = cli("runs", "cancel", "nope", "-n", "n", "--db", "kept.db")
    fails(end, 6, "there is no run 'nope'", "request: GET /exotrio/v1/namespace/n/run/nope")


def test_sending_a_key_of_dot_env_to_an_address_of_the_environment_warns(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".env").write_text(f"EXOSPHERE_API_KEY={KEY}\n", "utf-8")
    uri = f"http://127.0.0.1:{free_port()}"  # not one of another test: a process warns once of an address
    cli.set(EXOSPHERE_STATE_MANAGER_URI=uri)
    end = cli("runs", "ls", "-n", "n", code=4)
    warning = end.err.splitlines()[0]
    assert "WARNING" in warning
    assert "EXOSPHERE_API_KEY in .env" in warning
    assert f"is sent to {uri}" in warning


def test_an_address_without_a_scheme_is_refused_with_its_source(cli: Cli) -> None:
    cli.set(EXOSPHERE_STATE_MANAGER_URI="127.0.0.1:8000", EXOSPHERE_API_KEY=KEY)
    for command in ("run", "worker"):
        fails(cli(command, "ok.py"), 2, "http://", "EXOSPHERE_STATE_MANAGER_URI")
    listed = ("runs", "ls", "-n", "n")
    fails(cli(*listed), 2, "(variable EXOSPHERE_STATE_MANAGER_URI)")
    fails(cli(*listed, "--uri", "ftp://x"), 2, "not ftp:// (--uri)")


def test_an_unreadable_dot_env_is_an_error(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".env").write_bytes(b"EXOSPHERE_API_KEY=\xff\n")
    fails(cli("run", str(cli.folder / "ok.py")), 2, ".env cannot be read")


@pytest.mark.parametrize("size", [0, 50_000])
def test_a_full_disk_is_named_when_the_database_cannot_be_created(folder: Path, size: int) -> None:
    end = ended("run", "ok.py", "--db", f"full-{size}.db", cwd=folder, after=disk_of(size))
    fails(end, 2, f"full-{size}.db cannot be used", "free space")


def test_a_backup_never_overwrites_a_file_silently(cli: Cli, running: Server) -> None:
    cli.at(running)
    end = cli("backup", "copy.db", code=0)
    assert end.out == f"copy.db: {(cli.folder / 'copy.db').stat().st_size:,} bytes\n"
    fails(cli("backup", "copy.db"), 2, "copy.db already exists", "replace it: --overwrite\n")
    live = cli("backup", "busy.db", "--overwrite")
    fails(live, 2, "busy.db is the database of a state manager")


def test_a_command_called_by_a_program_leaves_its_logging_unchanged() -> None:
    log = logging.getLogger("exotrio")
    before = (log.level, list(log.handlers))
    with pytest.raises(SystemExit):
        main(["runs", "ls", "-n", "n", "--uri", "ftp://x"])
    assert (log.level, list(log.handlers)) == before


def test_a_python_without_the_dependencies_is_named(tmp_path: Path) -> None:
    # -S: without site-packages, as a Python in which nothing is installed.
    end = subprocess.run(
        [sys.executable, "-S", "-m", "exotrio", "runs", "ls"],
        cwd=tmp_path,
        env={**environment(tmp_path), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert (end.returncode, end.stdout) == (1, "")
    first, second = end.stderr.splitlines()
    assert first == f"error: {sys.executable} has no click, which exotrio needs"
    assert second.endswith(f" {sys.executable} -m pip install .")


REPLACED = """
import os, signal
from pathlib import Path
from exotrio import BaseNode, Graph, GraphNodeModel, Runtime


class Replace(BaseNode):
    async def execute(self):
        Path(".exotrio/state.db").rename("moved.db")  # from now on nothing can be stored
        os.kill(os.getpid(), signal.SIGINT)


graph = Graph("replaced", nodes=[GraphNodeModel(node_name="Replace", namespace="n", identifier="a")])
runtime = Runtime("n", "r", [Replace], shutdown_grace=0)
"""


def test_an_outcome_that_could_not_be_stored_is_not_reported_as_kept(
    bare: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("exotrio._shared.deadlines.FLUSH", 0.1)
    bare.write("replaced.py", REPLACED)
    end = bare("run", "replaced.py", code=130)
    assert "interrupted; the results of 1 state may not be stored, see the log: these run again" in end.err
    assert "everything is kept" not in end.err
