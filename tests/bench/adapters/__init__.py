"""Systems that run jobs, each behind the same few methods, so that all are measured by the same code.

An adapter is a module of this folder with a class ``System``. It runs in the environment of its system, in
one process that submits jobs and works on them:

    python -m tests.bench.adapters NAME arena|figures|victim ...

So nothing here may import what is not installed there: the standard library, anyio, and the system itself.
``measuring`` has the figures of the table, ``arena`` obeys the harness of ``tests.bench.arena``.

A payload is a text whose first word says what the job does (``jobs``); a system only has to carry it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, ClassVar

Perform = Callable[[str], Awaitable[str]]
"""What a job does with its payload; what it returns is the result, where the system stores results."""


class Adapter(ABC):
    """A system at an address.

    Args:
        address: Where it stores its jobs.
        perform: What each job calls.
        workers: Maximum number of jobs at once, or None: what the system has by default.
        tuned: Whether to use the settings for throughput that its documentation offers.
    """

    backend: ClassVar[str] = "asyncio"
    backend_options: ClassVar[dict[str, Any]] = {}
    version: ClassVar[str]

    def __init__(self, address: str, perform: Perform, *, workers: int | None, tuned: bool) -> None:
        self.address = address
        self.perform = perform
        self.workers = workers
        self.tuned = tuned

    @abstractmethod
    async def install(self) -> None:
        """Make what it needs at an empty address."""

    @abstractmethod
    def connected(self) -> AbstractAsyncContextManager[None]:
        """Let the block submit jobs."""

    @abstractmethod
    def working(self) -> AbstractAsyncContextManager[None]:
        """Run jobs during the block, inside ``connected``; those that run at its end may finish."""

    @abstractmethod
    async def submit(self, payloads: Sequence[str]) -> None:
        """Store jobs, by one call if the system has one, and return when they are durable."""

    async def fan_out(self, tag: str, size: int) -> None:
        """Have a job start ``size`` jobs, and another one run after them that gets all their results.

        That last job performs ``joined TAG``. Most systems leave the join to the application: then each part
        stores its result in a table of the application, and the last one submits the job that joins.
        """
        await self.submit([f"fan {tag} {size}"])

    async def chain(self, tag: str, length: int) -> None:
        """Run jobs one after the other, each of which gets what the one before it returned.

        Each performs ``link TAG``. By default the one that ends submits the next one.
        """
        await self.submit([f"chain {tag} {length}"])

    async def record(self, tag: str, size: int, part: int) -> bool:
        """Store the result of a part of a fan-out; return whether it is the last one.

        Only for systems that leave the join to the application.
        """
        raise NotImplementedError
