"""Attempts that fail: the pauses between them, and one line in the log when something begins to fail, one
when it works again, and none between."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from dataclasses import dataclass, field

Uniform = Callable[[float, float], float]

MAX_DELAY_MS = 10 * 365 * 86_400_000
"""Ten years: a longer delay is a mistake. With this limit every sum of times fits into 64 bits."""


@dataclass(frozen=True, slots=True)
class Backoff:
    """Random pauses (full jitter) below a bound that doubles with each failure, from ``base`` to ``cap``."""

    base: float
    cap: float

    def pause(self, failures: int, at_least: float | None = None) -> float:
        """Return the seconds to wait before the next attempt.

        ``failures`` are those before the last one; ``at_least`` is the minimum that a server requires
        (``Retry-After``).
        """
        pause = random.uniform(0.0, min(self.cap, self.base * 2.0 ** min(failures, 64)))
        return pause if at_least is None else max(pause, at_least)


WITHIN_CALL = Backoff(0.25, 2.0)
"""For attempts that a caller, or a stop, waits for."""
OUTAGE = Backoff(0.25, 10.0)
"""For attempts that continue until one succeeds: a server that is back is soon used, and not flooded."""
REFUSED = Backoff(2.0, 30.0)
"""For requests that a server understood and refused: it will probably not accept them soon."""


@dataclass(slots=True)
class Outage:
    """Logs the beginning and the end of one kind of failure: of ``doing``, as in "sending mails"."""

    log: logging.Logger
    doing: str
    failures: int = field(default=0, init=False)
    _last: type[object] | None = field(default=None, init=False)

    def failed(
        self,
        error: object,
        then: float | str,
        *,
        level: int = logging.WARNING,
        repeat_every: int | None = None,
    ) -> None:
        """Log the first failure, and those of another kind, at ``level``; the others at DEBUG.

        ``then``: seconds until the next attempt, or what is done instead of one. ``repeat_every``: of how
        many failures of a kind one is logged at ``level``; None for the first one only.
        """
        self.failures += 1
        is_repeated = repeat_every is not None and self.failures % repeat_every == 0
        if self.failures > 1 and type(error) is self._last and not is_repeated:
            level = logging.DEBUG
        self._last = type(error)
        if not isinstance(then, str):
            then = "next attempt at once" if then < 0.05 else f"next attempt in {then:.1f} s"
        # One record, one line: our errors have up to three.
        self.log.log(level, "%s fails; %s: %s", self.doing, then, str(error).replace("\n", "; "))

    def worked(self) -> None:
        """Log that it works again, if it failed before."""
        if self.failures:
            self.log.info("%s works again after %d failures", self.doing, self.failures)
        self.failures = 0
        self._last = None
