"""Distinguishes an item with which the state manager fails from an outage: rule 6 of ``_runtime``.

An answer 500 of the state manager may be about one outcome (it is too large for the database behind it), or
about everything (that database is away). It is about the outcome if something else gets through meanwhile::

    item         500 ............... 500 ............... 500        each counts, since in each gap
    others            began, ended        probe passed              something else began and ended

A request that was already on its way at the first 500 does not count: it may have arrived before an outage
began. If nothing else is to be delivered, a probe (``Link.probe``) is sent before the item's next attempt.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field

import trio

from exotrio._link.port import Fate, Settlement

MAX_SERVER_ERRORS = 8
"""Server errors after which an item counts as rejected. Fewer could be chance, behind a load balancer where
one of two servers fails."""


@dataclass(slots=True)
class ItemFailures:
    """The failures of one item, whose delivery failed.

    Attributes:
        count: Failed attempts.
        key_refused: The answer to the last attempt was 401 or 403.
        alone: It is not to be sent in one batch with others.
        server_errors: Server errors between which something else got through, so that they are not of an
            outage.
        failed_at: When its last attempt failed, as ``ServerErrors.begin`` numbers moments.
    """

    count: int = 0
    key_refused: bool = False
    alone: bool = False
    server_errors: int = 0
    failed_at: int = 0
    _ended_early: bool = False
    _pause: trio.CancelScope | None = None
    """That before its next attempt, while it may end early."""

    def new_pause(self, seconds: float, *, may_end_early: bool) -> trio.CancelScope:
        """Return the scope of a pause before the next attempt."""
        pause = trio.CancelScope(deadline=trio.current_time() + seconds)
        self._pause = pause if may_end_early and not self._ended_early else None
        return pause

    def end_pause(self, passed: int) -> None:
        """End the pause early if a delivery got through that began at this moment, after this item failed.

        Only once: what fails although others get through would else be repeated with each of them.
        """
        if self._pause is not None and self.failed_at < passed:
            self._pause.cancel()
            self._pause, self._ended_early = None, True


@dataclass(slots=True)
class ServerErrors:
    """The rule, for all items of one runtime."""

    _moment: int = 0
    _passed: int = 0
    """When the last delivery or probe that got through began."""
    _probing: trio.Lock = field(default_factory=trio.Lock)
    _last_probe: tuple[int, Settlement] = (0, Settlement(Fate.SETTLED))
    """When the last probe began, and its result."""

    def begin(self) -> int:
        """Return the moment at which a delivery or a probe begins: a number that only grows."""
        self._moment += 1
        return self._moment

    def passed(self, began: int, failing: Iterable[ItemFailures] = ()) -> None:
        """Record that the delivery or probe that began at this moment got through.

        An outage may be over, so the pauses of the ``failing`` items end.
        """
        self._passed = max(self._passed, began)
        for item in failing:
            item.end_pause(began)

    def failed(self, item: ItemFailures) -> None:
        """Record that an attempt failed for another reason."""
        item.failed_at = self.begin()

    def count_server_error(self, item: ItemFailures) -> bool:
        """Record that the state manager itself answered 500 to this item; return whether it rejects the
        item."""
        item.alone = True
        if not self.needs_probe(item):
            item.server_errors += 1
        item.failed_at = self.begin()
        return item.server_errors >= MAX_SERVER_ERRORS

    def needs_probe(self, item: ItemFailures) -> bool:
        """Whether the next server error of the item would prove nothing: nothing else got through since."""
        return item.server_errors > 0 and self._passed < item.failed_at

    async def failure_of_all(
        self, item: ItemFailures, probe: Callable[[], Awaitable[Settlement]]
    ) -> Settlement | None:
        """Return why nothing can be delivered now; None if something can, or if no probe is needed."""
        called_at = self.begin()
        async with self._probing:
            if not self.needs_probe(item):
                return None
            began, result = self._last_probe
            # Race: tasks that fail together wait for the lock; a probe that began since this call serves them
            # all.
            if began < called_at:
                began = self.begin()
                result = await probe()
                self._last_probe = began, result
            if result.fate is not Fate.SETTLED:
                return result
            self.passed(began)
            return None
