"""One warning when something begins to fail, one line when it works again, and silence between."""

from __future__ import annotations

import logging


class Outage:
    """Logs the beginning and the end of one kind of failure.

    Args:
        log: Where to.
        doing: What fails, as in "claiming".
    """

    def __init__(self, log: logging.Logger, doing: str) -> None:
        self._log = log
        self._doing = doing
        self._last: type[object] | None = None
        self.failures = 0

    def failed(self, error: object, delay: float, *, level: int = logging.WARNING) -> None:
        """Log the first failure, and those of another kind, at ``level``; the others at DEBUG."""
        self.failures += 1
        if self.failures > 1 and type(error) is self._last:
            level = logging.DEBUG
        self._last = type(error)
        # One record, one line: errors of ours have up to three.
        text = str(error).replace("\n", "; ")
        self._log.log(level, "%s fails; it is tried again in %.1f s: %s", self._doing, delay, text)

    def worked(self) -> None:
        """Log that it works again, if it did not."""
        if self.failures:
            self._log.info("%s works again after %d failures", self._doing, self.failures)
        self.failures = 0
        self._last = None
