"""``trigger --follow`` and ``runs watch`` while the state manager is away."""

from __future__ import annotations

import sys

import pytest

from exotrio.client import RunGraph, StateManager
from exotrio.errors import ManagerUnavailable
from tests.support.commands import Cli, with_worker
from tests.support.processes import Process, Processes, server

AGAIN = "following the run fails; it is tried again for 60 s: the state manager at http://"
IMPATIENT = """
import sys
from exotrio.cli import main
from exotrio.client import _runs
_runs.OUTAGE_TOLERANCE = 0.0
main(sys.argv[1:])
"""


def test_a_restart_of_the_state_manager_ends_nothing_that_follows_a_run(bare: Cli) -> None:
    with with_worker(bare.folder) as running, Processes() as processes:
        cli, folder, env = bare.at(running), bare.folder, running.env
        cli("graph", "apply", "nodes.py", code=0)
        trigger = ("trigger", "fan", "--start-delay", "3600", "--follow", "--namespace", "n")
        following = processes.start(*trigger, cwd=folder, env=env)
        following.line("split 0/1")
        watch = ["runs", "watch", following.so_far().out.strip(), "--namespace", "n"]
        impatient = Process([sys.executable, "-c", IMPATIENT, *watch], cwd=folder, env=env)
        processes.enter_context(impatient)
        impatient.line("split 0/1")
        running.process.kill()
        end = impatient.wait(code=4)
        assert f"the run continues. Follow it again with:\n  {sys.executable} -m exotrio " in end.err
        assert f" -m exotrio {' '.join(watch)}\n" in end.err
        assert end.err.count("cannot be reached") == 1
        following.line(AGAIN)
        late = processes.start(*watch, cwd=folder, env=env)
        late.line(AGAIN)
        with server(folder, "--port", running.uri.rpartition(":")[2]):
            cli("runs", "cancel", watch[2], code=0)
            for process in (following, late):
                end = process.wait(code=1)
                assert "FAILED: 1 state" in end.out
                assert end.err.count("fails; ") == 1


def test_a_result_that_cannot_be_read_at_once_is_read_later(
    cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    outage = [ManagerUnavailable("away"), ManagerUnavailable("away")]
    read = StateManager.run

    async def run(manager: StateManager, run_id: str) -> RunGraph:
        if outage:
            raise outage.pop()
        return await read(manager, run_id)

    monkeypatch.setattr(StateManager, "run", run)
    assert "\nSUCCESS: " in cli("trigger", "fan", "--follow", code=0).out
