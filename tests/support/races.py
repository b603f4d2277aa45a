"""Two state managers on one PostgreSQL; the first can be held up between its reading and its writing."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, cast

import pytest
import trio

from exotrio.manager.store.base import Store
from exotrio.manager.store.transaction import Transaction
from tests.contract.flow import Flow
from tests.contract.native import report
from tests.support import postgres
from tests.support.helpers import eventually
from tests.support.manager import Gate, Manager, apis_of, gate, open_manager, recount
from tests.support.stores import until

Call = Callable[[Manager], Awaitable[Any]]
WRITES = ("INSERT", "UPDATE", "DELETE")
TOO_EARLY = "UPDATE meta SET"
"""What a use case writes before it has read: which state managers may work next to it."""


class _HeldUp:
    """A transaction that waits at the gate before it writes for the first time: it has read, and decided."""

    def __init__(self, tx: Transaction, gate: Gate) -> None:
        self._tx = tx
        self._gate = gate

    def __getattr__(self, name: str) -> Any:
        if name in ("insert", "update", "executemany"):
            self._hold()
        return getattr(self._tx, name)

    def execute(self, sql: str, parameters: tuple[Any, ...] = ()) -> Any:
        if sql.startswith(WRITES) and not sql.startswith(TOO_EARLY):
            self._hold()
        return self._tx.execute(sql, parameters)

    def _hold(self) -> None:
        # What was to be read is sent by now, and the locks are taken: statements wait for the next result.
        self._tx.execute("SELECT 1").fetchone()
        self._gate.hold()


class _StoreHeldUp:
    """A store whose use cases are held up."""

    def __init__(self, store: Store, gate: Gate) -> None:
        self._store = store
        self._gate = gate

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def write(self, use_case: Any, *args: Any, **kwargs: Any) -> Any:
        return await self._store.write(partial(self._run, use_case), *args, **kwargs)

    async def write_as(self, caller: Any, use_case: Any, *args: Any, **kwargs: Any) -> Any:
        return await self._store.write_as(caller, partial(self._run, use_case), *args, **kwargs)

    async def write_once_ready(self, max_wait: float, use_case: Any, *args: Any, **kwargs: Any) -> Any:
        return await self._store.write_once_ready(max_wait, partial(self._run, use_case), *args, **kwargs)

    def _run(self, use_case: Any, tx: Transaction, *args: Any, **kwargs: Any) -> Any:
        return use_case(_HeldUp(tx, self._gate), *args, **kwargs)


@dataclass(frozen=True)
class Pair:
    """Two state managers on one database."""

    database: postgres.Database
    first: Manager
    second: Manager

    async def race(self, held_up: Call, other: Call) -> tuple[Any, Any]:
        """Make two calls at once and return their results.

        The first one, at the first state manager, has read and waits to write until the other has ended or
        waits for a lock in the database.
        """
        results: dict[str, Any] = {}

        async def call(name: str, of: Call, manager: Manager) -> None:
            results[name] = await of(manager)

        with gate() as closed:
            service = replace(
                self.first.service, store=cast(Store, _StoreHeldUp(self.first.service.store, closed))
            )
            async with apis_of(service) as first, trio.open_nursery() as nursery:
                nursery.start_soon(call, "held up", held_up, first)
                await trio.to_thread.run_sync(closed.wait_entered)
                nursery.start_soon(call, "other", other, self.second)
                await until(lambda: "other" in results or self.database.blocked())
                closed.open()
        return results["held up"], results["other"]


@asynccontextmanager
async def open_pair(**options: Any) -> AsyncIterator[Pair]:
    with postgres.database() as database:
        async with (
            open_manager(database.url, schedules=False, **options) as first,
            open_manager(database.url, schedules=False, **options) as second,
        ):
            yield Pair(database, first, second)


in_both_orders = pytest.mark.parametrize("swapped", [False, True], ids=["", "swapped"])


async def check_sound(pair: Pair) -> None:
    """Check that every counter is what the states say, once nothing is left of deleted runs."""

    async def cleared() -> None:
        count = await pair.second.service.store.read(lambda view: view.row("SELECT count(*) FROM discarded"))
        assert count is not None
        assert count[0] == 0

    await eventually(cleared)
    await pair.second.service.store.read(recount)


async def race(pair: Pair, swapped: bool, one: Call, other: Call) -> tuple[Any, Any]:
    """Hold up one call, or the other one if swapped, and return their results."""
    if swapped:
        return tuple(reversed(await pair.race(other, one)))
    return await pair.race(one, other)


def cancelling(flow: Flow) -> Call:
    return lambda manager: manager.remote.native("POST", f"run/{flow.run_id}/cancel")


def reporting(*items: dict[str, Any]) -> Call:
    return lambda manager: report(manager.remote, *items)
