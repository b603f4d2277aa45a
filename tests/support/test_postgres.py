"""What tests on PostgreSQL rely on: databases begin empty, and servers end with their process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Literal

import psycopg
import pytest
import trio
import trio.testing

from tests.support import postgres
from tests.support.postgres_proxy import PostgresProxy

CHECKOUT = Path(__file__).parents[2]
SERVES = """
from tests.support.postgres import server
print(server().folder, flush=True)
input()
"""


def test_each_test_begins_with_an_empty_database_and_a_role_that_owns_only_it() -> None:
    for _ in range(2):
        with postgres.empty_database() as database, psycopg.connect(database.url) as connection:
            connection.execute("CREATE TABLE a (b TEXT)")
            assert connection.execute("SHOW deadlock_timeout").fetchone() == ("1s",)
            database.execute(f"ALTER DATABASE {database.name} SET deadlock_timeout = '50ms'")
            may = "SELECT rolsuper OR rolcreatedb FROM pg_roles WHERE rolname = current_user"
            assert connection.execute(may).fetchone() == (False,)


def test_a_server_that_crashed_has_what_was_committed_and_the_address_of_before() -> None:
    with postgres.empty_database() as database, psycopg.connect(database.tcp_url) as connection:
        connection.execute("CREATE TABLE a (b TEXT)")
        connection.commit()
        database.server.restart()
        with pytest.raises(psycopg.OperationalError):
            connection.execute("SELECT 1")
        assert database.execute("SELECT * FROM a") == []


def test_behind_the_pooler_a_session_is_another_one_than_it_seems() -> None:
    with (
        postgres.empty_database() as database,
        postgres.pooler() as pooler,
        psycopg.connect(database.url_at(pooler.port)) as connection,
    ):
        (pid,) = connection.execute("SELECT pg_backend_pid()").fetchone() or ()
        assert pid != connection.pgconn.backend_pid


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_server_ends_with_the_process_that_started_it(number: signal.Signals) -> None:
    postgres.server()
    command = [sys.executable, "-c", SERVES]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=CHECKOUT, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        folder = Path(process.stdout.readline().strip())
        pid = int((folder / "data" / "postmaster.pid").read_text().split()[0])
        process.send_signal(number)
        # Until all have ended that have the other end of this pipe: the process that keeps the server, too.
        process.stderr.read()
    assert not folder.exists()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_connection_cut_at_a_commit_does_not_reveal_whether_it_was_done(
    when: Literal["before", "after"],
) -> None:
    def insert() -> None:
        with psycopg.connect(database.url_at(proxy.port)) as connection:
            connection.execute("INSERT INTO a VALUES (1)")
            connection.commit()

    with postgres.empty_database() as database:
        database.execute("CREATE TABLE a (b INTEGER); GRANT ALL ON a TO public")
        proxy = PostgresProxy(database.server.port)
        async with trio.open_nursery() as nursery:
            await nursery.start(proxy.serve)
            await trio.to_thread.run_sync(insert)
            proxy.cut_at_commit(when)
            with pytest.raises(psycopg.OperationalError, match="closed the connection unexpectedly"):
                await trio.to_thread.run_sync(insert)
            nursery.cancel_scope.cancel()
        assert len(database.execute("SELECT * FROM a")) == (1 if when == "before" else 2)


async def test_data_that_the_proxy_holds_arrives_later_and_data_that_it_cuts_does_not() -> None:
    with postgres.empty_database() as database, trio.fail_after(60):
        proxy = PostgresProxy(database.server.port)
        async with trio.open_nursery() as nursery:
            await nursery.start(proxy.serve)
            url = database.url_at(proxy.port)
            connection = await trio.to_thread.run_sync(lambda: psycopg.connect(url))
            answers: list[object] = []

            async def ask() -> None:
                answers.append((await trio.to_thread.run_sync(connection.execute, "SELECT 1")).fetchone())

            async with trio.open_nursery() as asking:
                with proxy.hold():
                    asking.start_soon(ask)
                    await trio.testing.wait_all_tasks_blocked()
                    assert not answers
            assert answers == [(1,)]
            assert proxy.cut() == 1
            with pytest.raises(psycopg.OperationalError):
                await ask()
            proxy.refuses = True
            with pytest.raises(psycopg.OperationalError):
                await trio.to_thread.run_sync(lambda: psycopg.connect(url))
            connection.close()
            nursery.cancel_scope.cancel()
