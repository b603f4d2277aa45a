"""Starting a state manager on PostgreSQL: what is said when that cannot be, and what waits for it."""

from __future__ import annotations

import re
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import trio

from exotrio import ConfigurationError, DatabaseError
from exotrio.manager.store.driver import put_meta
from exotrio.manager.store.opening import open_store
from exotrio.manager.store.postgres import start
from tests.support.commands import NODES, Cli
from tests.support.pages import PRODUCTION, block, in_shell
from tests.support.postgres import PASSWORD, ROLE, Database
from tests.support.processes import KEY, Process, Processes, exotrio

SERVER = ("server", "--port", "0", "--key", KEY)
WRONG = "a-wrong-p5word"


@pytest.fixture
def database(empty_database: Database) -> Database:
    return empty_database


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    return Cli(tmp_path, monkeypatch, capsys)


def started(url: str, cwd: Path, *arguments: str) -> Process:
    return exotrio(*SERVER, *arguments, cwd=cwd, env={"EXOTRIO_DATABASE_URL": url})


def shown_nowhere(text: str) -> None:
    for secret in (PASSWORD, quote(PASSWORD, safe=""), WRONG):
        assert secret not in text


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ((quote(PASSWORD, safe=""), WRONG), "password authentication failed"),
        (("/test_", "/no_such_"), "does not exist"),
    ],
)
def test_an_error_that_does_not_pass_ends_the_start_at_once(
    database: Database, cli: Cli, change: tuple[str, str], says: str
) -> None:
    cli.set(EXOTRIO_DATABASE_URL=database.tcp_url.replace(*change))
    end = cli(*SERVER)
    assert end.code == 2, end
    assert says in end.err
    assert "cannot be reached yet" not in end.err
    shown_nowhere(end.out + end.err)


@pytest.mark.parametrize(
    ("end", "says"),
    [("?sslmod=require", "libpq knows no parameter 'sslmod'"), ("?sslmode=%zz", "cannot be read")],
)
async def test_a_url_that_libpq_refuses_is_not_shown(end: str, says: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        async with open_store(f"postgresql://ada:{WRONG}@db/name{end}"):
            raise AssertionError("it is open")
    assert says in str(caught.value)
    shown_nowhere(str(caught.value))


@pytest.mark.parametrize("command", [SERVER, ("runs", "ls", "-n", "n")])
def test_a_server_that_accepts_connections_and_never_answers_ends_the_start(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    monkeypatch.setattr(start, "STARTUP_TIMEOUT", 0.01)
    # The driver waits whole seconds, two at least.
    monkeypatch.setattr(
        "psycopg.connection.timeout_from_conninfo", lambda parameters: parameters["connect_timeout"] / 50
    )
    with socket.create_server(("127.0.0.1", 0)) as silent:
        cli.set(EXOTRIO_DATABASE_URL=f"postgresql://ada:{WRONG}@127.0.0.1:{silent.getsockname()[1]}/n")
        end = cli(*command)
    assert end.code == 2, end
    assert "cannot be used: connection timeout expired" in end.err
    assert "check that the server runs" in end.err
    shown_nowhere(end.err)


def test_a_server_that_is_away_is_waited_for(database: Database, tmp_path: Path) -> None:
    database.server.crash()
    with started(database.tcp_url, tmp_path) as process:
        try:
            process.line("cannot be reached yet, which is tried for 30 s: .*refused")
        finally:
            database.server.start()
        process.line("serving postgresql://")
        process.signal(signal.SIGTERM)
        shown_nowhere(process.wait().err)


REFUSING = """
import socket, struct, sys

*passing, last = zip(sys.argv[1::2], sys.argv[2::2])
with socket.create_server(("127.0.0.1", 0)) as listener:
    print(listener.getsockname()[1], flush=True)
    while True:
        connection, _ = listener.accept()
        with connection:
            connection.recv(1024)
            sqlstate, text = passing.pop(0) if passing else last
            each = ("SFATAL", "VFATAL", "C" + sqlstate, "M" + text, "")
            fields = "".join(field + chr(0) for field in each).encode()
            connection.sendall(struct.pack("!cI", b"E", len(fields) + 4) + fields)
"""


@contextmanager
def refusing_server(*refusals: tuple[str, str]) -> Iterator[int]:
    """Run a server that refuses each connection with the next of ``refusals``, in its own language.

    In another process: while libpq asks what a refusal means, no Python code of this one runs.
    """
    arguments = [sys.executable, "-I", "-S", "-c", REFUSING, *(text for each in refusals for text in each)]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield int(process.stdout.readline())
        finally:
            process.kill()


async def test_a_server_that_starts_is_waited_for_whatever_its_language(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(start, "RETRY_AFTER", 0.01)
    monkeypatch.setattr(start, "STARTUP_TIMEOUT", 600.0)  # what does not pass is not waited for
    starting, denied = "le système de bases de données se lance", "accès refusé"
    # To learn what the first refusal means takes a second connection.
    with trio.fail_after(20), refusing_server(*[("57P03", starting)] * 4, ("28P01", denied)) as port:
        message = await refusal(f"postgresql://ada@127.0.0.1:{port}/n?gssencmode=disable&sslmode=disable")
    assert denied in message
    assert starting in caplog.text
    assert caplog.text.count("cannot be reached yet") == 1


@pytest.mark.parametrize(
    ("command", "code", "says"),
    [
        (SERVER, 0, "SIGINT: stopping"),
        (("run", "nodes.py"), 130, "interrupted before the run began: nothing was started"),
        (("run", "nodes.py", "--resume", "some-run"), 130, "everything is kept. Continue with"),
        (("dev", "nodes.py"), 0, ""),
    ],
)
def test_a_signal_ends_the_waiting(tmp_path: Path, command: tuple[str, ...], code: int, says: str) -> None:
    (tmp_path / "nodes.py").write_text(NODES)
    away = {"EXOTRIO_DATABASE_URL": "postgresql://127.0.0.1:1/n"}
    with exotrio(*command, cwd=tmp_path, env=away) as process:
        process.line("cannot be reached yet")
        process.signal(signal.SIGINT)
        end = process.wait()
    assert end.code == code, end
    assert says in end.err
    assert "cannot be used" not in end.err, "it waited until the end"


def test_two_that_start_at_once_on_an_empty_database_serve_and_show_the_password_nowhere(
    database: Database, tmp_path: Path
) -> None:
    with Processes() as processes:
        both = [processes.enter_context(started(database.tcp_url, tmp_path, "-v")) for _ in range(2)]
        for process in both:
            line = process.line("serving (.*) as state manager [0-9a-f]{16}, with the key from the argument")
            assert line[1].startswith(f"postgresql://exotrio@127.0.0.1:{database.server.port}/")
            shown_nowhere(Path(f"/proc/{process.pid}/cmdline").read_text())
            process.signal(signal.SIGTERM)
        for process in both:
            end = process.wait()
            assert end.code == 0
            shown_nowhere(end.out + end.err)


def test_without_the_driver_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in [name for name in sys.modules if name.startswith("exotrio.manager.store.postgres")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(ConfigurationError) as caught:
        open_store("postgresql:///n")
    assert "pip install 'exotrio[postgres]'" in str(caught.value)


def test_state_managers_start_and_a_dump_is_restored_as_the_page_says(
    database: Database, tmp_path: Path
) -> None:
    server = database.server
    where = {"PGHOST": "127.0.0.1", "PGPORT": str(server.port), "PGUSER": ROLE, "PGPASSWORD": PASSWORD}
    env = {**in_shell(tmp_path), **where}
    env["PATH"] = f"{server.binaries}:{env['PATH']}"

    def run(line: str) -> None:
        subprocess.run(["bash", "-ec", line], cwd=tmp_path, env=env, check=True)

    _, create, *starts = block(PRODUCTION, "--port 8002").code.splitlines()
    server.execute(f"ALTER ROLE {ROLE} CREATEDB")
    try:
        run(create)
        with Processes() as processes:
            for line in starts:
                start = re.sub(r"--port \d+ &", "--port 0", line)
                command = ["bash", "-ec", start.replace(" python", " exec python")]
                processes.enter_context(Process(command, cwd=tmp_path, env=env)).line(
                    r"serving .* on http://"
                )
        for line in block(PRODUCTION, "\npg_dump").code.splitlines():
            run(line.replace("HOST", "127.0.0.1"))
        assert server.execute("SELECT count(*) FROM states", database="exotrio") == [(0,)]
    finally:
        server.execute("DROP DATABASE IF EXISTS exotrio WITH (FORCE)")
        server.execute(f"ALTER ROLE {ROLE} NOCREATEDB")


def test_backup_says_how_pg_dump_does_it_and_that_command_works(
    database: Database, cli: Cli, tmp_path: Path
) -> None:
    with started(database.tcp_url, tmp_path) as process:
        uri = process.line(r"serving .* on (http://\S+)")[1]
        cli.set(EXOSPHERE_STATE_MANAGER_URI=uri, EXOSPHERE_API_KEY=KEY)
        end = cli("backup", "copy.db")
        assert end.code == 3, end
        command = re.search(r"PGPASSFILE: (pg_dump .*)", end.err)
        assert command is not None, end
        shown_nowhere(end.err)
        program, *arguments = shlex.split(command[1])
        subprocess.run(
            [database.server.binaries / program, *arguments],
            cwd=tmp_path,
            env={"PGPASSWORD": PASSWORD},
            check=True,
        )
    dump = (tmp_path / "exotrio.dump").read_bytes()
    assert dump.startswith(b"PGDMP")
    assert b"states_by_turn" in dump


@contextmanager
def changed(database: Database, before: str, after: str) -> Iterator[None]:
    """Run a statement as superuser before the block, and one after it."""
    database.execute(before)
    try:
        yield
    finally:
        database.execute(after)


async def refusal(url: str) -> str:
    """Return for what reason, and with which advice, a database cannot be opened."""
    with pytest.raises(DatabaseError) as caught:
        async with open_store(url):
            raise AssertionError("it is open")
    return str(caught.value)


async def test_the_oldest_version_of_postgresql_that_is_served_is_named_and_an_older_one_refused(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def open_on(version: int) -> None:
        monkeypatch.setattr("psycopg.ConnectionInfo.server_version", version)
        async with open_store(database.url):
            pass

    await open_on(150_000)
    with pytest.raises(
        DatabaseError, match=r"is on PostgreSQL 14, which is too old\nuse PostgreSQL 15 or newer"
    ):
        await open_on(149_999)


async def test_a_role_that_may_create_no_tables_gets_an_error_that_names_the_privileges(
    database: Database,
) -> None:
    take = "ALTER SCHEMA public OWNER TO postgres; GRANT USAGE ON SCHEMA public TO public"
    owner = f"ALTER SCHEMA public OWNER TO {ROLE}"
    with changed(database, take, owner):
        message = await refusal(database.url)
    assert "permission denied for schema public" in message
    assert "grant the user CREATE on its schema" in message
    assert database.execute("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'") == [(0,)]


async def test_a_database_without_a_schema_is_refused(database: Database) -> None:
    message = await refusal(f"{database.url}&options=-csearch_path%3Dabsent")
    assert "has none of the schemas in its search_path" in message
    assert "create the schema first" in message


async def test_a_database_whose_encoding_is_not_utf8_is_refused(database: Database) -> None:
    name = f"{database.name}_latin1"
    options = f"OWNER {ROLE} ENCODING 'LATIN1' LOCALE_PROVIDER libc LOCALE 'C' TEMPLATE template0"
    database.server.execute(f"CREATE DATABASE {name} {options}")
    try:
        message = await refusal(replace(database, name=name).url)
    finally:
        database.server.execute(f"DROP DATABASE {name}")
    assert "has the encoding LATIN1" in message
    assert "ENCODING 'UTF8'" in message


@pytest.mark.parametrize(
    "tables",
    [
        "CREATE TABLE customers (id INTEGER)",
        "CREATE TABLE meta (name TEXT)",
        "CREATE TABLE meta (name TEXT); CREATE TABLE states (seq BIGINT); CREATE TABLE runs (id BIGINT)",
        "CREATE TABLE meta (key TEXT, value TEXT); INSERT INTO meta VALUES ('version', '2.1 beta');"
        " CREATE TABLE states (seq BIGINT); CREATE TABLE runs (id BIGINT)",
    ],
)
async def test_tables_of_another_program_are_refused_and_left_as_they_are(
    database: Database, tables: str
) -> None:
    def existing() -> list[tuple[Any, ...]]:
        return database.execute(
            "SELECT table_name, column_name FROM information_schema.columns"
            " WHERE table_schema = 'public' ORDER BY 1, 2"
        )

    database.execute(f"SET ROLE {ROLE}; {tables}")
    before = existing()
    message = await refusal(database.url)
    assert "was not made by exotrio" in message
    assert "name another database in the URL" in message
    assert existing() == before


async def test_a_server_that_does_not_show_its_timeline_is_used_with_a_warning(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    async def epoch_after_a_start() -> str:
        async with open_store(database.url) as store:
            await store.write(lambda tx: put_meta(tx, "written", "yes"))
        ((epoch,),) = database.execute("SELECT value FROM meta WHERE key = 'epoch'")
        return str(epoch)

    function = "EXECUTE ON FUNCTION pg_walfile_name(pg_lsn)"
    hidden = f"REVOKE {function} FROM PUBLIC", f"GRANT {function} TO PUBLIC"
    with changed(database, *hidden):
        first = await epoch_after_a_start()
        assert await epoch_after_a_start() == first
    assert caplog.text.count("does not show its timeline (permission denied for function") == 2
    shown = await epoch_after_a_start()
    assert shown != first, "on which timeline that epoch began is not known"
    with changed(database, *hidden):
        assert await epoch_after_a_start() == shown, "state managers that see it and others may work together"
