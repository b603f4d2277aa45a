"""``Store``: what runs use cases and queries, and the errors that it raises."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, Concatenate, NamedTuple, ParamSpec, Protocol, TypeVar, overload

from exotrio.errors import DatabaseError
from exotrio.manager.rules.access import Caller
from exotrio.manager.store.effects import Effects, WithEffects
from exotrio.manager.store.transaction import Transaction
from exotrio.manager.store.view import View

P = ParamSpec("P")
T = TypeVar("T")

CLOSING_GRACE = 5.0
"""Seconds that the last writes may take when a store is closed, unless the caller says otherwise."""


class Replaced(Exception):
    """The database is not the one that was opened: what is written there would be lost."""


class NotRead(DatabaseError):
    """The database could not be read; that is in the log already."""


class NotCommitted(DatabaseError):
    """A commit failed; its reason is in the log already."""


class UnknownCommit(NotCommitted):
    """Whether a commit happened is not known."""


class Copy(NamedTuple):
    """A copy of a database: its size in bytes, and a function that returns the next bytes of it, at most as
    many as its argument says."""

    size: int
    read: Callable[[int], Awaitable[bytes]]


OnCommit = Callable[[int, Sequence[Effects]], None]


class Store(Protocol):
    """Where use cases run."""

    on_commit: OnCommit
    """Called in the Trio thread after every commit, with the number of use cases that have their results now
    (0 if it failed), and the effects of those that did not fail."""

    on_deliveries: Callable[[], None]
    """Called in the Trio thread after a commit with ``Effects.deliveries``."""

    path: Path | None
    """The file, or None without one."""

    is_shared: bool
    """Whether other state managers work on the database, too."""

    lease_clock: Callable[[], int] | None
    """The time in milliseconds by which all of them count leases; None: each process has its own clock."""

    @property
    def written(self) -> int:
        """Rows written since the start: it grows whenever a page may show something new."""

    def describe(self, view: View) -> dict[str, Any]:
        """Return the condition of the database, as ``DatabaseState``. A query."""

    @overload
    async def write(
        self,
        use_case: Callable[Concatenate[Transaction, P], WithEffects[T]],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T: ...

    @overload
    async def write(
        self, use_case: Callable[Concatenate[Transaction, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T: ...

    async def write(self, use_case: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Run a use case and return its value once it is durable. Then its effects happen.

        Raises:
            UnknownCommit: whether it happened is not known.
            DatabaseError: it could not be committed; nothing of it happened.
            Whatever the use case raises; nothing of it happened.

        Cancellation:
            The use case may still be committed. If it is, ``Effects.undo`` is run.
        """

    @overload
    async def write_as(
        self,
        caller: Caller,
        use_case: Callable[Concatenate[Transaction, P], WithEffects[T]],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T: ...

    @overload
    async def write_as(
        self,
        caller: Caller,
        use_case: Callable[Concatenate[Transaction, P], T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T: ...

    async def write_as(self, caller: Caller, use_case: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Run a use case as ``write`` does; what it records (``Transaction.record``) names this caller."""

    def write_later(self, use_case: Callable[[Transaction], object]) -> None:
        """Run a use case whose value is not needed; try again each second while the database fails."""

    async def write_once_ready(
        self,
        max_wait: float,
        use_case: Callable[Concatenate[Transaction, P], WithEffects[T | None]],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T | None:
        """Run a use case that may have to wait for something, and return its value once it is durable.

        While it returns None it is run again: in each commit that announces one of the topics in
        ``Effects.waits_for``, and when their seconds are over. Those that wait for the same topic run in
        the order in which they came, until one of them returns None: then nothing is left for the others.

        After ``max_wait`` seconds it is run a last time, and its value is returned even if it is None.
        Errors and cancellation are as in ``write``.
        """

    async def check_writable(self) -> None:
        """Write something, unless something was written just now. Errors and cancellation as in ``write``."""

    def copied(self) -> AbstractAsyncContextManager[Copy]:
        """Make one consistent copy of the database, and remove it after the block.

        Raises:
            Conflict: the database makes its own backups; it says how.
            Unavailable: no copy could be made.
        """

    async def forget_replaced(self) -> None:
        """Overwrite values that were replaced earlier, such as old secrets, in the files, where supported."""

    async def compute(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Return what a pure function that may take seconds returns, or raise what it raises.

        It runs in a thread, one at a time, so that it delays nothing else. With a database in memory it runs
        at once, without a thread, so that virtual time works. Cancelled, the thread goes on, and the next
        call waits for it.
        """

    async def measure_clock(self) -> None:
        """Compare the clock of leases with the database's, which may have been set. Errors as in ``read``."""

    async def read(self, query: Callable[Concatenate[View, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a query that runtimes or the state manager itself wait for, and return its result.

        The query must be short: it has no deadline. To cancel is safe: a query changes nothing.
        """

    async def read_with_deadline(
        self, query: Callable[Concatenate[View, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run a query that people wait for, a page or a search, and return its result.

        They do not delay ``read``, however many there are. In memory there is no difference.

        Raises:
            Refused: it took longer than 10 s, or waited that long for its turn.
        """


def log_level(error: DatabaseError) -> int:
    """Return the level at which to log an error: the store has logged an outage of the database already."""
    return logging.DEBUG if isinstance(error, NotCommitted | NotRead) else logging.ERROR
