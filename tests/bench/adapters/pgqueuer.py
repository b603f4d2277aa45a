"""PgQueuer: jobs are rows of PostgreSQL, deleted when they have run; it stores no results.

As its documentation has it: an asyncpg pool and uvloop, ``enqueue`` with lists, and a worker that starts
again after a failure (``pgq run --restart-on-failure``). It has no joins: a table of the application counts.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from importlib.metadata import version

import asyncpg
import pgqueuer
from pgqueuer import AsyncpgDriver, PgQueuer, Queries

from tests.bench.adapters import Adapter

BATCH = 10
TUNED = 100
"""Jobs that are taken, and whose ends are stored, at once: the default, and for throughput."""
TABLES = """
CREATE TABLE parts (tag text, part int, result text, PRIMARY KEY (tag, part));
CREATE TABLE fans (tag text PRIMARY KEY, missing int)
"""
RECORD = """
WITH part AS (INSERT INTO parts VALUES ($1, $3, 'result') ON CONFLICT DO NOTHING RETURNING 1)
INSERT INTO fans SELECT $1, $2 - 1 FROM part
ON CONFLICT (tag) DO UPDATE SET missing = fans.missing - 1 RETURNING missing
"""


class System(Adapter):
    backend_options = {"use_uvloop": True}
    version = version("pgqueuer")

    async def install(self) -> None:
        connection = await asyncpg.connect(self.address)
        await Queries(AsyncpgDriver(connection)).install()
        await connection.execute(TABLES)
        await connection.close()

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[None]:
        async with asyncpg.create_pool(self.address) as self._pool:
            self._queries = Queries.from_asyncpg_pool(self._pool)
            yield

    @asynccontextmanager
    async def working(self) -> AsyncIterator[None]:
        batch, limit = TUNED if self.tuned else BATCH, None
        if self.workers is not None:
            # At least two batches have to fit into the limit.
            batch, limit = max(1, min(batch, self.workers // 2)), self.workers
        shutdown = asyncio.Event()
        worker = asyncio.create_task(
            pgqueuer.run(
                self._make,
                batch_size=batch,
                max_concurrent_tasks=limit,
                restart_on_failure=True,
                restart_delay=timedelta(seconds=1),
                shutdown=shutdown,
            )
        )
        yield
        shutdown.set()
        await worker

    @asynccontextmanager
    async def _make(self) -> AsyncIterator[PgQueuer]:
        queue = PgQueuer.from_asyncpg_pool(self._pool)

        async def perform(job: pgqueuer.Job) -> None:
            await self.perform(job.payload.decode())

        queue.entrypoint("job")(perform)
        yield queue

    async def submit(self, payloads: Sequence[str]) -> None:
        count = len(payloads)
        await self._queries.enqueue(["job"] * count, [text.encode() for text in payloads], [0] * count)

    async def record(self, tag: str, size: int, part: int) -> bool:
        return await self._pool.fetchval(RECORD, tag, size, part) == 0
