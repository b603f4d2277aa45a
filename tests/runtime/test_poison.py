"""A state that ends its process again and again: it becomes an error, and nothing else does."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from tests.support.processes import Ended, Processes, ended

STATES = 20
KILLER = "7"
DIED = 70
LIMIT = 5
"""Of ``run``, which has no option for it."""
FEWER = 2
"""Of ``--poison-limit``."""

APP = f"""
import os
import trio
from exotrio import BaseNode, Graph, RetryPolicyModel, Runtime
from pydantic import BaseModel


class Deal(BaseNode):
    class Outputs(BaseModel):
        item: str

    async def execute(self):
        return [self.Outputs(item=str(item)) for item in range({STATES})]


class Work(BaseNode):
    class Inputs(BaseModel):
        item: str

    class Outputs(BaseModel):
        item: str

    async def execute(self):
        if self.inputs.item == "{KILLER}":
            KILL
        await trio.sleep(0.05)
        return self.Outputs(item=self.inputs.item)


graph = Graph("deal", namespace="ns", retry_policy=RetryPolicyModel(max_retries=0))
graph.add(Work, item=graph.add(Deal).item)
runtime = Runtime(namespace="ns", name="r", nodes=[Deal, Work], workers=4, poll_interval=0.05)
"""


Folder = Callable[[str], Path]


@pytest.fixture
def killing(tmp_path: Path) -> Folder:
    def made(code: str) -> Path:
        (tmp_path / "app.py").write_text(APP.replace("KILL", code), "utf-8")
        return tmp_path

    return made


def run_to_its_end(folder: Path, env: Mapping[str, str] | None = None) -> tuple[Ended, int]:
    """Start a run and continue it until it ends; return that, and how often its process ended before."""
    end = ended("run", "app.py", cwd=folder, env=env)
    (run_id,) = (line.split()[1] for line in end.err.splitlines() if line.startswith("run "))
    died = 0
    while end.code == DIED:
        died += 1
        assert died <= LIMIT + 3, end
        end = ended("run", "app.py", "--resume", run_id, "-o", "json", cwd=folder, env=env)
    return end, died


def check(end: Ended, died: int, limit: int) -> None:
    """Check that the killer, and nothing else, is an error."""
    assert end.code == 1, end
    result = json.loads(end.out)
    assert result["nodes"]["work"] == {"SUCCESS": STATES - 1, "ERRORED": 1}
    assert f"poison: {limit} runtimes in a row" in result["errors"][0]["error"]
    assert limit <= died <= limit + 1, "its first end may come before anybody knew that it ran"


def test_a_node_that_ends_the_process_of_its_run_is_all_that_the_run_loses(killing: Folder) -> None:
    check(*run_to_its_end(killing(f"os._exit({DIED})")), limit=LIMIT)


def test_a_node_that_ends_one_worker_after_the_other_is_all_that_the_server_loses(killing: Folder) -> None:
    folder = killing(f"os._exit({DIED})")
    with Processes() as processes:
        server = processes.server(folder, "--lease-ttl", "1", "--poison-limit", str(FEWER))
        check(*run_to_its_end(folder, server.env), limit=FEWER)


def test_a_keyboard_interrupt_that_a_node_raises_is_its_error_and_ends_nothing(killing: Folder) -> None:
    end, died = run_to_its_end(killing("raise KeyboardInterrupt('by the node')"))
    assert died == 0
    assert end.code == 1, end
    assert "KeyboardInterrupt: by the node" in end.out
