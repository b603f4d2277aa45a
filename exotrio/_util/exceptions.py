"""What is inside exception groups. Each nursery wraps what it raises in one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

_PARTS = BaseExceptionGroup.exceptions.__get__


def leaves(error: BaseException) -> list[BaseException]:
    """Return the exceptions in nested groups, each once; ``error`` itself if it is not a group."""
    return unfold(error)[0]


def unfold(error: BaseException) -> tuple[list[BaseException], int]:
    """Return the leaves, and the depth of groups around the deepest of them.

    Without recursion, and without calling methods of the groups, which may be overridden.
    """
    found, pending, seen, deepest = [], [(error, 0)], set(), 0
    while pending:
        part, depth = pending.pop()
        if id(part) in seen:
            continue
        seen.add(id(part))
        if issubclass(type(part), BaseExceptionGroup):
            pending += [(other, depth + 1) for other in reversed(_PARTS(part))]
        else:
            found.append(part)
            deepest = max(deepest, depth)
    return found, deepest


def first_leaf(error: BaseException) -> BaseException:
    """Return the first exception in nested groups; ``error`` itself if it is not a group."""
    return leaves(error)[0]


def single_leaf(error: BaseException) -> BaseException:
    """Return the only exception in nested groups; ``error`` itself if there are several."""
    found = leaves(error)
    return found[0] if len(found) == 1 else error


def without_cancelled(error: BaseException) -> BaseException | None:
    """Return ``error`` without any ``trio.Cancelled`` and without a group of one; None if nothing is left."""
    import trio  # here, since what only prints help need not wait for it

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
