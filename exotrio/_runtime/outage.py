"""One line in the log when something begins to fail, one when it works again, and none between."""

from __future__ import annotations

import logging


class Outage:
    """Logs the beginning and the end of one kind of failure: of ``doing``, as in "claiming states"."""

    def __init__(self, log: logging.Logger, doing: str) -> None:
        self._log = log
        self._doing = doing
        self._last: type[object] | None = None
        self.failures = 0

    def failed(self, error: object, then: float | str, *, level: int = logging.WARNING) -> None:
        """Log the first failure, and those of another kind, at ``level``; the others at DEBUG.

        ``then``: seconds until the next attempt, or what is done instead of one.
        """
        self.failures += 1
        if self.failures > 1 and type(error) is self._last:
            level = logging.DEBUG
        self._last = type(error)
        what = then if isinstance(then, str) else f"next attempt in {then:.1f} s"
        # One record, one line: our errors have up to three.
        self._log.log(level, "%s fails; %s: %s", self._doing, what, str(error).replace("\n", "; "))

    def worked(self) -> None:
        """Log that it works again, if it did not."""
        if self.failures:
            self._log.info("%s works again after %d failures", self._doing, self.failures)
        self.failures = 0
        self._last = None
