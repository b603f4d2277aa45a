"""DBOS: a job is a workflow on PostgreSQL; a fan-out is a workflow with children, a chain one with steps.

As its documentation has it: async workflows, a registered queue for many of them, and
``start_workflow_async`` for a single one, which begins at once in this process. It has no call that stores
many.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from importlib.metadata import version

import anyio
from dbos import DBOS

from tests.bench.adapters import Adapter

QUEUE = "jobs"
AT_ONCE = 32
"""Tasks that submit."""


class Current:
    """The system of this process: workflows are functions of their module."""

    system: Adapter
    loop: asyncio.AbstractEventLoop


async def _perform(text: str) -> str:
    """Perform a payload in the loop of the process: DBOS runs what it takes from a queue in another one."""
    future = asyncio.run_coroutine_threadsafe(_perform_here(text), Current.loop)
    return await asyncio.wrap_future(future)


async def _perform_here(text: str) -> str:
    return await Current.system.perform(text)


@DBOS.workflow()
async def job(text):
    return await _perform(text)


@DBOS.step()
async def link(text):
    return await _perform(text)


@DBOS.workflow()
async def links(text, length):
    for _ in range(length):
        text = await link(text)


@DBOS.workflow()
async def fan(tag, size):
    names = [f"unit {tag} {number}" for number in range(size)]
    handles = [await DBOS.enqueue_workflow_async(QUEUE, job, name) for name in names]
    for handle in handles:
        await handle.get_result()
    await link(f"joined {tag}")


class System(Adapter):
    version = version("dbos")

    async def install(self) -> None:
        async with self.connected():
            pass

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[None]:
        Current.system, Current.loop = self, asyncio.get_running_loop()
        DBOS(config={"name": "bench", "application_version": "1", "system_database_url": self.address})
        # It works from its launch on, in the background; before that, it takes no jobs.
        await asyncio.to_thread(DBOS.launch)
        yield
        await asyncio.to_thread(DBOS.destroy, workflow_completion_timeout_sec=3)

    @asynccontextmanager
    async def working(self) -> AsyncIterator[None]:
        await DBOS.register_queue_async(QUEUE, worker_concurrency=self.workers)
        yield

    async def submit(self, payloads: Sequence[str]) -> None:
        if len(payloads) == 1:
            await DBOS.start_workflow_async(job, payloads[0])
            return
        texts = iter(payloads)

        async def enqueue() -> None:
            for text in texts:
                await DBOS.enqueue_workflow_async(QUEUE, job, text)

        async with anyio.create_task_group() as tasks:
            for _ in range(AT_ONCE):
                tasks.start_soon(enqueue)

    async def fan_out(self, tag: str, size: int) -> None:
        await DBOS.start_workflow_async(fan, tag, size)

    async def chain(self, tag: str, length: int) -> None:
        await DBOS.start_workflow_async(links, f"link {tag}", length)
