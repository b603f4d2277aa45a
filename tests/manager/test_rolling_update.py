"""A rolling update: state managers of a release and of the next one serve the same load on one database."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import trio
from pydantic import BaseModel

from exotrio import BaseNode, Graph, GraphNodeModel, Runtime, StateManager
from exotrio.client import RunStatus
from exotrio.manager.store.opening import open_store
from exotrio.manager.store.schema import VERSION
from tests.support import postgres
from tests.support.balancer import Balancer
from tests.support.manager import recount
from tests.support.postgres import Database
from tests.support.processes import EXOTRIO, KEY, Process, Processes
from tests.support.stores import until

LATER = (sys.executable, "-m", "tests.support.later_release")
NAMESPACE = "rolling"
PACE = 0.1
"""Seconds between two runs, to leave the processor to those that start."""


class Step(BaseNode):
    class Inputs(BaseModel):
        pass

    class Outputs(BaseModel):
        pass

    async def execute(self) -> Outputs:
        return self.Outputs()


GRAPH = Graph(
    "chain",
    nodes=[
        GraphNodeModel(node_name="Step", namespace=NAMESPACE, identifier="a", next_nodes=["b"]),
        GraphNodeModel(node_name="Step", namespace=NAMESPACE, identifier="b"),
    ],
)


def started(program: tuple[str, ...], database: Database, folder: Path) -> Process:
    command = [*program, "server", "--port", "0", "--key", KEY, "--db", database.url]
    return Process(command, cwd=folder)


def port_of(process: Process) -> int:
    port = urlsplit(process.line(r"serving .* on (http://[^\s\"]+)")[1]).port
    assert port is not None
    return port


class Load:
    """Runs that are triggered, and what is looked at, until the test stops them."""

    def __init__(self, client: StateManager) -> None:
        self._client = client
        self.run_ids: list[str] = []
        self.enough = False

    async def trigger(self) -> None:
        while not self.enough:
            self.run_ids.append((await self._client.trigger("chain"))["run_id"])
            await trio.sleep(PACE)

    async def read_pages(self) -> None:
        while not self.enough:
            await self._client.nodes()
            await self._client.workers()
            await trio.sleep(PACE)

    async def more(self) -> None:
        """Wait until some more were triggered, and have ended."""
        count = len(self.run_ids) + 3
        await until(lambda: len(self.run_ids) >= count)
        assert (await self._client.wait(self.run_ids[-1], timeout=60)).status is RunStatus.SUCCESS


async def test_no_request_fails_and_nothing_is_lost_while_managers_are_replaced_by_the_next_release(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with postgres.empty_database() as database, Processes() as processes:
        old = [processes.enter_context(started(EXOTRIO, database, tmp_path)) for _ in range(2)]
        async with trio.open_nursery() as nursery:
            balancer = Balancer(*[await trio.to_thread.run_sync(port_of, process) for process in old])
            await nursery.start(balancer.serve)
            runtime = Runtime(NAMESPACE, "steps", [Step], balancer.uri, KEY, poll_interval=0.05)
            async with StateManager(NAMESPACE, balancer.uri, KEY) as client, trio.open_nursery() as work:
                load = Load(client)
                await work.start(runtime.run)
                await client.upsert_graph(GRAPH)
                work.start_soon(load.trigger)
                work.start_soon(load.read_pages)
                for process in old:
                    new = processes.enter_context(started(LATER, database, tmp_path))
                    balancer.ports.insert(0, await trio.to_thread.run_sync(port_of, new))
                    await load.more()
                    process.signal(signal.SIGTERM)
                    end = await trio.to_thread.run_sync(process.wait)
                    assert end.code == 0, end
                    assert "ERROR" not in end.err, end
                    await load.more()
                load.enough = True
                for run_id in load.run_ids:
                    assert (await client.wait(run_id, timeout=60)).status is RunStatus.SUCCESS
                checkup = await client.checkup()
                runtime.stop()
            nursery.cancel_scope.cancel()
        assert balancer.failures == []
        assert len(balancer.served) == 4
        assert checkup.database is not None
        assert checkup.database.schema_version == VERSION + 1
        assert checkup.database.postgres is not None
        known = [manager.schema_version for manager in checkup.database.postgres.managers]
        assert known == [VERSION + 1] * 2
        assert runtime.summary.completed == 2 * len(load.run_ids)
        async with open_store(database.url) as store:
            await store.read(recount)
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []
