"""What tests of a store use on every engine: new databases, use cases, and waiting for threads."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import trio
import trio.testing

from exotrio import DatabaseError
from exotrio.manager.store.base import Store
from exotrio.manager.store.effects import Effects, Topic, WithEffects
from exotrio.manager.store.transaction import Transaction
from exotrio.manager.store.view import View
from tests.support import postgres

ENGINES = ("memory", "file", "postgres")
IN_THREADS = ENGINES[1:]
"""For what holds up a use case: in memory it runs in the calling task."""
TEST_TIMEOUT = 60.0
"""Seconds until a test gives up. Nothing is ever expected to take that long."""


def new_database(engine: str, folder: Path, stack: ExitStack) -> str:
    """Return what ``open_store`` takes for a new database, which goes with the stack or the folder."""
    if engine == "postgres":
        return stack.enter_context(postgres.database()).url
    return ":memory:" if engine == "memory" else str(folder / "state.db")


async def until(is_so: Callable[[], object]) -> None:
    """Wait for something that threads bring about; ask the more seldom, the longer it takes."""
    began = trio.current_time()
    with trio.fail_after(TEST_TIMEOUT):
        while not is_so():  # noqa: ASYNC110 - no event says so
            await trio.sleep(max(0.001, (trio.current_time() - began) / 10))


# -- use cases and queries: keys of an unknown run


PUT_KEYS = "SELECT key FROM store WHERE run = 0 ORDER BY key"


def put(tx: Transaction, key: str, value: str = "") -> str:
    tx.execute("INSERT INTO store (run, key, value) VALUES (0, ?, ?)", (key, value))
    return key


def put_graph(tx: Transaction) -> None:
    """Store a graph with the number 1, so that something can be counted for it."""
    tx.execute(
        "INSERT INTO graphs (id, namespace, name, template, created_at, updated_at)"
        " VALUES (1, 'n', 'g', 1, 0, 0)"
    )


def put_and_fail(tx: Transaction, key: str) -> None:
    put(tx, key)
    raise ZeroDivisionError(key)


def get(view: View, key: str) -> str | None:
    row = view.row("SELECT value FROM store WHERE run = 0 AND key = ?", (key,))
    return None if row is None else str(row["value"])


def keys(view: View) -> list[str]:
    return [row["key"] for row in view.execute(PUT_KEYS)]


def remove(tx: Transaction, key: str) -> int:
    return tx.execute("DELETE FROM store WHERE run = 0 AND key = ?", (key,)).rowcount


def announce(tx: Transaction, *topics: Topic) -> WithEffects[None]:
    return WithEffects(None, Effects(announced={*topics}))


# -- use cases that wait


class Waiter:
    """A use case that waits in a separate task for an item to take away."""

    def __init__(
        self,
        nursery: trio.Nursery,
        store: Store,
        *,
        topics: dict[Topic, float] | None = None,
        max_wait: float = 60,
        before: Callable[[int], object] = lambda looks: None,
    ) -> None:
        self.looks: list[bool] = []
        self.taken_item: str | None = None
        self.error: Exception | None = None
        self.scope = trio.CancelScope()
        self.ended = trio.Event()
        self._topics: dict[Topic, float] = {1: math.inf} if topics is None else topics
        self._before = before
        nursery.start_soon(self._run, store, max_wait)

    @property
    def has_looked(self) -> bool:
        return bool(self.looks)

    async def _run(self, store: Store, max_wait: float) -> None:
        with self.scope:
            try:
                self.taken_item = await store.write_once_ready(max_wait, self._take)
            except DatabaseError as error:
                self.error = error
        self.ended.set()

    def _take(self, tx: Transaction) -> WithEffects[str | None]:
        items = [key for key in keys(tx) if key.startswith("item")]
        self.looks.append(tx.waited)
        self._before(len(self.looks))
        for key in items:
            if remove(tx, key):
                return WithEffects(key, Effects(undo=partial(put_item, key=f"{key} put back")))
        return WithEffects(None, Effects(waits_for=self._topics))


def put_item(tx: Transaction, key: str = "item", *topics: Topic) -> WithEffects[None]:
    put(tx, key)
    return announce(tx, *(topics or (1,)))


async def waiting(nursery: trio.Nursery, store: Store, **options: Any) -> Waiter:
    """Return one that has looked in vain, and waits."""
    waiter = Waiter(nursery, store, **options)
    await until(lambda: waiter.has_looked)
    await trio.testing.wait_all_tasks_blocked()
    return waiter
