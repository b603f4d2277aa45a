"""Epochs: the time between two moments at which the database may have gone back in time.

A promoted standby may lack the last commits of its primary, and a restored backup lacks more. What a process
keeps by the numbers of nodes, templates, runs and states may then be about rows that no longer exist. So a
new epoch begins before the first transaction after such a moment: the row ``epoch`` in ``meta`` is replaced
(``database.begin_epoch``), and a process keeps nothing from one epoch to the next. Each connection reads its
epoch (``connection.Mark``) when it is made. Behind a pooler each transaction does so, in the round trip that
begins it.

A primary that was replaced and comes back is on an older timeline than its successor. It is refused by every
process that has seen the newer one (``server.check_timeline``); the old primary itself cannot know of that.
"""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass

import psycopg

from exotrio.manager.store.errors import UnknownCommit
from exotrio.manager.store.postgres.catalog import SharedCatalog
from exotrio.manager.store.postgres.connection import Connection, Mark
from exotrio.manager.store.postgres.database import begin_epoch
from exotrio.manager.store.postgres.server import Server

logger = logging.getLogger("exotrio.manager.store")


@dataclass(frozen=True, slots=True, eq=False)
class Epoch:
    """An epoch, and what this process keeps of the database in it."""

    mark: Mark
    catalog: SharedCatalog


class Epochs:
    """Makes connections, and says in which epoch each transaction is. For all threads of a store."""

    def __init__(self, server: Server, *, max_inputs: int) -> None:
        self.server = server
        self._max_inputs = max_inputs
        self._lock = threading.Lock()
        self._beginning = threading.Lock()
        self._present: Epoch | None = None

    def connect(self, *, writes: bool = True) -> Connection:
        """Connect to the primary. Raises psycopg.Error."""
        connection = self.server.connect(writes=writes, reads_mark=True)
        try:
            if connection.mark is not None:
                connection.mark = self._enter(connection, connection.mark).mark
        except BaseException:
            connection.close()
            raise
        return connection

    def has(self, connection: Connection) -> bool:
        """Return whether a connection is in the present epoch; behind a pooler only a transaction is."""
        present = self._present
        return connection.is_pooled or (present is not None and connection.mark == present.mark)

    def of(self, connection: Connection) -> Epoch:
        """Return the epoch of the transaction that begins on a connection.

        Raises:
            psycopg.OperationalError: another epoch began since it was connected, or its server was replaced.
        """
        present, mark = self._present, connection.mark
        if present is not None and mark == present.mark:
            return present
        if connection.is_pooled and mark is not None:
            if mark.is_begun:
                return self._enter(connection, mark)
            # To begin an epoch takes another connection, and the pooler may have no more than those on which
            # transactions like this one wait for it.
            connection.rollback()
            self._enter(connection, mark)
            raise psycopg.OperationalError("a new epoch of the database begins: this is repeated in it")
        raise psycopg.OperationalError("another primary took over since this connection was made")

    def _enter(self, connection: Connection, mark: Mark) -> Epoch:
        """Return the epoch with the mark that a connection has just shown. Begin it if it is not begun."""
        with self._lock:
            present = self._present
            if present is not None and mark == present.mark:
                return present
            self.server.check_timeline(connection, mark.timeline)
            if mark.is_begun:
                self._present = entered = Epoch(mark, SharedCatalog(self._max_inputs))
        if not mark.is_begun:
            return self._enter(connection, self._begin(mark))
        if present is not None:
            logger.warning(
                "the database %s is on timeline %d now, and was on %d: another primary took over, or a backup"
                " was restored; what its last commits wrote may be missing",
                *(self.server.shown, mark.timeline, present.mark.timeline),
            )
        return entered

    def _begin(self, shown: Mark) -> Mark:
        # One after the other, but without the lock for which transactions on a pooler's connections wait.
        with self._beginning:
            connection = self.server.connect()
            try:
                connection.begin()
                mark = begin_epoch(connection)
                connection.commit()
            except UnknownCommit as error:
                raise psycopg.OperationalError("the connection was lost when a new epoch began") from error
            finally:
                connection.close()
        if mark[:2] != shown[:2]:
            raise psycopg.OperationalError("another server took over just now")
        return mark
