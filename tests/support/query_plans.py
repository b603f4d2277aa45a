"""What SQLite does for a statement: its plan, and how many steps it takes. And the plans of PostgreSQL."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import pytest

from exotrio.manager.store.base import Store
from exotrio.manager.store.postgres.connection import Connection
from exotrio.manager.store.postgres.server import Server
from exotrio.manager.store.postgres.translation import translate
from tests.support.postgres import Database

# Tables that stay small (nodes, graphs, managers) or have a maximum of rows (from workers on), the numbers a
# request brings along, what an inner SELECT found (waiting, scheduled, found, held, due), what is held, of
# which runtimes have no more than they can run, the first of what is to be cleared away, and what is noted
# for the task that handles the runs of states.
MAY_BE_SCANNED = re.compile(
    r"SCAN (json_each|meta|nodes|graphs|managers|discarded|waiting|scheduled|found|lanes|CONSTANT ROW"
    r"|workers|stops|v0_runtimes|sessions|sign_in_links|held"
    r"|states USING (COVERING )?INDEX states_held$"
    r"|children_to_cancel|due|runs USING (COVERING )?INDEX runs_to_deliver$"
    r"|alerts USING (COVERING )?INDEX alerts_due$)"
)


async def connection_of(store: Store) -> sqlite3.Connection:
    """Return the connection underneath, to watch what SQLite does."""
    connection: Any = await store.write(lambda tx: tx._connection)
    assert isinstance(connection, sqlite3.Connection)
    return connection


def refuses_scans(plans: dict[str, list[str]]) -> dict[str, list[str]]:
    return {
        sql: plan
        for sql, plan in plans.items()
        if any(line.startswith("SCAN") and not MAY_BE_SCANNED.match(line) for line in plan)
    }


@asynccontextmanager
async def planned(store: Store, part: str = "") -> AsyncIterator[dict[str, list[str]]]:
    """Give the plans of the statements that SQLite runs in the block, those with this part, at its end."""
    connection, statements = await connection_of(store), set[str]()
    plans: dict[str, list[str]] = {}
    connection.set_trace_callback(statements.add)
    yield plans
    connection.set_trace_callback(None)
    for sql in sorted(statements):
        if part in sql and sql.startswith(("SELECT", "WITH", "UPDATE", "DELETE")):
            plans[sql] = [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {sql}")]


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


# -- PostgreSQL

GROWING = re.compile(
    "states|runs|counts|events|trends|store|unite_counters|unite_members|claims|logs|idle_times|waiting_trends"
    "|checkpoints|slots|starts|mailbox"
)
_PLANNED = ("SELECT", "WITH", "INSERT", "UPDATE", "DELETE")
PARTIAL = re.compile(
    r"slots_to_check|states_(by_turn|aside|lanes|waiting|deadlines|held|failed|retried|united|manual)|runs_(finished|to_deliver)"
)
"""Indexes that most rows of their table are not in."""
HISTORY = """
INSERT INTO runs (id, run_id, namespace, graph, template, created_at, finished_at, success)
SELECT 1000 + n, 'past-' || n, 'namespace-' || n % 20, 1, 1, 1600000000000 + n, 1600000000000 + n, 10
FROM generate_series(1, 20000) AS n;
INSERT INTO states (seq, run, place, node_id, status, inputs, enqueue_after, created_at, updated_at,
claimed_at, finished_at)
SELECT 1000 + n, 1001 + n * 2 % 20000, n % 3, 1 + n % 3, 'SUCCESS', '{}', 0, 0, 0, 0, n
FROM generate_series(1, 10000) AS n;
INSERT INTO counts (run, place, success) SELECT 1000 + n, 0, 10 FROM generate_series(1, 20000) AS n;
INSERT INTO store (run, key, value) SELECT 1000 + n, 'k', 'v' FROM generate_series(1, 20000) AS n;
INSERT INTO events (id, state, at, kind) SELECT 1000 + n, 1000 + n, n, 'requeued'
FROM generate_series(1, 6000) AS n;
INSERT INTO logs (state, lines) SELECT 1000 + n, '[]' FROM generate_series(1, 6000) AS n;
INSERT INTO checkpoints (state, token, number, value, at) SELECT 1000 + n, '', 1, '1', n
FROM generate_series(1, 6000) AS n;
INSERT INTO trends SELECT 1 + n % 3, 1, n, n % 100, 'SUCCESS', n % 10, 1 FROM generate_series(1, 5000) AS n;
INSERT INTO waiting_trends SELECT 1 + n % 3, 1, n, 'waited', n % 10, 1 FROM generate_series(1, 5000) AS n;
INSERT INTO unite_counters (target_state, place) SELECT 1000 + n, 0 FROM generate_series(1, 6000) AS n;
INSERT INTO unite_members (target_state, place, path, state) SELECT 1000 + n, 0, '', n
FROM generate_series(1, 6000) AS n;
INSERT INTO mailbox (run, name, value, sent_at) SELECT 1000 + n, 'e', '{}', n
FROM generate_series(1, 6000) AS n;
INSERT INTO idle_times (run, since, until) SELECT 1000 + n, n, n + 1 FROM generate_series(1, 6000) AS n;
INSERT INTO claims (id, at) SELECT 'past-' || n, n FROM generate_series(1, 6000) AS n;
INSERT INTO slots (limit_id, key, state) SELECT 1000 + n % 50, n, 1000 + n FROM generate_series(1, 6000) AS n;
INSERT INTO starts (limit_id, key, slot, count) SELECT 1000 + n % 50, n, n, 1
FROM generate_series(1, 6000) AS n;
VACUUM ANALYZE
"""


@contextmanager
def watched_on_postgres() -> Iterator[set[str]]:
    """Give a set that gets the statements that reach PostgreSQL within the block."""
    seen: set[str] = set()
    execute = Connection.execute

    def watching(connection: Connection, sql: str, parameters: tuple[Any, ...] = ()) -> Any:
        # The types that the driver sends, as far as the statement does not say them.
        numbers = {number for number, each in enumerate(parameters, 1) if isinstance(each, int)}
        text = translate(sql).decode()
        seen.add(re.sub(r"\$(\d+)", lambda n: f"{n[0]}::bigint" if int(n[1]) in numbers else n[0], text))
        return execute(connection, sql, parameters)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Connection, "execute", watching)
        yield seen


def add_history(database: Database) -> None:
    """Let a database be one in which many runs have ended."""
    for statement in HISTORY.split(";"):
        database.execute(statement)


def scans_on_postgres(database: Database, statements: Iterable[str]) -> dict[str, list[str]]:
    """Return the statements that read a table that grows from one end to the other, and what they read.

    They are planned for any parameters.
    """
    planned = [sql for sql in sorted(statements) if sql.startswith(_PLANNED)]
    explanations = database.execute_all(f"EXPLAIN (GENERIC_PLAN, FORMAT JSON) {sql}" for sql in planned)
    plans = {}
    for sql, ((explained,),) in zip(planned, explanations, strict=True):
        if slow := list(_scans(explained[0]["Plan"])):
            plans[sql] = slow
    return plans


BY_NUMBER = re.compile(r"\bstates\b.*\bseq = (ANY|new\.)|\bstates\.seq = ")
"""Statements that name states by their numbers."""


def indexes_by_number(database: Database, statements: Iterable[str]) -> dict[str, set[str]]:
    """Return through which indexes statements find states that they name by their numbers."""
    plans = _plans_of_writers(database, filter(BY_NUMBER.search, statements))
    return {sql: set(_indexes_of_states(plan)) for sql, plan in plans.items()}


def bitmap_scans(database: Database, statements: Iterable[str]) -> list[str]:
    """Return the statements that read one index through a bitmap."""
    plans = _plans_of_writers(database, [sql for sql in statements if sql.startswith(_PLANNED)])
    return [sql for sql, plan in plans.items() if "Bitmap" in str(plan) and "BitmapOr" not in str(plan)]


def _plans_of_writers(database: Database, statements: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Plan statements as the sessions that write plan them, for any parameters: with statistics of now."""
    connection = Server(database.url).connect()
    try:
        plans = {}
        for sql in sorted(statements):
            cursor = connection.driver.execute(f"EXPLAIN (GENERIC_PLAN, FORMAT JSON) {sql}".encode())
            ((explained,),) = cursor.fetchall()
            plans[sql] = explained[0]["Plan"]
        return plans
    finally:
        connection.close()


def _indexes_of_states(plan: dict[str, Any]) -> Iterator[str]:
    if plan.get("Relation Name") == "states" and "Scan" in plan["Node Type"]:
        yield plan.get("Index Name", plan["Node Type"])
    for part in plan.get("Plans", ()):
        yield from _indexes_of_states(part)


def _scans(plan: dict[str, Any], *, limited: bool = False) -> Iterator[str]:
    kind, table, index = plan["Node Type"], plan.get("Relation Name"), plan.get("Index Name")
    reads = table and GROWING.fullmatch(table) and "Scan" in kind and kind != "Bitmap Heap Scan"
    if reads and not limited and "Index Cond" not in plan and not (index and PARTIAL.match(index)):
        yield f"{kind} of {table}"
    for part in plan.get("Plans", ()):
        yield from _scans(part, limited=kind == "Limit")
