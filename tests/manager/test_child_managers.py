"""Three state managers start the runs of states, or those that follow failed ones, and one is killed: each is
started once, none is lost."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import trio
from pydantic import BaseModel

from exotrio import BaseNode, Graph, RetryPolicyModel, Runtime, StateManager
from exotrio.client import RunStatus
from exotrio.manager.store.opening import open_store
from exotrio.manager.store.view import View
from tests.support import postgres
from tests.support.balancer import Balancer
from tests.support.helpers import eventually
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


def runs_by_graph(view: View) -> dict[str, int]:
    rows = view.execute(
        "SELECT name, count(*) AS number FROM runs JOIN graphs ON graphs.id = runs.graph GROUP BY name"
    )
    return {row["name"]: row["number"] for row in rows}


class Fail(BaseNode):
    class Inputs(BaseModel):
        number: str

    async def execute(self) -> None:
        raise ValueError(f"number {self.inputs.number}")


class Tell(BaseNode):
    class Inputs(BaseModel):
        run: str
        error: str

    class Outputs(BaseModel):
        told: str

    async def execute(self) -> Outputs:
        return self.Outputs(told=f"{self.inputs.run} {self.inputs.error}")


def failing() -> Graph:
    """Return a graph whose runs fail, which starts runs of another one."""
    alert = Graph("alert", namespace="shop")
    alert.add(Tell, run=alert.store("run"), error=alert.store("error"))
    graph = Graph("failing", namespace="shop", on_failure=alert, retry_policy=RetryPolicyModel(max_retries=0))
    graph.add(Fail, number=graph.store("number"))
    return graph


@asynccontextmanager
async def three_managers(
    tmp_path: Path, database: str, *nodes: type[BaseNode]
) -> AsyncIterator[tuple[StateManager, Callable[[], None]]]:
    """Run three state managers and a runtime; yield a client, and what kills one of the three."""
    with Processes() as processes:
        command = [*EXOTRIO, "server", "--port", "0", "--key", KEY, "--db", database]
        servers = [processes.enter_context(Process(command, cwd=tmp_path)) for _ in range(3)]
        ports = [urlsplit(server.line(r"serving .* on (http://[^\s\"]+)")[1]).port or 0 for server in servers]
        balancer = Balancer(*ports)

        def kill() -> None:
            servers[0].signal(signal.SIGKILL)
            balancer.ports.remove(ports[0])

        async with trio.open_nursery() as nursery:
            await nursery.start(balancer.serve)
            runtime = Runtime("shop", "steps", nodes, balancer.uri, KEY, poll_interval=0.05)
            async with StateManager("shop", balancer.uri, KEY) as client, trio.open_nursery() as work:
                await work.start(runtime.run)
                yield client, kill
                runtime.stop()
            nursery.cancel_scope.cancel()


async def test_a_killed_state_manager_neither_loses_nor_repeats_a_run_of_a_state(tmp_path: Path) -> None:
    with postgres.database() as database:
        async with three_managers(tmp_path, database.url, Step) as (client, kill):
            await client.upsert_graph(nested())
            run_ids = [(await client.trigger("nested", key=str(n)))["run_id"] for n in range(RUNS // 2)]
            kill()
            run_ids += [
                (await client.trigger("nested", key=str(n)))["run_id"] for n in range(RUNS // 2, RUNS)
            ]
            for run_id in run_ids:
                assert (await client.wait(run_id, timeout=90)).status is RunStatus.SUCCESS
                assert await client.outputs(run_id, "step") == [{"left": str(DEPTH - 1), "more": "true"}]
        async with open_store(database.url) as store:
            assert await store.read(runs_by_depth) == dict.fromkeys(range(DEPTH), RUNS)
            await store.read(recount)


async def test_a_killed_state_manager_neither_loses_nor_repeats_a_run_that_follows_a_failed_one(
    tmp_path: Path,
) -> None:
    with postgres.database() as database:
        async with three_managers(tmp_path, database.url, Fail, Tell) as (client, kill):
            graph = failing()
            for each in (*graph.named_graphs(), graph):
                await client.upsert_graph(each)
            failed = [await trigger_failing(client, n) for n in range(RUNS // 2)]
            kill()
            failed += [await trigger_failing(client, n) for n in range(RUNS // 2, RUNS)]
            for number, run_id in enumerate(failed):
                assert (await client.wait(run_id, timeout=90)).status is RunStatus.FAILED
                alert = await alert_of(client, run_id)
                assert (await client.wait(alert, timeout=90)).status is RunStatus.SUCCESS
                (outputs,) = await client.outputs(alert, "tell")
                told = outputs["told"]
                assert told.startswith(f"{run_id} ")
                assert told.endswith(f"ValueError: number {number}")
        async with open_store(database.url) as store:
            assert await store.read(runs_by_graph) == {"alert": RUNS, "failing": RUNS}
            await store.read(recount)


async def trigger_failing(client: StateManager, number: int) -> str:
    run_id: str = (await client.trigger("failing", key=str(number), store={"number": str(number)}))["run_id"]
    return run_id


async def alert_of(client: StateManager, run_id: str) -> str:
    """Return the run that follows a failed one, once it is started."""

    async def started() -> str:
        children = (await client.status(run_id)).children
        assert [child.graph_name for child in children] == ["alert"]
        return str(children[0].run_id)

    return await eventually(started, within=60)
