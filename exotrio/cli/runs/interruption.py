"""Ctrl-C and SIGTERM in a command that waits for a state manager."""

from __future__ import annotations

import trio

from exotrio._util.crossing import call_in_loop


class Interruption:
    """A scope that a signal cancels, in place of a KeyboardInterrupt, which could come anywhere.

    For ``run_blocking(main, interruption.stop)``, whose ``main`` works within ``begin()``.
    """

    def __init__(self) -> None:
        self._scope = trio.CancelScope()
        self._token: trio.lowlevel.TrioToken | None = None
        self._stopped = False

    def stop(self, grace: float | None, reason: str) -> None:
        """Called from the signal handler."""
        self._stopped = True
        call_in_loop(self._token, self._scope.cancel)

    def begin(self) -> trio.CancelScope:
        """Return the scope, in the loop."""
        self._token = trio.lowlevel.current_trio_token()
        if self._stopped:  # a signal came before the loop ran
            self._scope.cancel()
        return self._scope
