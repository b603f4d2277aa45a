"""The production guide's "A separate database for a namespace", played by real processes."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path

from tests.support.commands import Cli
from tests.support.pages import PRODUCTION, block, commands, shell
from tests.support.processes import Processes

APP = """
import os
import trio
from pathlib import Path

from pydantic import BaseModel

from exotrio import BaseNode, CronTrigger, Graph, Runtime


class Pack(BaseNode):
    class Inputs(BaseModel):
        order: str

    async def execute(self):
        with open("journal", "a") as file:
            file.write(f"{self.inputs.order} {os.getpid()}\\n")
        while self.inputs.order == "old" and not Path("go").exists():
            await trio.sleep(0.02)


graph = Graph("orders", namespace="Orders")
graph.add(Pack, order="old")
graph.triggers = [CronTrigger(expression="0 0 1 1 *")]
runtime = Runtime(namespace="Orders", name="packer", nodes=[Pack])
"""
SERVING = r"serving .* on (http://[^\s\"]+)"
BLOCK = block(PRODUCTION, "--db orders.db").code


def test_what_has_begun_ends_in_the_old_database_and_the_rest_runs_in_the_new_one(
    bare: Cli, tmp_path: Path
) -> None:
    export, _, uses, *_ = BLOCK.splitlines()
    server, worker, pause, apply = commands(BLOCK)
    assert server[:3] == ["server", "--port", "8001"]
    assert uses.startswith("EXOSPHERE_STATE_MANAGER_URI=http://127.0.0.1:8001 ")
    with Processes() as processes:
        old = processes.start("server", "--port", "0", cwd=tmp_path)
        old_uri = old.line(SERVING)[1]
        key = shell(f"{export}\nprintenv EXOSPHERE_API_KEY", tmp_path)[1].strip()
        bare.write("orders.py", APP)
        cli = bare
        cli.set(EXOSPHERE_STATE_MANAGER_URI=old_uri, EXOSPHERE_API_KEY=key, EXOSPHERE_NAMESPACE="Orders")
        env = {"EXOSPHERE_STATE_MANAGER_URI": old_uri, "EXOSPHERE_API_KEY": key}
        old_worker = processes.start("worker", "orders.py", cwd=tmp_path, env=env)
        old_worker.line("running|RUNNING|registered")
        cli("graph", "apply", "orders.py", code=0)
        first = cli.json("trigger", "orders")["run_id"]
        journal = tmp_path / "journal"
        while not journal.exists():
            time.sleep(0.01)  # its node has not begun yet

        new = processes.start(
            "server", "--port", "0", *server[3:], cwd=tmp_path, env={"EXOSPHERE_API_KEY": key}
        )
        uri = new.line(SERVING)[1]
        new_worker = processes.start(*worker, cwd=tmp_path, env={**env, "EXOSPHERE_STATE_MANAGER_URI": uri})
        new_worker.line("running|RUNNING|registered")
        cli(*pause, code=0)
        cli(*(uri if each.startswith("http") else each for each in apply), code=0)
        second = cli.json("trigger", "orders", "--uri", uri, "-i", "order=new")["run_id"]
        cli("runs", "watch", second, "--uri", uri, code=0)
        assert [run["run_id"] for run in cli.json("runs", "ls", "--status", "PENDING")["runs"]] == [first]
        (tmp_path / "go").touch()
        cli("runs", "watch", first, code=0)
        assert cli.json("runs", "ls", "--status", "PENDING")["runs"] == []
        old_worker.stop(code=0)
        new_worker.stop(code=0)
    ran = Counter(line.split()[0] for line in journal.read_text("utf-8").splitlines())
    assert ran == {"old": 1, "new": 1}
    assert len(set(journal.read_text("utf-8").split()[1::2])) == 2, "each on a runtime of its database"
