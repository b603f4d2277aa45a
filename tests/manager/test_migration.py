"""A database of an earlier version becomes one of the present version when it is opened, or is refused.

``version_5.sql`` has the tables of version 5, with a run that ended, and one in flight.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pytest

from exotrio.errors import DatabaseError
from exotrio.manager.store import migrations, schema
from exotrio.manager.store.opening import open_store
from exotrio.manager.store.postgres import database as on_postgres
from exotrio.manager.store.sqlite import database
from tests.contract.api import Api
from tests.support import postgres
from tests.support.helpers import node_name, ok
from tests.support.manager import ENGINES, open_manager, recount

VERSION_5 = Path(__file__).with_name("version_5.sql").read_text()
IN_FLIGHT = "e88efb76-16b5-4313-9cd4-5d0336645e90"
HELD = {"state_id": "774523e20000000000000005", "token": "45c08411b73ad399"}

STEPS = {
    1: "CREATE TABLE later (value TEXT); INSERT INTO later VALUES ('first');",
    2: "ALTER TABLE later ADD COLUMN more TEXT; UPDATE later SET more = 'second';",
}


def rows(path: Path) -> list[tuple[str, str]]:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute("SELECT value, more FROM later").fetchall()


def version(path: Path) -> int:
    with closing(sqlite3.connect(path)) as connection:
        schema_of: int = connection.execute("PRAGMA user_version").fetchone()[0]
        return schema_of


async def opened(path: Path | str) -> None:
    async with open_manager(path):
        pass


@pytest.fixture
async def first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file of the present version, opened from now on by an exotrio that knows two more."""
    path = tmp_path / "state.db"
    await opened(path)
    assert version(path) == schema.VERSION
    monkeypatch.setattr(database, "VERSION", schema.VERSION + 2)
    for step, sql in STEPS.items():
        monkeypatch.setitem(migrations.MIGRATIONS, schema.VERSION - 1 + step, sql)
    return path


async def test_every_step_runs_once(first: Path) -> None:
    for _ in range(2):
        await opened(first)
        assert (version(first), rows(first)) == (schema.VERSION + 2, [("first", "second")])


async def test_a_step_that_breaks_off_leaves_the_file_at_the_version_before(
    first: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as broken:
        broken.setitem(migrations.MIGRATIONS, schema.VERSION + 1, STEPS[2] + "SELECT * FROM no_such_table;")
        with pytest.raises(DatabaseError, match="no_such_table"):
            await opened(first)
    assert version(first) == schema.VERSION + 1
    await opened(first)
    assert rows(first) == [("first", "second")]


# -- from versions that were released


def file_of_version_5(path: Path, version: int = 5) -> str:
    with closing(sqlite3.connect(path)) as connection:
        settings = f"PRAGMA application_id = {database.APPLICATION_ID}; PRAGMA user_version = {version};"
        connection.executescript(VERSION_5 + settings)
    return str(path)


async def postgres_of_version_5(url: str, file: Path, version: int = 5) -> str:
    """Make the tables as version 5 did, and fill them with the rows of a file."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(on_postgres, "SCHEMA", VERSION_5.partition("INSERT INTO")[0])
        patch.setattr(on_postgres, "VERSION", version)
        async with open_store(url):
            pass
    with closing(sqlite3.connect(file_of_version_5(file))) as source, psycopg.connect(url) as target:
        target.execute("DELETE FROM meta WHERE key = 'stamp'")
        for (table,) in source.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
            if table.startswith("sqlite_"):
                continue
            cursor = source.execute(f"SELECT * FROM {table}")
            names = [name for name, *_ in cursor.description]
            insert = f"INSERT INTO {table} ({', '.join(names)}) VALUES ({', '.join(['%s'] * len(names))})"
            for row in cursor:
                target.execute(insert.encode(), row)
            if names[0] in ("id", "seq") and table not in ("managers", "sessions", "claims", "sign_in_links"):
                sequence = f"pg_get_serial_sequence('{table}', '{names[0]}')"
                target.execute(f"SELECT setval({sequence}, 1 + max({names[0]})) FROM {table}".encode())
    return url


@pytest.fixture
def empty(tmp_path: Path) -> Iterator[str]:
    with postgres.empty_database() as made:
        yield made.url


@pytest.mark.parametrize("engine", ENGINES)
async def test_runs_that_version_5_began_go_on_and_its_graphs_have_what_is_new(
    engine: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    path = tmp_path / "old.db"
    db: str = (
        file_of_version_5(path)
        if engine == "SQLite"
        else await postgres_of_version_5(request.getfixturevalue("empty"), path)
    )
    async with open_manager(db, schedules=False) as manager:
        api = Api(manager.remote.client, "old")
        outputs = {"outcome": "executed", "outputs": [{"v": "x", "w": "y"}]}
        assert ok(await api.outcomes({**HELD, **outputs}))["items"][0]["result"] == "ok"
        for node, count in (("b", 1), ("u", 2)):
            states = ok(await api.native_claim({node_name(node): 10}))["states"]
            assert [state["run_id"] for state in states] == [IN_FLIGHT] * count
            held = [{"state_id": each["state_id"], "token": each["lease"]["token"]} for each in states]
            ok(await api.outcomes(*[{**each, **outputs} for each in held]))
        assert ok(await api.native_run(IN_FLIGHT))["status"] == "SUCCESS"
        await manager.service.store.read(recount)


@pytest.mark.parametrize("engine", ENGINES)
async def test_a_database_of_version_5_gets_the_tables_of_a_new_one(
    engine: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if engine == "SQLite":
        old, new = file_of_version_5(tmp_path / "old.db"), str(tmp_path / "new.db")
        await opened(Path(old))
        await opened(Path(new))
        assert sqlite_tables(old) == sqlite_tables(new)
        return
    old = await postgres_of_version_5(request.getfixturevalue("empty"), tmp_path / "old.db")
    with postgres.empty_database() as made:
        for url in (old, made.url):
            async with open_store(url):
                pass
        assert postgres_tables(old) == postgres_tables(made.url)


@pytest.mark.parametrize("engine", ENGINES)
async def test_a_database_of_a_version_that_is_not_migrated_any_more_is_refused(
    engine: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if engine == "SQLite":
        db = file_of_version_5(tmp_path / "old.db", version=4)
    else:
        db = await postgres_of_version_5(request.getfixturevalue("empty"), tmp_path / "old.db", version=4)
    for _ in range(2):  # it stays as it is
        with pytest.raises(DatabaseError, match=r"has tables of version 4; .* migrates those of 5 or later"):
            async with open_store(db):
                pass


def sqlite_tables(path: str) -> dict[str, Any]:
    """Return the columns of each table, and what makes each index."""
    with closing(sqlite3.connect(path)) as connection:
        schema_of: dict[str, Any] = dict(
            connection.execute("SELECT name, sql FROM sqlite_master WHERE type = 'index' AND sql > ''")
        )
        for (table,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
            schema_of[table] = connection.execute(f"PRAGMA table_info({table})").fetchall()
    return schema_of


def postgres_tables(url: str) -> tuple[Any, ...]:
    with psycopg.connect(url) as connection:
        return (
            connection.execute(
                "SELECT table_name, column_name, ordinal_position, data_type, collation_name, is_nullable,"
                " column_default FROM information_schema.columns WHERE table_schema = current_schema()"
                " ORDER BY table_name, ordinal_position"
            ).fetchall(),
            connection.execute(
                "SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = current_schema()"
                " ORDER BY indexname"
            ).fetchall(),
            connection.execute(
                "SELECT relname, reloptions FROM pg_class WHERE relkind = 'r'"
                " AND relnamespace = current_schema()::regnamespace ORDER BY relname"
            ).fetchall(),
        )
