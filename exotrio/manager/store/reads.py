"""What may go wrong with queries, on every engine, and how that is logged."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from exotrio._util.outage import Outage
from exotrio.errors import DatabaseError
from exotrio.manager.rules.errors import Refused


class OutOfTime(Exception):
    """A query took as long as it may."""


class NotRead(DatabaseError):
    """The database could not be read; that is in the log already."""


def new_outage() -> Outage:
    """Return what logs that all queries of a store fail."""
    return Outage(logging.getLogger("exotrio.manager.store"), "reading the database")


@contextmanager
def reading(outage: Outage) -> Iterator[None]:
    """Log when queries begin to fail, and when one works again; the body runs one."""
    try:
        yield
    except NotRead as error:
        outage.failed(error, "whoever needs what is there gets an error", level=logging.ERROR)
        raise
    outage.worked()


def too_slow(limit: float) -> Refused:
    """Return the error for a ``look`` that was ended after so many seconds."""
    return Refused(
        400,
        f"this took longer than {limit:g} s and was ended; ask for less:"
        " one run, graph or node, a shorter time, or a smaller page",
    )
