"""A database that an older exotrio wrote: it opens, becomes the present version, and its runs go on."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from exotrio._util.settings import Settings
from exotrio.manager.store.port import View
from exotrio.manager.store.schema import MIGRATIONS, VERSION
from exotrio.manager.store.sqlite import database
from tests.contract.flow import Flow
from tests.contract.native import claim, executed_item, report
from tests.support.helpers import FAST_RETRY, SettableClock, eventually, ok, place
from tests.support.manager import open_manager, recount

OLDEST = Path(__file__).with_name("schema_1.sql")
LANDED = Path(__file__).with_name("landed_run.sql")
LANDED_AT_MS = 1_767_225_600_000
LANDED_KEY = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="


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
        connection.execute(f"PRAGMA application_id = {database.APPLICATION_ID}")
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


async def test_a_run_that_the_first_version_left_in_the_middle_is_resumed_and_ends(tmp_path: Path) -> None:
    db = tmp_path / "state.db"
    with closing(sqlite3.connect(db)) as connection:
        connection.executescript(OLDEST.read_text("utf-8") + LANDED.read_text("utf-8"))
        connection.execute(f"PRAGMA application_id = {database.APPLICATION_ID}")
        connection.execute("PRAGMA user_version = 1")
        run_id, delayed = (row[0] for row in connection.execute("SELECT run_id FROM runs ORDER BY id"))
    clock = SettableClock(LANDED_AT_MS + 10_000)
    settings = Settings(None, None, None, LANDED_KEY, None)
    async with open_manager(db, clock=clock, settings=settings) as manager:
        api, remote = manager.api.elsewhere("landed"), manager.remote.elsewhere("landed")
        flow, late = Flow(api, "graph"), Flow(api, "delayed")
        flow.run_id, late.run_id = run_id, delayed
        await manager.service.store.read(recount)

        # Its holders report as if nothing had happened; a request that is repeated takes nothing else.
        (held,) = await claim(remote, {"Node_b": 9}, claim_id="landed-claim")
        assert ok(await remote.secrets(held["state_id"], held["lease"]["token"]))["secrets"] == {
            "token": "the secret of the landed graph"
        }
        assert await report(remote, executed_item(held, {"v": "native", "w": ""})) == ["ok"]
        (through_v0,) = await flow.states("b", "QUEUED")
        ok(await remote.executed(through_v0["id"], {"v": "v0", "w": ""}))
        # What was held inside the process that ended, and the retry, can be claimed.
        assert await claim(api, {"Node_b": 9}, claim_id="landed-local") == []
        for state in await flow.take("b", 2):
            ok(await api.executed(state["state_id"], {"v": state["inputs"]["p"], "w": ""}))
        for state in await flow.take("c", 5):
            ok(await api.executed(state["state_id"], {"v": f"c of {state['inputs']['p']}", "w": ""}))
        united = await flow.take("u", 5)
        assert sorted(state["inputs"]["all"] for state in united) == [
            '["c of 0.0","c of 0.1"]', '["c of 1"]', '["c of 4"]', '["c of native"]', '["c of v0"]',
        ]  # fmt: skip
        for state in united:
            ok(await api.executed(state["state_id"], {"v": "", "w": ""}))
        assert (await flow.run_summary())["status"] == "SUCCESS"

        await late.none_ready("d")
        clock.advance(600_000)
        await late.run("d")
        assert (await late.run_summary())["status"] == "SUCCESS"

        # And the trigger goes on where it was.
        clock.now_ms = LANDED_AT_MS + 3_600_000
        manager.service.scheduler.notify()

        async def triggered() -> None:
            assert ok(await api.runs())["total"] == 3

        await eventually(triggered)
        await manager.service.store.read(recount)


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
        with pytest.raises(database.DatabaseError, match="no_such_table"):
            async with open_manager(path):
                pass
    async with open_manager(path) as manager:

        def runs(view: View) -> list[str]:
            return [row["run_id"] for row in view.execute("SELECT run_id FROM runs")]

        assert await manager.service.store.read(runs) == [before.run_id]
