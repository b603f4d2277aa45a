"""What tests on PostgreSQL rely on: databases begin empty, and servers end with whoever started them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest

from tests.support import postgres

CHECKOUT = Path(__file__).parents[2]
SERVES = """
from tests.support.postgres import server
print(server().folder, flush=True)
input()
"""


def test_each_test_begins_with_an_empty_database_of_which_it_has_nothing_but_the_database() -> None:
    for _ in range(2):
        with postgres.database() as database, psycopg.connect(database.url) as connection:
            connection.execute("CREATE TABLE a (b TEXT)")
            may = "SELECT rolsuper OR rolcreatedb FROM pg_roles WHERE rolname = current_user"
            assert connection.execute(may).fetchone() == (False,)


def test_a_server_that_crashed_has_what_was_committed_and_the_address_of_before() -> None:
    with postgres.database() as database, psycopg.connect(database.tcp_url) as connection:
        connection.execute("CREATE TABLE a (b TEXT)")
        connection.commit()
        database.server.restart()
        with pytest.raises(psycopg.OperationalError):
            connection.execute("SELECT 1")
        assert database.execute("SELECT * FROM a") == []


def test_behind_the_pooler_a_session_is_another_one_than_it_seems() -> None:
    with (
        postgres.database() as database,
        postgres.pooler() as pooler,
        psycopg.connect(database.url_at(pooler.port)) as connection,
    ):
        (pid,) = connection.execute("SELECT pg_backend_pid()").fetchone() or ()
        assert pid != connection.pgconn.backend_pid


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_server_ends_with_the_process_that_asked_for_it(number: signal.Signals) -> None:
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
