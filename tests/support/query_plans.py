"""What SQLite does for a statement: its plan, and how many steps it takes."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable
from typing import Any

from exotrio.manager.store.port import Store

# Tables that stay small (nodes, graphs, managers) or have a maximum of rows (from workers on), the numbers a
# request brings along, what an inner SELECT found (waiting), and the first of what is to be cleared away.
MAY_BE_SCANNED = re.compile(
    r"SCAN (json_each|meta|nodes|graphs|managers|discarded|waiting|CONSTANT ROW"
    r"|workers|v0_runtimes|sessions|sign_in_links|wrong_keys)"
)


async def connection_of(store: Store) -> sqlite3.Connection:
    """Return the connection underneath, to watch what SQLite does."""
    return await store.write(lambda tx: tx._connection)


def refuses_scans(plans: dict[str, list[str]]) -> dict[str, list[str]]:
    return {
        sql: plan
        for sql, plan in plans.items()
        if any(line.startswith("SCAN") and not MAY_BE_SCANNED.match(line) for line in plan)
    }


def plans_of(connection: sqlite3.Connection, statements: set[str]) -> dict[str, list[str]]:
    return {
        sql: [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {sql}")]
        for sql in sorted(statements)
        if sql.startswith(("SELECT", "UPDATE", "DELETE"))
    }


async def steps_of(store: Store, act: Callable[[], Any]) -> int:
    """Count, in hundreds, the steps of SQLite's machine."""
    steps = 0

    def count() -> None:
        nonlocal steps
        steps += 1

    connection = await connection_of(store)
    connection.set_progress_handler(count, 100)
    await act()
    connection.set_progress_handler(None, 0)
    return steps
