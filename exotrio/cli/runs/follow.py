"""Follows a run that runtimes elsewhere execute, until it ends or the user interrupts."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio

from exotrio._runtime.entry import run_blocking
from exotrio._util.crossing import call_in_loop
from exotrio.cli.connection import Connection
from exotrio.cli.exit_codes import FAILED, INTERRUPTED, SUCCESS
from exotrio.cli.program import command_line
from exotrio.cli.runs.result import collect, print_result
from exotrio.cli.terminal.progress import progress_for
from exotrio.client import Run, RunStatus, StateManager

Start = Callable[[StateManager], Awaitable[str]]

MAX_POLL_INTERVAL = 1.0
"""Seconds between two polls of the run."""


def follow(connection: Connection, start: Start) -> int:
    """Show a run's progress until it ends, then its result; return the exit code.

    SIGINT and SIGTERM end the following, not the run. ``start`` returns the id of the run; it may start it.
    """
    follower = _Follower(connection, start)
    return run_blocking(follower.main, follower.stop)


class _Follower:
    def __init__(self, connection: Connection, start: Start) -> None:
        self._connection = connection
        self._start = start
        self._progress = progress_for()
        self._following = trio.CancelScope()
        self._stopped = False
        self._token: trio.lowlevel.TrioToken | None = None

    def stop(self, grace: float | None, reason: str) -> None:
        """Called from the signal handler."""
        self._stopped = True
        call_in_loop(self._token, self._following.cancel)

    async def main(self) -> int:
        self._token = trio.lowlevel.current_trio_token()
        if self._stopped:  # a signal came before the loop ran
            self._following.cancel()
        run_id: str | None = None
        run: Run | None = None
        with self._connection.readable_errors():
            async with self._connection.open() as manager:
                with self._following:
                    run_id = await self._start(manager)
                    with self._progress:
                        run = await manager.wait(
                            run_id, poll_interval=MAX_POLL_INTERVAL, on_progress=self._progress.show
                        )
                    print_result(await collect(manager, run), self._connection.form, self._progress.elapsed)
        if run is None or self._following.cancelled_caught:
            self._progress.print_message(self._how_to_continue(run_id))
            return INTERRUPTED
        return SUCCESS if run.status is RunStatus.SUCCESS else FAILED

    def _how_to_continue(self, run_id: str | None) -> str:
        if run_id is None:
            return "interrupted; a run may have been started: see `runs ls`"
        command = command_line(["runs", "watch", run_id, *self._connection.arguments])
        return f"no longer following; the run continues. Follow it again with:\n  {command}"
