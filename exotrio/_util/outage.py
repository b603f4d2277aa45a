"""One line in the log when something begins to fail, one when it works again, and none between."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field


@dataclass(slots=True)
class Outage:
    """Logs the beginning and the end of one kind of failure: of ``doing``, as in "claiming states"."""

    log: logging.Logger
    doing: str
    failures: int = field(default=0, init=False)
    _last: type[object] | None = field(default=None, init=False)

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
        self.log.log(level, "%s fails; %s: %s", self.doing, what, str(error).replace("\n", "; "))

    def worked(self) -> None:
        """Log that it works again, if it did not."""
        if self.failures:
            self.log.info("%s works again after %d failures", self.doing, self.failures)
        self.failures = 0
        self._last = None
