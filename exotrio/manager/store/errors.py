"""What goes wrong with the database of a store."""

from __future__ import annotations

import logging

from exotrio.errors import DatabaseError


class Replaced(Exception):
    """The database is not the one that was opened: what is written there would be lost."""


class NotRead(DatabaseError):
    """The database could not be read; that is in the log already."""


class NotCommitted(DatabaseError):
    """A commit failed; its reason is in the log already."""


class UnknownCommit(NotCommitted):
    """Whether a commit happened is not known."""


def log_level(error: DatabaseError) -> int:
    """Return the level at which to log an error: the store has logged an outage of the database already."""
    return logging.DEBUG if isinstance(error, NotCommitted | NotRead) else logging.ERROR


def closed() -> DatabaseError:
    """Return the error for calls after the store was closed."""
    return DatabaseError(
        "the state manager was closed",
        fix="end what uses it before the block of embedded(), or around serve(), ends",
    )
