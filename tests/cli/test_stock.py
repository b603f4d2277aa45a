"""The commands at a stock state manager (``tests/support/stock.py``), on a socket, as far as it
differs from our v0: what they say, and their exit codes."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.support.commands import Cli, fails
from tests.support.processes import Process, ended, exotrio
from tests.support.stock import KEY, State, Stock, on_a_port

FILE = """
from datetime import timedelta
from exotrio import BaseNode, Graph, ReQueueAfterSignal, RetryPolicyModel, Runtime
from pydantic import BaseModel


class Text(BaseModel):
    text: str


class Split(BaseNode):
    Inputs = Outputs = Text

    async def execute(self):
        return [Text(text=letter) for letter in self.inputs.text]


class Shout(BaseNode):
    Inputs = Outputs = Text

    async def execute(self):
        if self.inputs.text == "!":
            raise ValueError("cannot shout that")
        if self.inputs.text == "later":
            raise ReQueueAfterSignal(timedelta(hours=1))
        return Text(text=self.inputs.text.upper())


graph = Graph(
    "g",
    namespace="n",
    secrets={"token": "a secret"},
    retry_policy=RetryPolicyModel(max_retries=0),
)
graph.add(Shout, text=graph.add(Split, text="ab").text)
runtime = Runtime(namespace="n", name="r", nodes=[Split, Shout], poll_interval=0.02)
"""
GRAPH = {
    "name": "g",
    "secrets": {"token": "a secret"},
    "nodes": [{"node_name": "A", "namespace": "n", "identifier": "a", "inputs": {}, "next_nodes": []}],
    "store_config": {"required_keys": ["k"], "default_values": {}},
    "triggers": [{"type": "CRON", "value": {"expression": "@daily"}}],
}
NODE = {"name": "A", "namespace": "n", "inputs_schema": {}, "outputs_schema": {}, "secrets": []}


@dataclass
class World:
    """A stock server on a port, the commands, and the file of nodes."""

    stock: Stock
    cli: Cli
    env: dict[str, str]

    def worker(self) -> Process:
        """Start a worker and wait until it is registered."""
        worker = exotrio("worker", "nodes.py", cwd=self.cli.folder, env=self.env)
        worker.line("running|RUNNING|registered")
        return worker

    def failed(self) -> State:
        """Return a state that failed, of a run of the graph."""
        self.stock.nodes["n", "A"] = {**NODE, "runtime_name": "r"}
        self.stock.graphs["n", "g"] = {"body": {**GRAPH, "store_config": {}}, "looks": 0, "errors": []}
        run_id = self.cli("trigger", "g").out.strip()
        (state,) = [state for state in self.stock.states.values() if state.run_id == run_id]
        state.status, state.error = "ERRORED", "it broke"
        return state


@pytest.fixture
def world(bare: Cli) -> Iterator[World]:
    stock = Stock(time.monotonic)
    with on_a_port(stock) as uri:
        env = {
            "EXOSPHERE_STATE_MANAGER_URI": uri,
            "EXOSPHERE_API_KEY": KEY,
            "EXOSPHERE_NAMESPACE": "n",
        }
        bare.set(**env)
        bare.write("nodes.py", FILE)
        bare.write("g.json", GRAPH)
        yield World(stock, bare, env)


def test_a_graph_is_applied_once_it_was_validated_and_shown_as_it_is_stored(world: World) -> None:
    cli = world.cli
    fails(cli("graph", "apply", "g.json"), 3, "Node A in namespace n does not exist")
    world.stock.nodes["n", "A"] = {**NODE, "runtime_name": "r"}
    assert cli("graph", "apply", "g.json").code == 0
    # Read alone it has defaults in place of what is stored, and in the list ciphertexts.
    graph = cli.json("graph", "show", "g")
    assert graph["store_config"]["required_keys"] == ["k"]
    assert list(graph["next_runs"]) == ["@daily"]
    listed = cli("graph", "ls").out
    assert "VALID" in listed
    assert "ciphertext" not in str(graph) + listed + str(cli.json("graph", "ls"))
    assert cli("nodes", "ls").out.splitlines()[-1] == "1 node in namespace n"
    fails(cli("trigger", "g"), 2, "give --store k=VALUE")
    run_id = cli("trigger", "g", "--store", "k=v").out.strip()
    assert list(world.stock.runs) == [run_id]
    assert 307 not in {status for _, status in world.stock.answered}


@pytest.mark.parametrize(
    ("status", "counted"), [("TIMEDOUT", "FAILED"), ("CANCELLED", "FAILED"), ("RESTING", "PENDING")]
)
def test_statuses_of_a_newer_server_are_shown_as_they_are(world: World, status: str, counted: str) -> None:
    cli, state = world.cli, world.failed()
    state.status = status
    run = cli.json("runs", "show", state.run_id)
    assert (run["status"], run["total_count"], run["nodes"][0]["counts"]) == (counted, 1, {status: 1})
    assert run["errored_count"] == (counted == "FAILED")
    assert cli("runs", "show", state.run_id).out.splitlines()[1].split()[-1] == status
    assert f" {status} " in cli("states", "ls", "--run", state.run_id).out
    assert cli("states", "show", state.id, "--run", state.run_id).out.startswith(
        f"state {state.id}: {status}\n"
    )
    if counted == "FAILED":
        assert cli("runs", "watch", state.run_id).code == 1
        assert cli("runs", "retry", state.run_id).code == 0


def test_runs_and_states_are_shown_and_failed_ones_retried(world: World) -> None:
    cli, state = world.cli, world.failed()
    assert "FAILED" in cli("runs", "ls").out
    assert cli.json("runs", "show", state.run_id[:8])["failed"][0]["error"] == "it broke"
    assert cli("runs", "watch", state.run_id).code == 1
    assert cli.json("states", "ls", "--run", state.run_id)["states"][0]["status"] == "ERRORED"
    assert cli.json("states", "show", state.id, "--run", state.run_id)["error"] == "it broke"
    new = cli("states", "retry", state.id, "--fanout-id", "f").out.strip()
    assert world.stock.states[new].status == "CREATED"
    world.stock.states[new].status = "ERRORED"
    fails(cli("states", "retry", new, "--fanout-id", "f"), 3, "Duplicate")
    assert cli("runs", "retry", state.run_id).code == 0
    assert world.stock.statuses() == {"RETRY_CREATED": 2, "CREATED": 1}
    assert not world.stock.revived


def test_calls_that_a_stock_server_lacks_are_refused_with_an_alternative(world: World) -> None:
    cli, state = world.cli, world.failed()
    fails(cli("states", "ls"), 3, "--run RUN")
    fails(cli("states", "show", state.id), 3, "--run RUN")
    fails(cli("runs", "cancel", state.run_id), 3, "speaks only v0")
    fails(cli("backup", "copy.db"), 3, "speaks only v0")


def test_unknown_ids_are_not_found_although_the_server_fails_on_them(world: World) -> None:
    cli, state = world.cli, world.failed()
    fails(cli("states", "retry", "nonsense"), 6, "there is no state 'nonsense'")
    fails(cli("states", "show", "nonsense", "--run", state.run_id), 6, "there is no state 'nonsense'")
    fails(cli("states", "retry", "0" * 24), 6, "there is no state")
    fails(cli("runs", "show", "7b0d1f9e"), 6, "there is no run")
    fails(cli("trigger", "other"), 6, "there is no graph 'other'", "g")


def test_a_run_is_executed_and_its_result_printed(world: World) -> None:
    world.stock.registrations_collide = 1
    world.stock.looks_pending = 0
    end = ended("run", "nodes.py", "-i", "text=xyz", cwd=world.cli.folder, env=world.env, code=0)
    assert sorted(line.split(": ")[1] for line in end.out.splitlines() if "text: " in line) == ["X", "Y", "Z"]
    end = ended("run", "nodes.py", "-i", "text=a!", cwd=world.cli.folder, env=world.env, code=1)
    assert "cannot shout that" in end.out + end.err


def test_a_stopped_worker_exits_0(world: World) -> None:
    with world.worker() as worker:
        assert world.cli("trigger", "g").code == 6
        assert world.cli("graph", "apply", "nodes.py").code == 0
        assert world.cli("trigger", "g", "--follow").code == 0
        worker.signal(signal.SIGTERM)
        assert worker.wait().code == 0
    assert world.stock.statuses() == {"SUCCESS": 4}


def test_a_worker_whose_requeue_was_not_answered_names_the_state_and_exits_75(world: World) -> None:
    world.stock.proxy = lambda method, path: "lost" if path.endswith("after") else ""
    (state,) = world.stock.add("Shout", text="later")
    with world.worker() as worker:
        worker.line(f"{state.id}.*whether its .* arrived is unknown")
        worker.stop(code=75)
    assert world.stock.times("POST re-enqueue-after") == 1
