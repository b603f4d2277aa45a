"""Three state managers start the runs of states, and one is killed: each is started once, none is lost."""

from __future__ import annotations

import signal
from pathlib import Path
from urllib.parse import urlsplit

import trio
from pydantic import BaseModel

from exotrio import BaseNode, Graph, Runtime, StateManager
from exotrio.client import RunStatus
from exotrio.manager.store.opening import open_store
from exotrio.manager.store.view import View
from tests.support import postgres
from tests.support.balancer import Balancer
from tests.support.manager import recount
from tests.support.processes import EXOTRIO, KEY, Process, Processes

RUNS, DEPTH = 30, 3


class Step(BaseNode):
    class Inputs(BaseModel):
        left: int

    class Outputs(BaseModel):
        left: int
        more: bool

    async def execute(self) -> Outputs:
        left = self.inputs.left - 1
        return self.Outputs(left=left, more=left > 0)


def nested() -> Graph:
    """Return a graph that runs itself, below each run another one, ``DEPTH`` of them."""
    graph = Graph("nested", namespace="shop")
    step = graph.add(Step, left=graph.store("left", default=DEPTH))
    again = graph.add(graph, left=step.left, when=step.more)
    graph.output("left", again.left, step.left)
    return graph


def runs_by_depth(view: View) -> dict[int, int]:
    rows = view.execute("SELECT depth, count(*) AS number FROM runs GROUP BY depth ORDER BY depth")
    return {row["depth"]: row["number"] for row in rows}


async def test_a_killed_state_manager_neither_loses_nor_repeats_a_run_of_a_state(tmp_path: Path) -> None:
    with postgres.database() as database, Processes() as processes:
        command = [*EXOTRIO, "server", "--port", "0", "--key", KEY, "--db", database.url]
        servers = [processes.enter_context(Process(command, cwd=tmp_path)) for _ in range(3)]
        ports = [urlsplit(server.line(r"serving .* on (http://[^\s\"]+)")[1]).port or 0 for server in servers]
        balancer = Balancer(*ports)
        async with trio.open_nursery() as nursery:
            await nursery.start(balancer.serve)
            runtime = Runtime("shop", "steps", [Step], balancer.uri, KEY, poll_interval=0.05)
            async with StateManager("shop", balancer.uri, KEY) as client, trio.open_nursery() as work:
                await work.start(runtime.run)
                await client.upsert_graph(nested())
                run_ids = [(await client.trigger("nested", key=str(n)))["run_id"] for n in range(RUNS // 2)]
                servers[0].signal(signal.SIGKILL)
                balancer.ports.remove(ports[0])
                run_ids += [
                    (await client.trigger("nested", key=str(n)))["run_id"] for n in range(RUNS // 2, RUNS)
                ]
                for run_id in run_ids:
                    assert (await client.wait(run_id, timeout=90)).status is RunStatus.SUCCESS
                    assert await client.outputs(run_id, "step") == [{"left": str(DEPTH - 1), "more": "true"}]
                runtime.stop()
            nursery.cancel_scope.cancel()
        async with open_store(database.url) as store:
            assert await store.read(runs_by_depth) == dict.fromkeys(range(DEPTH), RUNS)
            await store.read(recount)
