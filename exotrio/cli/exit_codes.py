"""Exit codes, one list for every command. The help of ``python -m exotrio`` explains them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from exotrio import errors
from exotrio._util.exceptions import first_leaf
from exotrio.errors import ExotrioError, ProblemsError

if TYPE_CHECKING:
    from exotrio import Summary

SUCCESS = 0
FAILED = 1
USAGE = 2
INVALID = 3
UNREACHABLE = 4
KEY_REFUSED = 5
NOT_FOUND = 6
BUSY = 7
WAITING = 8  # a run, for events
ABANDONED = 75  # something was abandoned, or it is not known whether something was
INTERRUPTED = 130  # a run, which can be continued


class ModuleInvalid(ProblemsError):
    """The user's file or module cannot be used: it fails to import, or lacks a Runtime or Graph."""


_CODES: list[tuple[type[ExotrioError], int]] = [
    (errors.ConfigurationError, USAGE),
    (ModuleInvalid, INVALID),
    (errors.GraphInvalid, INVALID),
    (errors.RequestRefused, INVALID),
    (errors.ManagerUnavailable, UNREACHABLE),
    (errors.KeyRefused, KEY_REFUSED),
    (errors.NotFound, NOT_FOUND),
    (errors.PortBusy, BUSY),
    (errors.DatabaseBusy, BUSY),
    (errors.DatabaseError, USAGE),
]


def exit_code(error: ExotrioError) -> int:
    """Return the exit code for an error that ended a command."""
    return next((code for kind, code in _CODES if isinstance(error, kind)), FAILED)


def exit_code_after(end: Summary | BaseException) -> int:
    """Return the exit code of a process that ends with a Runtime, by its summary or its error."""
    if isinstance(end, ExotrioError):
        return exit_code(end)
    return FAILED if isinstance(end, BaseException) else end.exit_code


@contextmanager
def bare_errors() -> Iterator[None]:
    """Raise an exotrio error that comes out of a nursery without the exception group around it."""
    try:
        yield
    except BaseExceptionGroup as group:
        ours, rest = group.split(ExotrioError)
        if ours is None or rest is not None:
            raise
        leaf = first_leaf(ours)
        raise leaf from leaf.__cause__
