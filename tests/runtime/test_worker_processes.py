"""Worker processes of nodes as users meet them: programs, files, terminals, and a runtime that is killed."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from exotrio._children.parent_process import pack
from exotrio._execution.messages import CONNECTION_LOST, Job, Setup
from exotrio._execution.processes import BEGIN
from exotrio._link.port import Claim
from exotrio._nodes.importing import target_of
from tests.support import process_nodes
from tests.support.processes import EXOTRIO, TEST_TIMEOUT, Processes, environment, until_gone
from tests.support.terminals import Terminal

NODES = """
import os, re, time
import trio
from pydantic import BaseModel
from exotrio import BaseNode, Graph, GraphNodeModel, RetryPolicyModel, Runtime
from exotrio.testing import run_graph, run_node
{imports}

class Broken(Exception):
    pass

class Greet(BaseNode):
    runs_in = "process"

    class Outputs(BaseModel):
        text: str

    def execute(self):
        print(f"node in {{os.getpid()}}", flush=True)
        {body}
        return self.Outputs(text=f"from another process: {{os.getpid() != {pid}}}")

graph = Graph(
    "g",
    nodes=[GraphNodeModel(node_name="Greet", namespace="ns", identifier="greet", inputs={{}})],
    retry_policy=RetryPolicyModel(max_retries=0),
)
"""
RUNTIME = 'runtime = Runtime(namespace="ns", name="rt", nodes=[Greet])\n'
GUARDED = """
if __name__ == "__main__":
    outcome = trio.run(run_node, Greet)
    print(getattr(outcome, "error", None) or outcome.outputs)
"""


def code(*, body: str = "pass", imports: str = "", end: str = GUARDED) -> str:
    return NODES.format(body=body, imports=imports, pid="os.getppid()") + end


def program(folder: Path, *command: str) -> tuple[str, str]:
    """Return what a program prints, and its standard error."""
    ended = subprocess.run(
        [sys.executable, *command],
        cwd=folder,
        env=environment(folder),
        capture_output=True,
        text=True,
        timeout=TEST_TIMEOUT,
        check=False,
    )
    assert ended.returncode == 0, ended
    return ended.stdout, ended.stderr


def test_a_program_finds_its_own_nodes_in_other_processes(tmp_path: Path) -> None:
    package = tmp_path / "package"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "sibling.py").touch()
    (package / "alone.py").write_text(code(imports="import sibling"))
    (package / "tool.py").write_text(code(imports="from . import sibling"))
    done = "[{'text': 'from another process: True'}]\n"
    assert program(tmp_path, "package/alone.py")[0] == done
    assert program(tmp_path, "-m", "package.tool")[0] == done


def test_the_error_of_a_program_s_own_node_names_its_file_and_exception_and_may_say_no_to_a_retry(
    tmp_path: Path,
) -> None:
    body = 'Greet.no_retry = (Broken,); raise Broken("by itself")'
    (tmp_path / "alone.py").write_text(code(body=body, end=f"{GUARDED}    print(outcome.retry)\n"))
    frame, line, *_, last, why, retry = program(tmp_path, "alone.py")[0].splitlines()[1:]
    assert f'File "{tmp_path / "alone.py"}"' in frame
    assert line.strip() == body
    assert last == "Broken: by itself"
    assert (why, retry) == ("not to be retried: Greet.no_retry has Broken", "False")


def test_the_error_of_a_program_without_a_guard_says_how_to_add_one(tmp_path: Path) -> None:
    (tmp_path / "alone.py").write_text(code(end="print(trio.run(run_graph, graph, [Greet]).errors)\n"))
    out, _ = program(tmp_path, "alone.py")
    assert "alone.py starts its Runtime while it is loaded" in out
    assert "put the start under: if __name__ == " in out


def test_a_program_that_runs_a_node_while_it_is_loaded_does_not_start_process_after_process(
    tmp_path: Path,
) -> None:
    (tmp_path / "alone.py").write_text(code(end="print(trio.run(run_node, Greet))\n"))
    out, err = program(tmp_path, "alone.py")
    assert out == "Executed(outputs=[{'text': 'from another process: True'}])\n"
    assert "this is a worker process, which starts no others: put the start under: if __name__" in err


def test_a_runtime_that_starts_in_a_thread_while_its_file_is_loaded_runs_once(tmp_path: Path) -> None:
    end = """
def main():
    print(trio.run(run_graph, graph, [Greet]).outputs("greet"))

threading.Thread(target=main, name="main of the file").start()
"""
    body = '[each.join() for each in threading.enumerate() if each.name == "main of the file"]'
    (tmp_path / "alone.py").write_text(code(body=body, imports="import threading", end=end))
    out, err = program(tmp_path, "alone.py")
    assert out == "[{'text': 'from another process: True'}]\n"
    assert "LifecycleError: the runtime was started while its file is loaded" in err


def test_an_interactive_session_is_refused(tmp_path: Path) -> None:
    session = code(end="print(trio.run(run_graph, graph, [Greet]))\n")
    ended = subprocess.run(
        [sys.executable, "-"],
        input=session,
        cwd=tmp_path,
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        timeout=TEST_TIMEOUT,
        check=False,
    )
    assert "it is defined in __main__, which is not a file" in ended.stderr


def test_a_ctrl_c_at_the_terminal_reaches_the_runtime_only(tmp_path: Path) -> None:
    body = "while not self.stopping: time.sleep(0.01)"
    (tmp_path / "app.py").write_text(code(body=body, end=RUNTIME))
    with Terminal([*EXOTRIO, "run", "app.py"], cwd=tmp_path) as terminal:
        terminal.until("node in ")
        terminal.type("\x03")
        assert terminal.wait() == 0
        assert "from another process: True" in terminal.out
        assert "ERROR" not in terminal.screen


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the end of its stream is all there is")
def test_a_process_that_computes_in_c_ends_with_a_runtime_that_is_killed(
    tmp_path: Path,
) -> None:
    (tmp_path / "app.py").write_text(code(body='re.match("(a+)+$", "a" * 60 + "b")', end=RUNTIME))
    with Processes() as processes:
        runtime = processes.start("run", "app.py", cwd=tmp_path)
        pid = int(runtime.line(r"node in (\d+)")[1])
        runtime.kill()
    until_gone(pid)


def test_a_process_ends_at_the_end_of_its_stream_whatever_runs() -> None:
    # Its parent, this process, lives on: the kernel does not end it.
    ours, theirs = socket.socketpair()
    with theirs:
        number = theirs.fileno()
        command = [sys.executable, "-c", BEGIN, str(number), json.dumps(sys.path)]
        process = subprocess.Popen(command, pass_fds=(number,))
    job = Job(
        number=1,
        target=target_of(process_nodes.Drains),
        claim=Claim("id", "Drains", "place", {}),
        secrets={},
        trace=None,
        captures=False,
    )
    with ours:
        ours.sendall(pack(Setup([], {})) + pack(job))
        assert ours.recv(1)  # it has begun
    try:
        assert process.wait(TEST_TIMEOUT) == CONNECTION_LOST
    finally:
        process.kill()
        process.wait()
