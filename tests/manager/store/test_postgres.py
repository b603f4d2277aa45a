"""The store on PostgreSQL: opening a database, and use cases that meet others or lose their connection."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import AsyncIterator
from functools import partial

import psycopg
import pytest
import trio

from exotrio.errors import ConfigurationError, DatabaseError, DatabaseTooNew
from exotrio.manager.engine.states import locked_runs_of
from exotrio.manager.rules.access import IN_PROCESS
from exotrio.manager.rules.errors import InvalidRequest, Refused
from exotrio.manager.store.base import Store
from exotrio.manager.store.opening import open_store
from exotrio.manager.store.postgres import connection, pipeline, readers, writes
from exotrio.manager.store.postgres import database as making
from exotrio.manager.store.postgres.pipeline import Pipeline, Result
from exotrio.manager.store.postgres.server import Server
from exotrio.manager.store.postgres.translation import translate
from exotrio.manager.store.schema import VERSION
from exotrio.manager.store.transaction import RowChanged, Transaction
from exotrio.manager.store.view import View
from tests.contract.flow import Flow
from tests.support.helpers import place
from tests.support.manager import gate, open_manager
from tests.support.postgres import PASSWORD, Database
from tests.support.postgres_proxy import PostgresProxy
from tests.support.stores import TEST_TIMEOUT, until


@pytest.fixture
async def store(database: Database) -> AsyncIterator[Store]:
    async with open_store(database.url) as opened:
        yield opened


def put(tx: Transaction, key: str, value: str) -> None:
    tx.insert("meta", ("key", "value"), [(key, value)], "(key) DO UPDATE SET value = excluded.value")


def get(view: View, key: str) -> str | None:
    row = view.row("SELECT value FROM meta WHERE key = ?", (key,))
    return None if row is None else row["value"]


def session(view: View) -> int:
    row = view.row("SELECT pg_backend_pid() AS pid")
    assert row is not None
    pid: int = row["pid"]
    return pid


async def test_managers_that_start_at_once_on_an_empty_database_all_come_up(
    empty_database: Database,
) -> None:
    stamps = []

    async def start() -> None:
        async with open_store(empty_database.url) as store:
            stamps.append(await store.read(get, "stamp"))

    async with trio.open_nursery() as nursery:
        for _ in range(4):
            nursery.start_soon(start)
    assert len(stamps) == 4
    assert len(set(stamps)) == 1


async def test_managers_of_a_new_version_that_start_at_once_migrate_once(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_store(database.url) as older:
        later = VERSION + 1
        monkeypatch.setattr(making, "VERSION", later)
        step = "CREATE TABLE later (id INTEGER PRIMARY KEY); INSERT INTO later VALUES (1);"
        monkeypatch.setattr(making, "MIGRATIONS", {VERSION: step})

        async def start() -> None:
            async with open_store(database.url) as store:
                assert await store.read(get, "version") == str(later)

        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(start)
        assert database.execute("SELECT count(*) FROM later") == [(1,)]
        # A manager of the version before works on.
        await older.write(put, "a", "b")


async def test_a_database_that_a_newer_manager_changed_is_used_as_long_as_that_says_so(
    database: Database,
) -> None:
    async with open_store(database.url):
        pass
    database.execute("UPDATE meta SET value = '99' WHERE key = 'version'")
    async with open_store(database.url):
        pass
    database.execute("UPDATE meta SET value = '99' WHERE key = 'oldest_version'")
    with pytest.raises(DatabaseTooNew, match="99"):
        async with open_store(database.url):
            pass


@pytest.mark.parametrize("others", ["accounts (id int)", "meta (key int)", "meta (key text, value text)"])
async def test_a_database_of_something_else_is_refused_and_left_as_it_is(
    empty_database: Database, others: str
) -> None:
    empty_database.execute(f"CREATE TABLE {others}")
    empty_database.execute("GRANT ALL ON ALL TABLES IN SCHEMA public TO PUBLIC")
    with pytest.raises(DatabaseError, match="not made by exotrio"):
        async with open_store(empty_database.url):
            pass
    selected = "SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace"
    assert empty_database.execute(selected) == [(1,)]


async def test_no_password_is_shown(
    database: Database, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    monkeypatch.setattr("exotrio.manager.store.postgres.start.STARTUP_TIMEOUT", 0.0)
    wrong = database.tcp_url.replace(f"{PASSWORD[:5]}", "not-the-", 1)
    for url in (
        wrong,
        f"postgresql://user:{PASSWORD}@[::1/db",
        database.tcp_url.replace(f":{database.server.port}", ":1"),
    ):
        with pytest.raises((DatabaseError, ConfigurationError)) as caught:
            async with open_store(url):
                pass
        shown = f"{caught.value} {caught.value!r} {caught.value.__cause__!r}"
        assert "percent-encoded" in shown or database.name in shown
        assert PASSWORD not in shown
        assert "not-the-" not in shown
    assert PASSWORD not in repr(Server(database.tcp_url))
    async with open_store(database.tcp_url) as store:
        with pytest.raises(DatabaseError) as caught:
            await store.write(lambda tx: tx.execute(f"SELECT nothing_of('{PASSWORD}')"))
    assert PASSWORD not in str(caught.value)
    assert PASSWORD not in caplog.text


async def test_use_cases_that_lock_each_other_out_both_happen(store: Store) -> None:
    await store.write(put, "a", "")
    await store.write(put, "b", "")
    met = threading.Barrier(2)
    runs = []

    def append(tx: Transaction, first: str, second: str) -> None:
        runs.append(first)
        for key in (first, second):
            appended = tx.execute("UPDATE meta SET value = value || ? WHERE key = ?", (first, key))
            assert appended.rowcount == 1
            if key == first and len(runs) <= 2:
                met.wait()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(store.write, append, "a", "b")
        nursery.start_soon(store.write, append, "b", "a")
    assert len(runs) > 2, "one of them ran again, on a busy machine more than once"
    value: str | None = await store.read(get, "a")
    assert sorted(value or "") == ["a", "b"]
    assert value == await store.read(get, "b")


async def test_statements_are_sent_together_once_a_result_is_read(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[int] = []
    settle = Pipeline.settle

    def noted(self: Pipeline) -> None:
        # Not those of the task that keeps the clock right.
        if self._queue and threading.current_thread().name.startswith("exotrio-store"):
            # Nor those that prepare one which this connection has run before.
            sent.append(sum(isinstance(item, Result) for item in self._queue))
        settle(self)

    def use_case(tx: Transaction) -> None:
        put(tx, "a", "1")
        first, second = tx.execute("SELECT 1"), tx.execute("SELECT 2")
        assert not sent
        assert second.fetchall() == [(2,)]
        assert first.fetchone() == (1,)
        assert sent == [4], "with BEGIN"
        put(tx, "b", "2")

    await store.write(put, "connected", "")
    monkeypatch.setattr("exotrio.manager.store.base.TALLY_INTERVAL_MS", math.inf)
    monkeypatch.setattr(Pipeline, "settle", noted)
    await store.write(use_case)
    assert await store.read(get, "b") == "2"


async def test_long_statements_and_long_answers_do_not_wait_for_each_other(store: Store) -> None:
    long = 8 * 1024 * 1024

    def use_case(tx: Transaction) -> int:
        tx.execute("SELECT repeat('x', CAST(? AS INTEGER))", (long,))
        put(tx, "long", "y" * long)
        row = tx.row("SELECT length(value) FROM meta WHERE key = 'long'")
        return 0 if row is None else int(row[0])

    assert await store.write(use_case) == long


async def test_a_connection_keeps_a_limited_number_of_prepared_statements(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "MAX_PREPARED", 5)

    def use_case(tx: Transaction) -> list[int]:
        for number in [*range(11)] * 2:
            assert tx.execute(f"SELECT {number} + 0").fetchone() == (number,)
            assert tx.execute(f"SELECT {number} + 0").fetchone() == (number,)
        return [row[0] for row in tx.execute("SELECT count(*) FROM pg_prepared_statements")]

    (kept,) = await store.write(use_case)
    assert 0 < kept <= 5


async def test_a_use_case_runs_again_if_what_it_read_has_changed_since(
    store: Store, database: Database
) -> None:
    await store.write(put, "a", "old")
    read = []

    def replace(tx: Transaction) -> None:
        read.append(get(tx, "a"))
        if len(read) == 1:
            database.execute("UPDATE meta SET value = 'changed' WHERE key = 'a'")
        tx.update("meta", ("key", "value"), ("value",), [("a", read[-1], "new")])

    await store.write(replace)
    assert read == ["old", "changed"]
    assert await store.read(get, "a") == "new"


async def test_a_use_case_that_never_gets_through_is_refused(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writes, "RETRY_FOR", 0.1)

    def never(tx: Transaction) -> None:
        put(tx, "a", "b")
        raise RowChanged("runs")

    for write in (store.write, partial(store.write_as, IN_PROCESS)):
        with pytest.raises(DatabaseError, match=r"never: other .* same rows of runs \d+ times\n.* repeat"):
            await write(never)
    assert await store.read(get, "a") is None


async def test_a_use_case_that_was_slow_runs_again_once_when_another_changed_its_rows(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writes, "RETRY_FOR", 0.0)
    repeated = []

    def write(tx: Transaction) -> str:
        repeated.append(tx.is_repeated)
        if not tx.is_repeated:
            tx.begin_again("claims")
        return "done"

    assert await store.write(write) == "done"
    assert repeated == [False, True]


async def test_a_use_case_that_is_not_repeated_for_a_caller_who_is_gone_is_no_failure(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    with gate() as closed:

        def write(tx: Transaction) -> None:
            closed.hold()
            tx.begin_again("claims")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(store.write, write)
            await trio.to_thread.run_sync(closed.wait_entered)
            nursery.cancel_scope.cancel()
    await store.write(put, "a", "b")
    assert "could not be written" not in caplog.text


async def test_a_use_case_whose_session_is_ended_before_its_commit_runs_again(
    store: Store, database: Database
) -> None:
    sessions = []

    def write(tx: Transaction) -> None:
        sessions.append(session(tx))
        put(tx, "a", str(len(sessions)))
        if len(sessions) == 1:
            database.terminate(sessions[0])
            tx.row("SELECT 1")

    await store.write(write)
    assert len(set(sessions)) == 2
    assert await store.read(get, "a") == "2"


@pytest.mark.parametrize(("when", "selected"), [("before", None), ("after", "b")])
async def test_a_commit_without_an_answer_is_unknown(
    database: Database, proxy: PostgresProxy, when: str, selected: str | None
) -> None:
    async with open_store(database.url_at(proxy.port)) as store:
        proxy.cut_at_commit(when)  # type: ignore[arg-type]
        with pytest.raises(DatabaseError, match="not known"):
            await store.write(put, "a", "b")
        assert proxy.cuts == 1
        assert await store.read(get, "a") == selected
        await store.write(put, "a", "c")


async def test_a_use_case_that_changed_nothing_runs_again_if_its_commit_is_cut(
    database: Database, proxy: PostgresProxy
) -> None:
    async with open_store(database.url_at(proxy.port)) as store:
        proxy.cut_at_commit("after")
        assert await store.write(get, "version") is not None
        assert proxy.cuts == 1


async def test_while_the_server_is_away_use_cases_fail_soon_and_later_ones_succeed(
    database: Database, proxy: PostgresProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writes, "RETRY_FOR", 0.2)
    monkeypatch.setattr(readers, "RETRY_FOR", 0.2)
    async with open_store(database.url_at(proxy.port)) as store:
        await store.write(put, "a", "b")
        proxy.refuses = True
        proxy.cut()
        store.write_later(lambda tx: put(tx, "later", "done"))
        for call in (lambda: store.write(put, "a", "c"), lambda: store.read(get, "a"), store.check_writable):
            with pytest.raises(DatabaseError):
                await call()
        proxy.refuses = False
        with trio.fail_after(TEST_TIMEOUT):
            while await store.read(get, "later") is None:  # noqa: ASYNC110 - only the database knows
                await trio.sleep(0.01)
        await store.check_writable()


async def test_a_cancelled_query_ends_on_the_server(store: Store, database: Database) -> None:
    sleep = "SELECT pg_sleep(600)"
    async with trio.open_nursery() as nursery:
        nursery.start_soon(store.read, lambda view: view.row(sleep))
        await until(lambda: database.running(sleep))
        nursery.cancel_scope.cancel()
    await until(lambda: not database.running(sleep))


async def test_a_query_ends_at_its_deadline(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("exotrio.manager.store.readers.DEADLINE", 0.1)
    with pytest.raises(Refused, match="longer than"):
        await store.read_with_deadline(lambda view: view.row("SELECT pg_sleep(600)"))


async def test_registered_nodes_are_read_again_once_another_manager_registers_some(
    database: Database,
) -> None:
    def register(tx: Transaction, runtime: str, version: int) -> None:
        row = ("ns", "Node", runtime, f'{{"properties": {{"{runtime}": 1}}}}', "{}", "[]", 1, 1)
        tx.insert(
            "nodes",
            (
                *("namespace", "name", "runtime_name", "inputs_schema", "outputs_schema", "secrets"),
                *("created_at", "updated_at"),
            ),
            [row],
            "(namespace, name) DO UPDATE SET inputs_schema = excluded.inputs_schema",
        )
        put(tx, "registered", str(version))
        tx.catalog.forget_registered()

    def inputs(tx: Transaction) -> list[str] | None:
        node = tx.registered("ns", "Node")
        return None if node is None else list(node.inputs)

    def try_in_vain(tx: Transaction) -> None:
        register(tx, "never", 2)
        assert inputs(tx) == ["never"]
        raise InvalidRequest("no")

    async with open_store(database.url) as store, open_store(database.url) as other:
        assert await store.write(inputs) is None
        await other.write(register, "first", 1)
        assert await store.write(inputs) == ["first"]
        with pytest.raises(Refused):
            await store.write(try_in_vain)
        # With the version that was never committed.
        await other.write(register, "second", 2)
        assert await store.write(inputs) == ["second"]


async def test_the_time_is_that_of_the_database(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time_ns", lambda: 0)
    now = "SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint"
    async with open_store(database.url) as store:
        ((before,),) = database.execute(now)
        selected = await store.read(lambda view: view.now_ms)
        ((after,),) = database.execute(now)
        assert store.lease_clock is not None
        assert before - 1_000 <= selected <= store.lease_clock() <= after + 10_000


async def test_tables_are_cleared_of_old_rows_early(store: Store, database: Database) -> None:
    options = dict(
        database.execute("SELECT relname, reloptions::text FROM pg_class WHERE reloptions IS NOT NULL")
    )
    for table in ("runs", "states", "counts", "unite_counters"):
        assert "fillfactor" in options[table]
        assert "autovacuum_vacuum_scale_factor=0.02" in options[table]


async def test_runs_are_locked_by_number_however_they_are_stored(database: Database) -> None:
    """Two transactions that lock them in different orders would be a deadlock."""
    for way in ("indexscan", "indexonlyscan", "nestloop"):  # which would find them by number
        database.execute(f"ALTER DATABASE {database.name} SET enable_{way} = off")
    async with open_manager(database.url) as manager:
        await Flow.start(manager.api, place("a"), runs=10)
        selected = "SELECT id, (SELECT min(seq) FROM states WHERE run = runs.id) FROM runs ORDER BY id"
        runs = database.execute(selected)
        first = runs[0][0]
        # New versions, with new entries in the indexes, are stored after the others. So the first run is
        # between others, whether they are found as they are stored or, by a hash, the last one first.
        for moved in runs[:1], runs[6:]:
            for run, seq in moved:
                database.execute("UPDATE states SET enqueue_after = enqueue_after + 1 WHERE seq = %s", (seq,))
                database.execute("UPDATE runs SET run_id = run_id || 'x' WHERE id = %s", (run,))
        async with trio.open_nursery() as nursery:
            with psycopg.connect(database.url) as holder, psycopg.connect(database.url) as other:
                holder.execute("SELECT FROM runs WHERE id = %s FOR UPDATE", (first,))
                nursery.start_soon(manager.service.store.write, locked_runs_of, [row[1] for row in runs])
                await until(database.blocked)
                other.execute("SELECT FROM runs WHERE id > %s FOR UPDATE NOWAIT", (first,))


async def test_plans_made_while_a_table_was_empty_are_not_kept(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("exotrio.manager.store.postgres.store.WRITERS", 1)
    monkeypatch.setattr(connection, "PLANS_KEPT", 0)

    def plan(tx: Transaction) -> str:
        select = f"SELECT seq, run FROM states WHERE {tx.any_of('seq')}"
        tx.execute(select, (tx.items([1]),)).fetchall()
        name = tx.row(
            "SELECT name FROM pg_prepared_statements WHERE statement = ?", (translate(select).decode(),)
        )
        explained = tx.execute(f"EXPLAIN EXECUTE {name[0]} ('{{1}}')") if name is not None else ()
        return "\n".join(row[0] for row in explained)

    async with open_store(database.url) as opened:
        database.execute("VACUUM ANALYZE states")
        for _ in range(2):  # it is prepared when it is run again
            before = await opened.write(plan)
        assert "states_by_run" in before, "nothing would be wrong with it"
        database.execute(
            "INSERT INTO states (seq, run, place, node_id, status, inputs, enqueue_after, created_at,"
            " updated_at) SELECT n, n, 0, 1, 'CREATED', '{}', 0, 0, 0 FROM generate_series(1, 10000) AS n"
        )
        assert "states_pkey" in await opened.write(plan)


async def test_a_start_raises_the_numbers_of_all_tables_above_those_that_were_assigned(
    database: Database,
) -> None:
    sequences = (
        "SELECT pg_get_serial_sequence(table_name, column_name) FROM information_schema.columns"
        " WHERE table_schema = current_schema() AND is_identity = 'YES' ORDER BY 1"
    )
    async with open_store(database.url):
        names = [name for (name,) in database.execute(sequences)]
    assert len(names) >= 7
    assigned = dict.fromkeys(names, 0)
    for _ in range(2):
        # As on a standby that lacks the last commits.
        for name in names:
            database.execute("SELECT setval(%s, 1, false)", (name,))
        async with open_store(database.url):
            for name in names:
                ((number,),) = database.execute("SELECT nextval(%s)", (name,))
                assert number > assigned[name], name
                assigned[name] = number
