"""Where a database is, and how to connect to it. No text from this module contains a password."""

from __future__ import annotations

import logging
import math
import re
import threading
import time
from contextlib import suppress
from typing import Any

import psycopg
from psycopg import errors
from psycopg.conninfo import conninfo_attempts, conninfo_to_dict, make_conninfo
from psycopg.pq import PGconn, Ping

from exotrio._util.database_url import parse_database_url
from exotrio.errors import ConfigurationError, DatabaseError
from exotrio.manager.store.errors import Replaced
from exotrio.manager.store.postgres.adaptation import ADAPTERS
from exotrio.manager.store.postgres.connection import NO_TIMELINE, READ_TIMELINE, STATEMENT_LIMIT, Connection
from exotrio.manager.store.postgres.pipeline import Pipeline

logger = logging.getLogger("exotrio.manager.store")

MIN_VERSION = 15
"""The oldest PostgreSQL that the tests run on."""
CONNECT_TIMEOUT = 5
"""Seconds for a connection to one host of the URL, and then for each of its first answers; a URL may give
another number for the former."""
LOG_AGAIN = 60.0
"""Seconds between two lines in the log about a host that is refused."""
REFUSED_FOR = 3_600.0
"""Seconds for which ``refused`` names it after that."""
_DEFAULTS: dict[str, Any] = {
    "fallback_application_name": "exotrio",
    "client_encoding": "utf8",
    "connect_timeout": CONNECT_TIMEOUT,
    # A peer that disappears is noticed within seconds, not within hours.
    "keepalives_idle": 10,
    "keepalives_interval": 3,
    "keepalives_count": 3,
    "tcp_user_timeout": 15_000,
}
_PASSING = ("08", "57P", "53300", "25006", "55000")
"""SQLSTATEs, or their beginnings, of errors that pass: the connection was lost; the server starts or stops,
has no room for another connection, or is not the primary yet."""
_NO_ROOM = re.compile("too many clients|connection slots|read-only")
"""In errors of a connection that a running server refused. psycopg knows no SQLSTATE of those, so in another
language they end the start at once, as a wrong password does."""
_UNKNOWN = re.compile(r'invalid URI query parameter: "([^"]*)"')
_SETTINGS = {
    # A plan made while tables were small is kept, so it must not scan them; and none takes long enough to be
    # worth compiling. Statements on many rows would be planned each time, for the values of their arrays.
    "enable_seqscan": "off",
    "plan_cache_mode": "force_generic_plan",
    # What is read is in memory. A bitmap scan, which would seem cheaper otherwise, marks no index entries of
    # deleted rows: it reads all of them again, in ``slots`` thousands, until the next vacuum.
    "random_page_cost": "1",
    "jit": "off",
    # The server ends a statement that takes longer; this process waits a little longer (``connection``).
    "statement_timeout": f"{STATEMENT_LIMIT:g}s",
    # Longer than PostgreSQL takes to detect a deadlock, of which it then ends one transaction only.
    "lock_timeout": "2s",
    # The locks of a manager that was stopped within a use case end with its session.
    "idle_in_transaction_session_timeout": "10s",
    # It would end the session that listens, again and again.
    "idle_session_timeout": "0",
}
_READER_SETTINGS = {
    "jit": "off",
    "statement_timeout": _SETTINGS["statement_timeout"],
    # A query waits for no row, but for a transaction that changes or rewrites a whole table.
    "lock_timeout": "4s",
    "idle_in_transaction_session_timeout": "60s",
    "idle_session_timeout": "0",
}


class ServerReplaced(Replaced, psycopg.OperationalError):
    """The server is a primary that another one has replaced."""


class Server:
    """A database on a PostgreSQL server, given by its URL. Raises ConfigurationError if that is not one.

    The URL may name several hosts. Connections lead to the first that can be used and is not on an older
    timeline than one that this process has seen. For all threads.
    """

    def __init__(self, url: str) -> None:
        self._url = parse_database_url(url)
        try:
            parameters = conninfo_to_dict(url)
        except psycopg.Error as error:
            # Its text may quote the password.
            unknown = _UNKNOWN.search(str(error))
            may_be_shown = unknown and unknown[1] in self._url.parameters
            raise ConfigurationError(
                "the URL of the database cannot be read",
                where=f"libpq knows no parameter {unknown[1]!r}" if unknown and may_be_shown else "",
                fix="write it as postgresql://user:password@host:port/name, with special characters"
                " percent-encoded",
            ) from None
        self._parameters = {**_DEFAULTS, **parameters}
        if "," in str(parameters.get("host", "")):
            # Several hosts are a primary and its replicas.
            self._parameters.setdefault("target_session_attrs", "read-write")
        self._timeline = READ_TIMELINE
        self._newest = -1
        self._lock = threading.Lock()
        self._refused: dict[str, tuple[float, str]] = {}
        self.shown = self._url.shown
        """Its URL, without a password."""

    def __repr__(self) -> str:
        return f"Server({self.shown!r})"

    def connect(self, *, writes: bool = True, reads_mark: bool = False) -> Connection:
        """Connect; ``reads_mark`` as in ``Connection``. Raises psycopg.Error: it names all hosts."""
        hosts = conninfo_attempts(self._parameters)
        if self._newest < 0 and len(hosts) > 1:
            # A primary that was replaced may come before its successor: see the timelines of all first.
            for host in hosts:
                with suppress(psycopg.Error):
                    self._connect_to(host, writes=False, reads_mark=False).close()
        failures = []
        for host in hosts:
            try:
                return self._connect_to(host, writes=writes, reads_mark=reads_mark)
            except psycopg.Error as error:
                name = ":".join(str(host[key]) for key in ("host", "port") if host.get(key))
                failures.append((error, f"{name}: {self.reason(error)}"))
        last = failures[-1][0]
        if len(failures) == 1:
            raise last
        raise psycopg.OperationalError("; ".join(text for _, text in failures), pgconn=last.pgconn) from last

    def _connect_to(self, host: dict[str, Any], *, writes: bool, reads_mark: bool) -> Connection:
        driver = psycopg.Connection.connect(autocommit=True, prepare_threshold=None, context=ADAPTERS, **host)
        try:
            first = Pipeline(driver, prepares=False, answer_timeout=CONNECT_TIMEOUT)
            pid = first.run(b"SELECT pg_backend_pid()").get_value(0, 0)
            # A pooler that lends sessions invents numbers for its own sessions.
            is_pooled = pid != b"%d" % driver.pgconn.backend_pid
            timeline = self._timeline_of(first)
            settings = _SETTINGS if writes else _READER_SETTINGS
            word = "SET LOCAL" if is_pooled else "SET"
            connection = Connection(
                driver,
                is_pooled=is_pooled,
                settings="; ".join(f"{word} {name} = '{value}'" for name, value in settings.items()),
                reads_mark=reads_mark,
                timeline=self._timeline,
            )
        except BaseException:
            driver.close()
            raise
        try:
            self.check_timeline(connection, timeline)
            if not is_pooled:
                connection.set_up()
        except BaseException:
            connection.close()
            raise
        return connection

    def check_timeline(self, connection: Connection, timeline: int) -> None:
        """Raise ServerReplaced if the timeline on which a server is has been replaced by a newer one."""
        with self._lock:
            if timeline >= self._newest:
                self._newest = timeline
                return
            error = ServerReplaced(
                f"the server is on timeline {timeline}, but another one took over on timeline"
                f" {self._newest}: it is an old primary that came back, which must not be written; stop it"
                " and rebuild it as a standby (pg_rewind), or, if it is meant to be used, restart all state"
                " managers"
            )
            # The error is shown to clients without a key, which the name of a host is not for.
            host, now = connection.host, time.monotonic()
            if now - self._refused.get(host, (-math.inf,))[0] >= LOG_AGAIN:
                self._refused[host] = now, f"{host} is refused: {error}"
                logger.warning("%s", self._refused[host][1])
        raise error

    def refused(self) -> list[str]:
        """Return which hosts were refused in the last hour, and why: what is wrong; what to do about it."""
        since = time.monotonic() - REFUSED_FOR
        with self._lock:
            return [text for at, text in self._refused.values() if at > since]

    def _timeline_of(self, first: Pipeline) -> int:
        try:
            answer = first.run(f"SELECT {self._timeline}".encode())
        except (errors.FeatureNotSupported, errors.UndefinedFunction, errors.InsufficientPrivilege) as error:
            logger.warning(
                "the database %s does not show its timeline (%s), so no failover to a standby that lacks"
                " commits is noticed: restart all state managers after one",
                *(self.shown, self.reason(error)),
            )
            self._timeline = NO_TIMELINE
            return 0
        return int(answer.get_value(0, 0) or b"", 16)

    def reason(self, error: Exception) -> str:
        """Return in one line what an error says."""
        text = error.diag.message_primary if isinstance(error, psycopg.Error) else None
        text = text or str(error).strip() or type(error).__name__
        return " ".join(self._url.redact(text).split())

    def may_recover(self, error: psycopg.Error) -> bool:
        """Return whether the database may become usable within seconds.

        It may connect, so call it in a thread. What the text says is in the language of the server.
        """
        if error.sqlstate is not None:
            return error.sqlstate.startswith(_PASSING)
        if error.pgconn is None:
            return True  # it was connected, and lost or silent after that; or there was no answer in time
        if PGconn.ping(make_conninfo(**self._parameters).encode()) != Ping.OK:
            return True  # no server answers, or it says that it starts or stops
        return _NO_ROOM.search(str(error)) is not None

    def unusable(self, error: Exception) -> DatabaseError:
        """Return the error for a database that cannot be used at all."""
        return DatabaseError(
            f"the database {self.shown} cannot be used: {self.reason(error)}",
            fix="check that the server runs, and the host, port, user, password and name in the URL",
        )
