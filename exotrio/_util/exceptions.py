"""The contents of exception groups. Each nursery wraps what it raises in one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


def leaves(error: BaseException) -> list[BaseException]:
    """Return the exceptions in nested groups, each once; ``error`` itself if it is not a group.

    Without recursion: groups may be nested in any depth.
    """
    parts: dict[int, BaseException] = {}
    pending = [error]
    while pending:
        part = pending.pop()
        if isinstance(part, BaseExceptionGroup):
            pending += reversed(part.exceptions)
        else:
            parts.setdefault(id(part), part)
    return list(parts.values())


def readable(error: BaseException) -> BaseException:
    """Return ``error``; or a plain error in its place if what its class defines fails when it is read."""
    try:
        for part in (error, *leaves(error)):
            _ = type(part).__name__
    except BaseException:
        # Not by the name of the class: that may be what fails.
        return RuntimeError(f"{type.__repr__(type(error))} was raised, and its attributes cannot be read")
    return error


def first_leaf(error: BaseException) -> BaseException:
    """Return the first exception in nested groups; ``error`` itself if it is not a group."""
    return leaves(error)[0]


def single_leaf(error: BaseException) -> BaseException:
    """Return the only exception in nested groups; ``error`` itself if there are several."""
    parts = leaves(error)
    return parts[0] if len(parts) == 1 else error


def without_cancelled(error: BaseException) -> BaseException | None:
    """Return ``error`` without any ``trio.Cancelled`` and without a group of one; None if nothing is left."""
    import trio  # here, since commands that only print help need not wait for it

    if isinstance(error, trio.Cancelled):
        return None
    if isinstance(error, BaseExceptionGroup):
        rest = error.split(trio.Cancelled)[1]
        while isinstance(rest, BaseExceptionGroup) and len(rest.exceptions) == 1:
            rest = rest.exceptions[0]
        return rest
    return error


@contextmanager
def ungrouped() -> Iterator[None]:
    """Raise an error out of the body without any ``trio.Cancelled`` and without a group of one around it."""
    try:
        yield
    except BaseExceptionGroup as group:
        if error := without_cancelled(group):
            raise error from None
        raise
