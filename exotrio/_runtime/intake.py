"""The way of claimed states into the ledger and to the workers, whichever request brought them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import trio

from exotrio._link.port import Claim
from exotrio._runtime.ledger import HeldClaim, Ledger
from exotrio._runtime.stop import Stop
from exotrio._shared.events import Polled

log = logging.getLogger("exotrio.poller")


@dataclass(slots=True, kw_only=True)
class Intake:
    """Takes what was claimed. ``claimed`` is the channel to the workers."""

    claimed: trio.MemorySendChannel[HeldClaim]
    ledger: Ledger
    stop: Stop

    def take(self, claims: Sequence[Claim], sent_at: float, limit: int) -> list[HeldClaim]:
        """Pass what was claimed to the workers.

        Return what has to be released: it came after a stop was requested, or more came than were requested.

        Args:
            sent_at: When the claim was sent, on the clock of ``Ledger.now``.
            limit: How many states it requested.
        """
        log.debug("claimed %d states", len(claims))
        if self.ledger.events:
            self.ledger.events.emit(Polled("states" if claims else "empty"))
        # All of them into the ledger first, so that whatever comes now finds them there.
        taken: list[HeldClaim] = []
        for claim in claims:
            held = self.ledger.add(claim, sent_at)
            if held is not None:
                taken.append(held)
            else:
                log.warning(
                    "state %s was claimed while it is still held here: it goes on under the new claim",
                    claim.state_id,
                )
        if self.stop.requested:
            return taken
        if len(taken) > limit:
            log.warning(
                "releasing %d states: the state manager sent more than were requested", len(taken) - limit
            )
        for held in taken[:limit]:
            self.claimed.send_nowait(held)
        return taken[limit:]
