"""What probes ask: whether a runtime is alive, and whether it is ready. Answers from any thread, and never
asks the state manager: while that is away, restarting every runtime would not help."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from exotrio._runtime.lifecycle import Phase
from exotrio._util.events import Event, Polled

if TYPE_CHECKING:
    from exotrio._runtime.runtime import Runtime

MAX_LAG = 5.0
"""Seconds a loop may be late before its process counts as hung."""
POLL_MEMORY = 30.0
"""Seconds since the last claim that succeeded after which failing ones count."""


class Health:
    """The health of one runtime. Make it before the runtime is started.

    Args:
        runtime: The runtime.
        clock: Tells the time in seconds, in any thread. Defaults to ``time.monotonic``.

    Raises:
        LifecycleError: it was started before.
    """

    def __init__(self, runtime: Runtime, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._runtime = runtime
        self._clock = clock
        self._failing = False
        self._good_at: float | None = None
        runtime.observe(self._observe)

    def alive(self) -> str:
        """Return why the process should be restarted; empty if it should not."""
        lag = self._runtime.vitals.loop_lag
        if lag > MAX_LAG:
            return f"the loop is {lag:.1f} s late: node code blocks it, or the machine is overloaded"
        return ""

    def ready(self) -> str:
        """Return why this runtime begins no work; empty if it does."""
        vitals = self._runtime.vitals
        phase: str = vitals.phase.value
        if vitals.phase in (Phase.NEW, Phase.STARTING):
            return f"{phase}: its nodes are not registered yet"
        if vitals.phase is not Phase.RUNNING:
            return phase
        if vitals.stopping:
            return "a stop was requested"
        if problem := self.alive() or vitals.stuck:
            return problem
        if self._failing:
            # Only after a failure: while every worker is busy nothing is claimed, and that is fine.
            if self._good_at is None:
                return "no claim has succeeded yet"
            ago = self._clock() - self._good_at
            if ago > POLL_MEMORY:
                return f"claims fail; the last one that succeeded was {ago:.0f} s ago"
        return ""

    def _observe(self, event: Event) -> None:
        if isinstance(event, Polled):
            self._failing = event.result not in ("states", "empty")
            if not self._failing:
                self._good_at = self._clock()
