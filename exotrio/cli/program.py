"""Commands that are printed to be copied, spelled as this program was called; and Ctrl-C and SIGTERM."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

_MODULE = ["-m", "exotrio"]


@dataclass(frozen=True, slots=True)
class CalledAs:
    """The ``click.Context.obj`` of each command. ``process``: whether the process ends with the command."""

    process: bool


def command_line(arguments: Sequence[str]) -> str:
    """Return a command of this program that can be copied and works in the same folder."""
    return python_line([*_MODULE, *arguments])


def python_line(arguments: Sequence[str]) -> str:
    """Return a command of the Python that runs this program, spelled as it was called."""
    called = sys.orig_argv
    end = next((i for i in range(len(called)) if called[i : i + 2] == _MODULE), None)
    return shlex.join([*([sys.executable] if end is None else called[:end]), *arguments])


def run_until_stopped(
    main: Callable[[], Awaitable[int]],
    stop: Callable[[float | None, str], None],
    *,
    exiting: Callable[[], str | None],
    at_once: Callable[[float | None, str], None] = lambda grace, why: None,
) -> int:
    """Run ``main`` in a new Trio loop as ``run_blocking`` does, but call ``stop`` in that loop, where it may
    cancel a scope. ``at_once`` is called before, as by ``run_blocking``: nodes may block the loop.

    A signal that comes before the loop runs is handled before ``main`` is called.
    """
    import trio

    # Here, since --help needs no event loop.
    from exotrio._runtime.entry import run_blocking
    from exotrio._util.crossing import call_in_loop

    token: trio.lowlevel.TrioToken | None = None
    requests: list[tuple[float | None, str]] = []

    def request(grace: float | None, why: str) -> None:
        at_once(grace, why)
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
