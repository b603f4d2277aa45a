"""A primary with a standby, and a failover from one to the other, with or without a loss of commits."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from time import monotonic, sleep
from typing import cast

from tests.support import postgres
from tests.support.postgres import Database, Server
from tests.support.postgres_proxy import PostgresProxy

TEST_TIMEOUT = 60.0


class Replicated:
    """A database on a primary that has a standby, and a proxy that leads to the primary.

    Attributes:
        primary: The server that can be written.
        standby: Follows it, asynchronously unless ``synchronize`` was called, until it takes over.
        replaced: The primaries of before. They are down; ``start`` revives one.
        proxy: Leads to the primary, and after a failover to its successor. A test calls ``serve``.
    """

    def __init__(self) -> None:
        self.primary = postgres.new_server()
        self._servers = [self.primary]
        self.add_standby()
        self.replaced: list[Server] = []
        self._tests = 0
        self._begin()

    def _begin(self) -> None:
        self._database = self.primary.new_database(f"failover_{self._tests}").name
        self.proxy = PostgresProxy(self.primary.port)
        self._is_intact = True
        self._tests += 1

    def begin_again(self) -> None:
        """Begin another test, with an empty database and a standby that follows the primary."""
        self.primary.set("synchronous_standby_names", "")
        if not self._is_intact:
            self.add_standby()
        self._begin()

    @property
    def database(self) -> Database:
        """The database as it is on the present primary."""
        return Database(self.primary, self._database)

    def on_primary(self) -> Database:
        """Return the database as it is on whichever server is the primary when it is used."""
        return Database(cast(Server, _Primary(self)), self._database)

    @property
    def url(self) -> str:
        """The URL of the database behind the proxy."""
        return self.database.url_at(self.proxy.port)

    def synchronize(self) -> None:
        """Let each commit wait for the standby from now on."""
        self.primary.set("synchronous_standby_names", "*")
        is_synchronous = "SELECT 1 FROM pg_stat_replication WHERE sync_state = 'sync'"
        _until(lambda: self.primary.execute(is_synchronous) != [], self.standby)

    def detach(self, standby: Server | None = None) -> None:
        """Let a standby have all that is committed by now, and nothing more: a failover loses the rest."""
        self._is_intact = False
        standby = standby or self.standby
        (position,) = self.primary.execute("SELECT pg_current_wal_flush_lsn()")[0]
        # What it was copied with it has replayed, and not received.
        has_it = "SELECT greatest(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn()) >= %s::pg_lsn"
        _until(lambda: standby.execute(has_it, (position,)) == [(True,)], standby)
        standby.set("primary_conninfo", "")
        _until(lambda: standby.execute("SELECT 1 FROM pg_stat_wal_receiver") == [], standby)

    def fail_over(self, *, to: Server | None = None) -> None:
        """End the primary at once, let a standby take over, and lead new connections there."""
        self.take_over(to=to)
        self.lead_to(self.primary)

    def take_over(self, *, to: Server | None = None) -> None:
        """End the primary at once, and let a standby take over. For any thread."""
        self._is_intact = False
        self.primary.crash()
        self.replaced.append(self.primary)
        self.primary = to or self.standby
        self.primary.promote()

    def lead_to(self, server: Server) -> None:
        """Cut all connections, and lead new ones to this server, be it the primary or not."""
        self.proxy.upstream = server.port
        self.proxy.cut()

    def add_standby(self) -> Server:
        """Give the primary a new standby."""
        self.standby = postgres.new_server(primary=self.primary)
        self._servers.append(self.standby)
        return self.standby

    def close(self) -> None:
        with ThreadPoolExecutor() as pool:
            list(pool.map(Server.close, self._servers))


class _Primary:
    def __init__(self, servers: Replicated) -> None:
        self._servers = servers

    def __getattr__(self, name: str) -> object:
        return getattr(self._servers.primary, name)


@contextmanager
def replicated() -> Iterator[Replicated]:
    """Start both servers for the length of the block, or skip the test."""
    postgres.server()  # skips
    servers = Replicated()
    try:
        yield servers
    finally:
        servers.close()


def _until(is_so: Callable[[], bool], standby: Server) -> None:
    deadline = monotonic() + TEST_TIMEOUT
    while not is_so():
        assert monotonic() < deadline, standby.log[-5_000:]
        sleep(0.01)
