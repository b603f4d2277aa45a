"""How ``python -m exotrio run|dev`` loads a user's file and runs what it builds on its own manager.

Private, for the command line::

    with hosted() as runtimes:          # while the file is loaded
        module = load(file)
    for runtime in runtimes:
        runtime.adopt(transport)        # then; without one: what the runtime names, or the environment
        await nursery.start(runtime.run)

While ``hosted()`` is entered, ``Runtime(...)`` asks for no URI and no key, and ``start()`` refuses
to run (the file would never finish loading).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from exotrio._runtime.runtime import Runtime

_built: ContextVar[list[Runtime] | None] = ContextVar("exotrio_hosted_runtimes", default=None)


@contextmanager
def hosted() -> Iterator[list[Runtime]]:
    """Collect the runtimes built in the body, in order; none of them needs an endpoint yet."""
    runtimes: list[Runtime] = []
    token = _built.set(runtimes)
    try:
        yield runtimes
    finally:
        _built.reset(token)


def hosting() -> list[Runtime] | None:
    """Return the list to enter a new runtime in, or None if nobody supplies its manager."""
    return _built.get()
