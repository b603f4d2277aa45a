"""Ctrl-C and SIGTERM in commands that work in a Trio loop of their own."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio

from exotrio._runtime.entry import run_blocking
from exotrio._util.crossing import call_in_loop


def run_until_stopped(
    main: Callable[[], Awaitable[int]],
    stop: Callable[[float | None, str], None],
    *,
    exiting: Callable[[], str | None],
) -> int:
    """Run ``main`` as ``run_blocking`` does, but call ``stop`` in its loop, where it may cancel a scope.

    A signal that comes before the loop runs is handled before ``main`` is called.
    """
    token: trio.lowlevel.TrioToken | None = None
    requests: list[tuple[float | None, str]] = []

    def request(grace: float | None, why: str) -> None:
        requests.append((grace, why))
        call_in_loop(token, handle)

    def handle() -> None:
        while requests:
            stop(*requests.pop(0))

    async def begin() -> int:
        nonlocal token
        token = trio.lowlevel.current_trio_token()
        handle()
        return await main()

    return run_blocking(begin, request, exiting=exiting)
