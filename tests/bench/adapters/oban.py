"""Oban for Python, the open-source part: jobs are rows of PostgreSQL that stay, and so do recorded results.

As its documentation has it: a pool of psycopg, a worker class, ``enqueue_many``. Joins and bulk
acknowledgements are parts of Oban Pro, which is not measured: a table of the application counts.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Any

from oban import Oban, Record, worker
from oban.schema import install

from tests.bench.adapters import Adapter

LIMIT = 10
TUNED = 100
"""Jobs at once: what its documentation begins with, and for throughput."""
TABLES = (
    "CREATE TABLE parts (tag text, part int, result text, PRIMARY KEY (tag, part))",
    "CREATE TABLE fans (tag text PRIMARY KEY, missing int)",
)
RECORD = """
WITH part AS (INSERT INTO parts VALUES (%(tag)s, %(part)s, 'result') ON CONFLICT DO NOTHING RETURNING 1)
INSERT INTO fans SELECT %(tag)s, %(size)s - 1 FROM part
ON CONFLICT (tag) DO UPDATE SET missing = fans.missing - 1 RETURNING missing
"""


@worker(queue="default")
class Job:
    system: Adapter
    new: Any

    async def process(self, job: Any) -> Any:
        return Record(await self.system.perform(job.args["text"]))


class System(Adapter):
    backend_options = {"use_uvloop": True}
    version = version("oban")

    async def install(self) -> None:
        pool = await Oban.create_pool(self.address)
        await install(pool)
        async with pool.connection() as connection:
            for statement in TABLES:
                await connection.execute(statement)
        await pool.close()

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[None]:
        Job.system = self
        self._pool = await Oban.create_pool(self.address)
        self._client = Oban(pool=self._pool)
        yield
        await self._pool.close()

    @asynccontextmanager
    async def working(self) -> AsyncIterator[None]:
        limit = self.workers or (TUNED if self.tuned else LIMIT)
        async with Oban(pool=self._pool, queues={"default": limit}, shutdown_grace_period=3):
            yield

    async def submit(self, payloads: Sequence[str]) -> None:
        await self._client.enqueue_many([Job.new({"text": payload}) for payload in payloads])

    async def record(self, tag: str, size: int, part: int) -> bool:
        async with self._pool.connection() as connection:
            row = await connection.execute(RECORD, {"tag": tag, "size": size, "part": part})
            missing = await row.fetchone()
            return missing is not None and missing[0] == 0
