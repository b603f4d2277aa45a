"""What every test of a store needs, whichever engine it is on: use cases of the tests' own, and patience."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import trio

from exotrio.manager.store.port import Transaction, View
from tests.support import postgres

ENGINES = ("memory", "file", "postgres")
IN_THREADS = ENGINES[1:]
"""For what holds up a use case: in memory it runs in the calling task."""
PATIENCE = 60.0
"""Seconds until a test gives up. Nothing is ever expected to take that long."""


def new_database(engine: str, folder: Path, stack: ExitStack) -> str:
    """Return what ``open_store`` takes for a new database, which goes with the stack or the folder."""
    if engine == "postgres":
        return stack.enter_context(postgres.database()).url
    return ":memory:" if engine == "memory" else str(folder / "state.db")


async def until(is_so: Callable[[], object]) -> None:
    """Wait for something that threads bring about."""
    with trio.fail_after(PATIENCE):
        while not is_so():  # noqa: ASYNC110 - no event says so
            await trio.sleep(0.001)


# -- use cases and queries: keys of a run that there is not


def put(tx: Transaction, key: str, value: str = "") -> str:
    tx.execute("INSERT INTO store (run, key, value) VALUES (0, ?, ?)", (key, value))
    return key


def put_and_fail(tx: Transaction, key: str) -> None:
    put(tx, key)
    raise ZeroDivisionError(key)


def get(view: View, key: str) -> str | None:
    row = view.row("SELECT value FROM store WHERE run = 0 AND key = ?", (key,))
    return None if row is None else str(row["value"])


def keys(view: View) -> list[str]:
    return [row["key"] for row in view.execute("SELECT key FROM store WHERE run = 0 ORDER BY key")]


def remove(tx: Transaction, key: str) -> int:
    return tx.execute("DELETE FROM store WHERE run = 0 AND key = ?", (key,)).rowcount


def announce(tx: Transaction, *topics: int | str | tuple[int, int]) -> None:
    tx.ready.update(topics)
