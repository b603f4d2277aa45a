"""A database that an older exotrio wrote: it opens, becomes the present version, and its runs go on."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from exotrio.manager import _database
from exotrio.manager._schema import MIGRATIONS, VERSION
from exotrio.manager._transaction import View
from tests.contract.flow import Flow
from tests.helpers import FAST_RETRY, ok, place
from tests.manager.support import open_manager, recount

OLDEST = Path(__file__).with_name("schema_1.sql")


def layout(connection: sqlite3.Connection) -> set[tuple[str, str, str]]:
    """Return the indexes, and the tables with their columns."""
    found = set()
    for kind, name, sql in connection.execute("SELECT type, name, sql FROM sqlite_master WHERE sql NOT NULL"):
        if kind == "table":
            columns = connection.execute(f"PRAGMA table_info({name})").fetchall()
            text = f"{[tuple(column)[1:] for column in columns]} {'AUTOINCREMENT' in sql}"
        else:
            text = " ".join(sql.split())
        found.add((kind, name, text))
    return found


def as_version_1(new: Path, old: Path) -> None:
    """Write what is in one database into another as version 1 would have."""
    with closing(sqlite3.connect(old)) as connection:
        connection.executescript(OLDEST.read_text("utf-8"))
        connection.execute("ATTACH ? AS new", (str(new),))
        tables = [
            row[0] for row in connection.execute("SELECT name FROM main.sqlite_master WHERE type = 'table'")
        ]
        for table in tables:
            columns = ", ".join(row[1] for row in connection.execute(f"PRAGMA main.table_info({table})"))
            if table == "sqlite_sequence":
                connection.execute(
                    "INSERT INTO main.sqlite_sequence SELECT * FROM new.sqlite_sequence WHERE name = 'states'"
                )
            else:
                connection.execute(f"INSERT INTO main.{table} ({columns}) SELECT {columns} FROM new.{table}")
        connection.execute(f"PRAGMA application_id = {_database.APPLICATION_ID}")
        connection.execute("PRAGMA user_version = 1")
        connection.commit()


@pytest.fixture
async def old(tmp_path: Path) -> tuple[Path, Flow]:
    """A file of version 1 in the middle of a run: one branch done, one failed and retried."""
    new, old = tmp_path / "new.db", tmp_path / "state.db"
    async with open_manager(new) as manager:
        flow = await Flow.start(
            manager.api,
            place("t", "b"),
            place("b", "u"),
            place("u", unites="t", inputs={"p": "${{b.outputs.v}}"}),
            retry_policy=FAST_RETRY | {"max_retries": 1},
        )
        await flow.run("t", {"v": "0"}, {"v": "1"})
        first, second = await flow.take("b", 2)
        ok(await manager.api.executed(first["state_id"], {"v": "done"}))
        ok(await manager.api.errored(second["state_id"]))
    as_version_1(new, old)
    new.unlink()
    return old, flow


async def test_a_run_of_an_older_file_goes_on(old: tuple[Path, Flow]) -> None:
    path, before = old
    async with open_manager(path) as manager:
        flow = Flow(manager.api, before.graph)
        flow.run_id = before.run_id
        await manager.service.store.read(recount)
        retry = await flow.fail("b", times=1)
        assert len(ok(await manager.api.history(retry))["attempts"]) == 1, "version 1 did not know of more"
        ok(await manager.api.retry_run(flow.run_id))
        again = await flow.run("b")
        assert [one["id"] for one in ok(await manager.api.history(again))["attempts"]] == [retry, again]
        for state in await flow.take("u", 2):
            ok(await manager.api.executed(state["state_id"]))
        assert (await flow.run_summary())["status"] == "SUCCESS"
        await manager.service.store.read(recount)
        fresh = await flow.trigger()
        assert fresh != before.run_id


async def test_an_older_file_gets_the_tables_that_a_new_one_has(old: tuple[Path, Flow]) -> None:
    path, _ = old
    fresh = path.with_name("fresh.db")
    for each in (path, fresh):
        async with open_manager(each):
            pass
    with closing(sqlite3.connect(path)) as one, closing(sqlite3.connect(fresh)) as other:
        assert layout(one) == layout(other)
        assert one.execute("PRAGMA user_version").fetchone() == (VERSION,)


async def test_a_migration_that_breaks_off_leaves_the_file_as_it_was(
    old: tuple[Path, Flow], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, before = old
    with monkeypatch.context() as broken:
        broken.setitem(MIGRATIONS, 1, MIGRATIONS[1] + "SELECT * FROM no_such_table;")
        with pytest.raises(_database.DatabaseError, match="no_such_table"):
            async with open_manager(path):
                pass
    async with open_manager(path) as manager:

        def runs(view: View) -> list[str]:
            return [row["run_id"] for row in view.execute("SELECT run_id FROM runs")]

        assert await manager.service.store.read(runs) == [before.run_id]
