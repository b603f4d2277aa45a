"""streaQ: tasks are messages of a Redis stream, their results expire after five minutes.

As its documentation has it: ``enqueue_many``, a task that starts after others (``after``) for the join, and a
pipeline (``then``) for the chain. The join gets no results: to read one takes a subscription. It writes to
Valkey, which syncs its append-only file once a second.
"""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from importlib.metadata import version

import anyio
from streaq import Worker

from tests.bench.adapters import Adapter

TUNED = 64
"""Tasks at once, for throughput. The default is 16."""


class Tasks:
    """A worker, or a client of one: both need the tasks."""

    def __init__(self, worker: Worker[None], system: Adapter) -> None:
        self.worker = worker

        async def job(text: str) -> str:
            return await system.perform(text)

        async def fan(tag: str, size: int) -> None:
            parts = [self.job.enqueue(f"unit {tag} {number}") for number in range(size)]
            await worker.enqueue_many(parts)
            names = [part.id for part in parts]
            await self.join.enqueue(tag).start(after=names)

        async def join(tag: str) -> None:
            await system.perform(f"joined {tag}")

        self.job, self.fan, self.join = (worker.task(task) for task in (job, fan, join))


class System(Adapter):
    version = version("streaq")

    async def install(self) -> None:
        """Nothing: it makes what it needs at its start."""

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[None]:
        self._client = self._make()
        async with self._client.worker:
            yield

    @asynccontextmanager
    async def working(self) -> AsyncIterator[None]:
        async with anyio.create_task_group() as tasks:
            await tasks.start(self._make().worker.run_async)
            yield
            # The only stop that lets it acknowledge what has just run: cancelling closes its connection.
            os.kill(os.getpid(), signal.SIGTERM)

    def _make(self) -> Tasks:
        options = {"concurrency": self.workers or TUNED} if self.tuned or self.workers else {}
        return Tasks(Worker(redis_url=self.address, grace_period=3, **options), self)

    async def submit(self, payloads: Sequence[str]) -> None:
        await self._client.worker.enqueue_many([self._client.job.enqueue(text) for text in payloads])

    async def fan_out(self, tag: str, size: int) -> None:
        await self._client.fan.enqueue(tag, size)

    async def chain(self, tag: str, length: int) -> None:
        task = self._client.job.enqueue(f"link {tag}")
        for _ in range(length - 1):
            task = task.then(self._client.job)
        await task
