"""Runs that started others, and those that were started: what commands say of them."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from tests.support.commands import Cli
from tests.support.helpers import NO_RETRY, declare, node_name, place, run_place
from tests.support.processes import Server

NS = "/v0/namespace/n"
DEADLINE = 30.0


def stored(running: Server, name: str, only: dict[str, Any], **fields: Any) -> None:
    """Store a graph with one place."""
    if "graph" not in only:
        nodes = [declare(only["node_name"], list(only["inputs"]))]
        running.ask("PUT", f"{NS}/nodes/", {"runtime_name": "r", "nodes": nodes})
    body = {"nodes": [{"namespace": "n", **only}], "secrets": {}, "retry_policy": NO_RETRY}
    running.ask("PUT", f"{NS}/graph/{name}", {**body, **fields})


def once(get: Callable[[], Any]) -> Any:
    """Return what a command says as soon as it says something."""
    deadline = time.monotonic() + DEADLINE
    while not (found := get()):
        assert time.monotonic() < deadline
    return found


def test_commands_name_the_run_that_a_failure_started_and_the_failed_one(bare: Cli, running: Server) -> None:
    cli = bare.at(running)
    stored(running, "alert", place("tell"))
    stored(running, "work", place("ship"), on_failure="alert")
    run = cli.json("trigger", "work")["run_id"]
    claim = {"nodes": [node_name("ship")], "batch_size": 1}
    (claimed,) = running.ask("POST", f"{NS}/states/enqueue", claim)["states"]
    state = claimed["state_id"]
    running.ask("POST", f"{NS}/state/{state}/errored", {"error": "no stock"})
    (child,) = once(lambda: [one for one in cli.json("runs", "show", run)["children"] if one["run_id"]])
    alert = child["run_id"]
    out = cli("runs", "show", run, code=0).out
    assert "\nstarted 1 run:\n" in out
    assert f"{alert}  alert  PENDING  failed: ship ({state})" in out
    out = cli("runs", "show", alert, code=0).out
    assert f"\nstarted by run {run} of graph work: failed: ship ({state})\n" in out
    assert f"failure of run {run}" in cli("runs", "ls", code=0).out
    assert [each["run_id"] for each in cli.json("runs", "ls", "--parent", run[:8])["runs"]] == [alert]
    assert cli.json("runs", "ls", "--parent", alert)["runs"] == []
    assert "there is no run 'nope'" in cli("runs", "ls", "--parent", "nope", "--graph", "work").err
    assert f"alert (of {run[:8]})" in cli("top", "--once", code=0).out


def test_commands_say_for_which_run_a_state_waits(bare: Cli, running: Server) -> None:
    cli = bare.at(running)
    stored(running, "child", place("c"))
    stored(running, "parent", run_place("g", graph="child"))
    run = cli.json("trigger", "parent")["run_id"]
    (child,) = once(lambda: cli.json("runs", "show", run)["children"])
    waits = f"waits for run {child['run_id']} of graph child since "
    (state,) = cli.json("states", "ls", "--run", run)["states"]
    assert f"\ng {waits}" in cli("runs", "show", run, code=0).out
    assert waits in cli("states", "ls", "--run", run, code=0).out
    shown = cli("states", "show", state["id"], code=0).out
    assert waits in shown
    assert f"\nstarted run {child['run_id']} of graph child: running\n" in shown
    out = cli("runs", "show", child["run_id"], code=0).out
    assert f"\nstarted by run {run} of graph parent: g ({state['id']})\n" in out
    out = cli("runs", "cancel", run, code=0).out
    assert f"{child['run_id']}  child  PENDING (about to be cancelled)" in out or "(cancelled)  g (" in out
    once(lambda: cli.json("runs", "show", child["run_id"])["cancelled_at"])
    assert "\ncancelled since that run was cancelled\n" in cli("runs", "show", child["run_id"], code=0).out
    assert "state manager" in cli("audit", "ls", "--target", child["run_id"], code=0).out
    shown = cli("states", "show", state["id"], code=0).out
    assert f"\nstarted run {child['run_id']} of graph child: cancelled\n" in shown
