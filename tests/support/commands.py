"""Commands called in this process: as a user sees them, without the start of a Python."""

from __future__ import annotations

import io
import json
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from exotrio.cli import main
from tests.support.processes import Ended, Server, exotrio, server

LONGEST = 120
"""Seconds that a command may take."""
NODES = """
from exotrio import BaseNode, Graph, RetryPolicyModel, Runtime
from pydantic import BaseModel


class Split(BaseNode):
    class Inputs(BaseModel):
        count: int

    class Outputs(BaseModel):
        n: str

    async def execute(self):
        return [self.Outputs(n=str(n)) for n in range(self.inputs.count)]


class Work(BaseNode):
    class Inputs(BaseModel):
        n: str
        bad: str

    class Outputs(BaseModel):
        text: str

    async def execute(self):
        if self.inputs.n == self.inputs.bad:
            raise ValueError(f"\\x1b[31mcannot work on {self.inputs.n}")
        return self.Outputs(text=f"<{self.inputs.n}>")


class Lock(BaseNode):
    class Secrets(BaseModel):
        token: str

    async def execute(self):
        return None


graph = Graph("fan", namespace="n", retry_policy=RetryPolicyModel(max_retries=0))
split = graph.add(Split, count="2")
graph.add(Work, n=split.n, bad=graph.store("bad", default="none"))
runtime = Runtime(namespace="n", name="r", nodes=[Split, Work, Lock], poll_interval=0.1)
"""


class Cli:
    """Calls commands in a folder, with nothing of this machine's settings."""

    def __init__(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        self.folder = folder
        self._patch = monkeypatch
        self._capsys = capsys
        monkeypatch.chdir(folder)
        monkeypatch.setattr(sys, "path", list(sys.path))
        for name in (
            "EXOSPHERE_STATE_MANAGER_URI",
            "EXOSPHERE_API_KEY",
            "EXOSPHERE_API_KEY_FILE",
            "EXOSPHERE_NAMESPACE",
            "EXOTRIO_DATABASE_URL",
        ):
            monkeypatch.delenv(name, raising=False)

    def at(self, running: Server, namespace: str = "n") -> Cli:
        """Address a state manager by the environment from now on."""
        self.set(**running.env, EXOSPHERE_NAMESPACE=namespace)
        return self

    def at_no_server(self) -> Cli:
        """Address a state manager that is not there, from now on."""
        self.set(
            EXOSPHERE_STATE_MANAGER_URI="http://127.0.0.1:1", EXOSPHERE_API_KEY="k", EXOSPHERE_NAMESPACE="n"
        )
        return self

    def set(self, **env: str) -> None:
        for name, value in env.items():
            self._patch.setenv(name, value)

    def unset(self, name: str) -> None:
        self._patch.delenv(name)

    def write(self, name: str, text: str | dict[str, Any]) -> str:
        (self.folder / name).write_text(
            text if isinstance(text, str) else json.dumps(text, indent=1), "utf-8"
        )
        return name

    def __call__(self, *arguments: str, stdin: str | bytes = "", code: int | None = None) -> Ended:
        """Return how a command ended, which has to be with this exit code, if one is given."""
        data = stdin if isinstance(stdin, bytes) else stdin.encode()
        self._patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
        self._capsys.readouterr()
        # One that would wait without end is interrupted, and fails its test instead of stopping all.
        signal.signal(signal.SIGALRM, lambda *_: signal.raise_signal(signal.SIGINT))
        signal.alarm(LONGEST)
        try:
            with pytest.raises(SystemExit) as exit:
                main(list(arguments))
        finally:
            signal.alarm(0)
        out, err = self._capsys.readouterr()
        assert "Traceback" not in err, err
        end = Ended(int(exit.value.code or 0), out, err)
        assert code in (None, end.code), end
        return end

    def json(self, *arguments: str, code: int = 0, stdin: str | bytes = "") -> Any:
        """Return what a command prints as JSON, and nothing else."""
        return json.loads(self(*arguments, "-o", "json", stdin=stdin, code=code).out)


def fails(end: Ended, code: int, *parts: str) -> None:
    """Check an error: its exit code, nothing on standard output, a few lines that hold the parts."""
    assert end.code == code, end
    assert end.out == "", end
    lines = end.err.splitlines()
    assert lines[0].startswith("error: "), end
    assert len([line for line in lines if not line.startswith("  - ")]) <= 3, end
    for part in parts:
        assert part in end.err, end


def with_graph(cli: Cli, running: Server) -> Cli:
    """Address a state manager that has the graph of ``NODES``."""
    cli.at(running).write("nodes.py", NODES)
    assert cli("graph", "apply", "nodes.py").code == 0
    return cli


@contextmanager
def with_worker(folder: Path, *options: str) -> Iterator[Server]:
    """Run a state manager, and a worker that has the nodes of ``NODES``."""
    (folder / "nodes.py").write_text(NODES, "utf-8")
    with (
        server(folder, *options) as running,
        exotrio("worker", "nodes.py", cwd=folder, env=running.env) as worker,
    ):
        worker.line("running|RUNNING|registered")
        yield running
