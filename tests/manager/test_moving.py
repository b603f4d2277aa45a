"""``migrate sqlite-to-postgres``: everything arrives, what was held goes on, and nothing runs twice."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import trio

from exotrio import DatabaseBusy, DatabaseError
from exotrio._shared.settings import Settings
from exotrio.manager.engine.leases import Terms
from exotrio.manager.moving import sqlite_to_postgres
from exotrio.manager.store import schema
from exotrio.manager.store.postgres.moving import OF_PROCESSES, ON_LEASE_CLOCK
from exotrio.manager.store.postgres.translation import tables
from exotrio.manager.store.sqlite.store import open_store
from tests.contract.flow import Flow
from tests.contract.native import PRINTED, B, claim, executed_item, item_for, report
from tests.support import postgres
from tests.support.commands import Cli, fails
from tests.support.helpers import NO_RETRY, node_name, ok, place, sql
from tests.support.manager import open_manager
from tests.support.pages import PRODUCTION, block, commands
from tests.support.postgres import Database
from tests.support.postgres_proxy import PostgresProxy

SECRETS = {"token": "the-plain-token-5e1f"}
CRON = {"type": "CRON", "value": {"expression": "0 5 * * *"}}
MOVED = sorted(tables().keys() - OF_PROCESSES)
DIFFERENT = {("meta", "value"), *ON_LEASE_CLOCK.items()}
CLAIM = "a-claim-of-before"
LOSE_A_ROW = """
CREATE FUNCTION lose() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN IF NEW.place = 1 AND NEW.status = 'QUEUED' THEN RETURN NULL; END IF; RETURN NEW; END $$;
CREATE FUNCTION lose_from_states() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN
IF to_regclass('states') IS NOT NULL THEN
CREATE OR REPLACE TRIGGER lose BEFORE INSERT ON states FOR EACH ROW EXECUTE FUNCTION lose(); END IF; END $$;
CREATE EVENT TRIGGER lose_a_row ON ddl_command_end WHEN TAG IN ('CREATE TABLE')
EXECUTE FUNCTION lose_from_states();
"""
"""A server that drops one of the rows that it is sent."""


@pytest.fixture
def database(empty_database: Database) -> Database:
    return empty_database


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "state.db"


async def fill(file: Path) -> dict[str, Any]:
    """Make a file with runs in flight, and return what is held and what waits."""
    async with open_manager(file) as manager:
        remote = manager.remote
        flow = await Flow.start(
            remote,
            place("a", "b"),
            place("b", inputs={"p": "${{a.outputs.v}}"}),
            graph="fan",
            secrets=SECRETS,
            triggers=[CRON],
        )
        await flow.run("a", {"v": "1"}, {"v": "2 \N{SNOWMAN}"}, {"v": "a NUL: \0"})
        leased = ok(await remote.native_claim({node_name("b"): 1}, claim_id=CLAIM))
        held = item_for(leased["states"][0], checkpoint={"number": 1, "value": '{"row": "1"}'})
        ok(await remote.heartbeat(states=[held]))
        old = await Flow.start(remote, place("v0"), graph="old")
        by_v0 = await old.one("v0")
        failing = await Flow.start(remote, place("x"), graph="failing", retry_policy=NO_RETRY)
        await failing.fail("x", times=1, error="it broke")
        return {"run": flow.run_id, "leased": leased["states"][0], "v0": by_v0}


def is_there(file: Path) -> bool:
    return file.exists()


def in_file(file: Path, table: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(file)) as connection:
        columns = [name for name in tables()[table] if (table, name) not in DIFFERENT]
        return sorted(connection.execute(f"SELECT {', '.join(columns)} FROM {table}").fetchall(), key=repr)


def in_postgres(database: Database, table: str) -> list[tuple[Any, ...]]:
    columns = [name for name in tables()[table] if (table, name) not in DIFFERENT]
    return sorted(database.execute(f"SELECT {', '.join(columns)} FROM {table}"), key=repr)


def test_each_table_is_moved_or_belongs_to_processes() -> None:
    # A new table has to be decided upon; and so does a new time on the clock of leases.
    moved = """
        alerts audit calls checkpoints children_to_cancel claims counts cron_triggers discarded events graphs
        idle_times keys limits logs mailbox meta nodes runs secrets slots starts states stops store
        templates trends turns unite_counters unite_members waiting_trends
    """
    assert tuple(MOVED) == tuple(moved.split())


async def test_every_row_arrives_as_it_was(database: Database, file: Path) -> None:
    await fill(file)
    async with open_manager(file) as manager:
        for what in (f"node/{node_name('x')}", "graph/failing"):
            ok(await manager.api.native("POST", f"{what}/pause"))
        (state,) = await claim(manager.api, {B: 1})
        assert await report(manager.api, executed_item(state) | {"logs": [PRINTED]}) == ["ok"]
        ok(await manager.api.v0("POST", "graph/failing/trigger", json={"key": "order-17"}))
    done = await sqlite_to_postgres(file, database.url)
    moved = file.with_name("state.db.moved")
    assert (done.renamed, is_there(file), done.was_moved_before) == (moved, False, False)
    for table in MOVED:
        expected = in_file(moved, table)
        if table == "meta":
            expected = [row for row in expected if row[0] not in ("clock_latest", "clock_ahead", "writable")]
            assert {("version",), ("oldest_version",)} <= set(in_postgres(database, table))
            continue
        assert in_postgres(database, table) == expected, table
        assert done.rows[table] == len(expected)
    oldest = "SELECT value FROM meta WHERE key = 'oldest_version'"
    assert database.execute(oldest) == [(str(schema.VERSION),)], (
        "state managers before it refused the file, too"
    )
    assert database.execute("SELECT name FROM nodes WHERE paused_at > 0") == [(node_name("x"),)]
    assert database.execute("SELECT key FROM runs WHERE key_digest > ''") == [("order-17",)]
    assert database.execute("SELECT count(*) FROM logs WHERE lines LIKE '%begun%'") == [(1,)]
    stamp = "SELECT value FROM meta WHERE key = 'stamp'"
    with closing(sqlite3.connect(moved)) as connection:
        assert database.execute(stamp) == connection.execute(stamp).fetchall()
        used = dict(connection.execute("SELECT name, seq FROM sqlite_sequence").fetchall())
    for table, column in (("states", "seq"), ("runs", "id"), ("templates", "id")):
        ((number,),) = database.execute(f"SELECT nextval(pg_get_serial_sequence('{table}', '{column}'))")
        assert number == used[table] + 1, table


async def test_the_character_that_postgres_refuses_is_replaced(database: Database, file: Path) -> None:
    await fill(file)
    with closing(sqlite3.connect(file)) as connection, connection:
        connection.execute("UPDATE states SET error = 'a' || char(0) || 'b' WHERE status = 'ERRORED'")
    await sqlite_to_postgres(file, database.url)
    rows = database.execute("SELECT error FROM states WHERE status = 'ERRORED'")
    assert rows == [("a\N{SYMBOL FOR NULL}b",)]


async def test_a_pooler_in_between_changes_nothing(database: Database, file: Path) -> None:
    await fill(file)
    with postgres.pooler() as pooler:
        done = await sqlite_to_postgres(file, database.url_at(pooler.port))
    assert database.execute("SELECT count(*) FROM states") == [(done.rows["states"],)]


async def test_claims_have_a_fresh_term_on_the_clock_of_the_database(database: Database, file: Path) -> None:
    held = await fill(file)
    sql(file, "INSERT INTO limits VALUES (1, 'tests', 'few', 1, NULL, NULL, 0, 0)")
    sql(file, "INSERT INTO slots VALUES (1, '', 99, 5), (1, '', 0, 7)")  # one has a lease
    await sqlite_to_postgres(file, database.url, terms=Terms(lease_ttl_ms=90_000, claim_timeout_ms=600_000))
    left = database.execute(
        "SELECT token IS NULL, lease_until - extract(epoch FROM clock_timestamp()) * 1000 FROM states"
        " WHERE status = 'QUEUED' ORDER BY 1"
    )
    assert [by_v0 for by_v0, _ in left] == [False, True], held
    assert 60_000 < left[0][1] <= 90_000
    assert 570_000 < left[1][1] <= 600_000
    slots = database.execute(
        "SELECT state, check_at - extract(epoch FROM clock_timestamp()) * 1000, check_at FROM slots"
        " ORDER BY 1"
    )
    assert [(state, 60_000 < left <= 90_000 or at) for state, left, at in slots] == [(0, 7), (99, True)]
    ((ago,),) = database.execute("SELECT extract(epoch FROM clock_timestamp()) * 1000 - at FROM claims")
    assert 0 <= ago < 30_000


async def test_only_leased_states_are_written_twice(database: Database, file: Path) -> None:
    await fill(file)
    await sqlite_to_postgres(file, database.url)
    # The commands of the transaction that wrote the rows.
    is_leased = "status = 'QUEUED' AND lease_until IS NOT NULL"
    wrote = database.execute(f"SELECT DISTINCT {is_leased}, cmin::text FROM states ORDER BY 1")
    assert [leased for leased, _ in wrote] == [False, True]
    assert wrote[0][1] != wrote[1][1]


async def test_runs_go_on_where_they_were(database: Database, file: Path) -> None:
    held = await fill(file)
    await sqlite_to_postgres(file, database.url)
    keys = file.with_name("state.db.secrets-key").read_text().strip()
    async with open_manager(database.url, settings=Settings(secrets_encryption_key=keys)) as manager:
        remote = manager.remote
        state = held["leased"]
        again = ok(await remote.native_claim({node_name("b"): 1}, claim_id=CLAIM))
        assert [each["state_id"] for each in again["states"]] == [state["state_id"]], "the same claim"
        token = again["states"][0]["lease"]["token"]
        assert ok(await remote.secrets(state["state_id"], token)) == {"secrets": SECRETS}
        report = {
            "state_id": state["state_id"],
            "token": token,
            "outcome": "executed",
            "outputs": [{"v": "x"}],
        }
        (item,) = ok(await remote.outcomes(report))["items"]
        assert item["result"] == "ok", item
        ok(await remote.executed(held["v0"], {"v": "x"}))
        rest = ok(await remote.claim([node_name("b")], 10))["states"]
        assert len(rest) == 2, "states that were not held"
        for waiting in rest:
            ok(await remote.executed(waiting["state_id"], {"v": "x"}))
        shown = ok(await remote.native_run(held["run"]))
        assert shown["status"] == "SUCCESS", shown
        flow = await Flow.start(remote, place("c"), graph="later")
        await flow.run("c")


# -- what is refused


async def test_a_file_in_use_is_left_alone(database: Database, file: Path) -> None:
    async with open_manager(file):
        with pytest.raises(DatabaseBusy):
            await sqlite_to_postgres(file, database.url)
    assert database.execute("SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace") == []


async def test_no_empty_file_takes_the_place_of_one_that_was_moved(database: Database, file: Path) -> None:
    await fill(file)
    done = await sqlite_to_postgres(file, database.url)
    with pytest.raises(DatabaseError, match=r"was moved to PostgreSQL.*\n.*\n.*EXOTRIO_DATABASE_URL"):
        async with open_manager(file):
            raise AssertionError("a state manager knows of no run of before")
    assert not is_there(file)
    for again in (file, done.renamed):
        with pytest.raises(DatabaseError, match="was moved before"):
            await sqlite_to_postgres(again, database.url)
    done.renamed.rename(file.with_name("elsewhere"))
    async with open_manager(file):
        pass


async def test_the_keys_for_secrets_are_not_needed_and_none_is_made(
    database: Database, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fill(file)
    kept = file.with_name("state.db.secrets-key")
    key = kept.read_text().strip()
    kept.unlink()
    monkeypatch.setenv("SECRETS_ENCRYPTION_KEY", "not the one of before")
    await sqlite_to_postgres(file, database.url)
    assert not is_there(kept)
    async with open_manager(database.url, settings=Settings(secrets_encryption_key=key)) as manager:
        (state, *_) = ok(await manager.remote.claim([node_name("b")], 1))["states"]
        assert ok(await manager.remote.secrets(state["state_id"])) == {"secrets": SECRETS}


@pytest.mark.parametrize("table", ["CREATE TABLE theirs (id int)", ""])
async def test_only_an_empty_database_takes_a_file(database: Database, file: Path, table: str) -> None:
    await fill(file)
    if table:
        database.execute(table)
    else:
        other = file.with_name("other.db")
        async with open_store(other):
            pass
        await sqlite_to_postgres(other, database.url)
    with pytest.raises(DatabaseError, match="is not empty"):
        await sqlite_to_postgres(file, database.url)
    assert is_there(file)


async def test_a_move_whose_answer_was_lost_is_recognized_as_done(
    database: Database, proxy: PostgresProxy, file: Path
) -> None:
    await fill(file)
    proxy.cut_at_commit("after")
    with pytest.raises(DatabaseError, match="all was moved, or nothing"):
        await sqlite_to_postgres(file, database.url_at(proxy.port))
    assert is_there(file)
    done = await sqlite_to_postgres(file, database.url_at(proxy.port))
    assert (done.was_moved_before, is_there(done.renamed), is_there(file)) == (True, True, False)


async def test_one_that_was_cut_before_its_end_moved_nothing(
    database: Database, proxy: PostgresProxy, file: Path
) -> None:
    await fill(file)
    proxy.cut_at_commit("before")
    with pytest.raises(DatabaseError):
        await sqlite_to_postgres(file, database.url_at(proxy.port))
    assert database.execute("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'") == [(0,)]
    assert not (await sqlite_to_postgres(file, database.url)).was_moved_before


async def test_nothing_is_moved_if_fewer_rows_arrive_than_the_file_has(
    database: Database, file: Path
) -> None:
    await fill(file)
    database.execute(LOSE_A_ROW)
    with pytest.raises(
        DatabaseError, match=r"8 rows of states were copied, but 7 arrived; nothing was moved"
    ):
        await sqlite_to_postgres(file, database.url)
    assert is_there(file)
    database.execute("DROP EVENT TRIGGER lose_a_row")
    assert database.execute("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'") == [(0,)]
    assert (await sqlite_to_postgres(file, database.url)).rows["states"] == 8


# -- the command


def test_the_command_says_what_was_moved_and_what_else_has_to_be(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cli = Cli(tmp_path, monkeypatch, capsys)
    trio.run(fill, tmp_path / "state.db")
    fails(cli("migrate", "sqlite-to-postgres", "state.db"), 2, "EXOTRIO_DATABASE_URL")
    fails(cli("migrate", "sqlite-to-postgres", "state.db", "other.db"), 2, "no PostgreSQL is named")
    fails(cli("migrate", "sqlite-to-postgres", "state.db", database.tcp_url), 2, "has a password in it")
    (printed,) = commands(block(PRODUCTION, "migrate sqlite-to-postgres").code)
    url = printed[-1].replace("HOST/exotrio", f"127.0.0.1:{database.server.port}/{database.name}")
    cli.set(PGPASSWORD=postgres.PASSWORD)
    end = cli(*printed[:-1], url)
    assert end.code == 0, end
    assert "3 runs and 8 states of state.db are in postgresql://exotrio@127.0.0.1" in end.out
    assert "renamed" in end.out
    assert "state.db.secrets-key" in end.out
    assert postgres.PASSWORD not in end.out + end.err
    cli.set(EXOTRIO_DATABASE_URL=database.tcp_url)
    fails(cli("migrate", "sqlite-to-postgres", "state.db"), 2, "was moved before", "state.db.moved")
    fails(cli("migrate", "sqlite-to-postgres", "other.db"), 2, "there is no database")
