"""A schedule is due while all goes on: each time starts one run, whatever is killed meanwhile.

Its next time is a year away. A statement makes it due, and counts that in the same transaction, so that it is
known how many runs there must be. Their node waits: no runtime has it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import psycopg
import trio

from exotrio import CronTrigger, Graph, GraphNodeModel, ManagerError, StateManager
from tests.support.helpers import open_client
from tests.support.postgres import Database
from tests.support.processes import KEY

NAMESPACE = "schedule"
"""Not that of the other runs, which all end."""
YEARLY = "yearly"
_TICK = GraphNodeModel(node_name="Tick", namespace=NAMESPACE, identifier="tick")
_NODES = [{"name": "Tick", "inputs_schema": {}, "outputs_schema": {}, "secrets": []}]
_NOW = "(extract(epoch FROM clock_timestamp()) * 1000)::bigint"
_MAKE_DUE = (
    f"WITH made AS (UPDATE cron_triggers SET next_at = {_NOW} WHERE next_at > {_NOW} RETURNING next_at)"
    " INSERT INTO came_due SELECT next_at FROM made"
)

Ask = Callable[[Callable[[StateManager], Awaitable[Any]], str], Awaitable[Any]]
"""Ask a state manager something, in this namespace, until it answers."""


@dataclass(slots=True)
class Schedule:
    """A graph with a schedule, on a database that state managers at these ports share.

    Attributes:
        started: Runs that it started.
        problems: What was started twice, or not at all.
    """

    ask: Ask
    database: Database
    ports: Sequence[int]
    started: int = 0
    problems: list[str] = field(default_factory=list)

    async def declare(self) -> None:
        """Register the node, and store the graph."""
        uri = f"http://127.0.0.1:{self.ports[0]}"
        async with open_client(url=uri, key=KEY) as client:
            body = {"runtime_name": "none", "nodes": _NODES}
            (await client.put(f"/v0/namespace/{NAMESPACE}/nodes", json=body)).raise_for_status()
        yearly = Graph(YEARLY, nodes=[_TICK], triggers=[CronTrigger(expression="0 0 1 1 *")])
        await self.ask(lambda manager: manager.upsert_graph(yearly), NAMESPACE)
        self.database.execute("CREATE TABLE came_due (at bigint)")

    async def make_due(self) -> None:
        """Make it due, unless it is, and have all state managers look at once."""
        with suppress(psycopg.OperationalError):  # it has crashed; what it counted is what happened
            await trio.to_thread.run_sync(self.database.execute, _MAKE_DUE)
        await self._read_schedules()

    async def check(self) -> None:
        """Wait until nothing is due, and compare what there is with what came due."""
        due = f"SELECT count(*) FROM cron_triggers WHERE next_at <= {_NOW}"
        with trio.move_on_after(30):
            while self.database.execute(due) != [(0,)]:
                await self._read_schedules()
                await trio.sleep(0.2)
        ((expected,),) = self.database.execute("SELECT count(*) FROM came_due")
        self.started = (await self.ask(lambda manager: manager.runs(1, 1), NAMESPACE)).total
        if self.started != expected:
            self.problems.append(f"a schedule came due {expected} times and started {self.started} runs")

    async def _read_schedules(self) -> None:
        """Have every state manager read the schedules, which one does when a graph is stored there."""
        async with trio.open_nursery() as nursery:
            for port in self.ports:
                nursery.start_soon(self._store_a_graph, port)

    async def _store_a_graph(self, port: int) -> None:
        # One that is away, or suspended, looks when it is back.
        with suppress(ManagerError), trio.move_on_after(2):
            async with StateManager(NAMESPACE, f"http://127.0.0.1:{port}", KEY) as manager:
                await manager.upsert_graph(Graph(f"other {port}", nodes=[_TICK]))
