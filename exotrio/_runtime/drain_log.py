"""What a drain says of what it waits for."""

from __future__ import annotations

import logging

import trio

from exotrio._runtime.ledger import Ledger, Stage
from exotrio._util.words import plural

log = logging.getLogger("exotrio.runtime")

INTERVAL = 5.0
MOST_NAMED = 5
"""States named in one line, the longest running first."""


def waited_for(ledger: Ledger) -> str:
    """Return what a drain waits for, in a line; empty if for nothing."""
    running = ledger.all(Stage.RUNNING)
    if running:
        named = [f"{held}{held.standing}" for held in sorted(running, key=lambda held: held.taken_at)]
        more = [f"and {len(named) - MOST_NAMED} more"] if len(named) > MOST_NAMED else []
        return f"waiting for {plural(len(running), 'node')}: {'; '.join(named[:MOST_NAMED] + more)}"
    if left := ledger.count(Stage.DONE):
        return f"waiting for {left} deliveries"
    return "waiting for a claim in flight" if ledger.claiming else ""


async def tell_waiting(ledger: Ledger) -> None:
    """Log now and then what is still waited for. Never returns unless cancelled."""
    if not ledger.count(Stage.RUNNING):
        await trio.sleep(INTERVAL)  # what is on its way is over in a moment, as a rule
    while True:
        if text := waited_for(ledger):
            log.info("%s", text)
        await trio.sleep(INTERVAL)
