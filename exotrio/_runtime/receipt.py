"""How the stop of a runtime goes: for its log and, by its heartbeats, for the state manager's receipt."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from exotrio._runtime.held_claim import DELIVERED, NOT_DELIVERED, HeldClaim
from exotrio._runtime.ledger import Ledger
from exotrio._runtime.lifecycle import Ending, Phase
from exotrio._runtime.stop import Stop
from exotrio._util.json import sendable
from exotrio._util.words import shortened
from exotrio._wire.vocabulary import to_ms

if TYPE_CHECKING:
    from exotrio._wire.stops import StopReport

FINISHED = frozenset(DELIVERED.values()) - {Ending.HANDED_OVER}
CUT = NOT_DELIVERED | {Ending.CANCELLED}
"""Endings of executions that worked for nothing. Of others it is not known, or their run was cancelled."""


@dataclass(slots=True, kw_only=True)
class StopRecord:
    """What happens from the request to stop on. Written in the runtime's loop, read from any thread.

    Attributes:
        now: Returns the time on the clock of the runtime's loop; from any thread.
        lost_claims: See ``Summary``; known at the end.
        exit_code: Of the process, if that ends with the runtime; known at the end.
        cut_off_by: What ends the process before its stop is complete; empty if nothing does.
        is_told: Set when the state manager knows the exit code.
    """

    stop: Stop
    ledger: Ledger
    now: Callable[[], float]
    lost_claims: int = 0
    exit_code: int | None = None
    cut_off_by: str = ""
    is_told: threading.Event = field(default_factory=threading.Event)
    _running: list[HeldClaim] = field(default_factory=list)
    _entered: list[tuple[Phase, float]] = field(default_factory=list)

    def enter(self, phase: Phase) -> None:
        if not self._entered:
            self._running = self.ledger.begun()
        self._entered.append((phase, self.now()))

    def close(self) -> None:
        """Record that only connections are left to be closed, which is not part of the last phase."""
        if self._entered:
            self._entered.append((Phase.STOPPED, self.now()))

    def line(self) -> str:
        """Return how the stop went, as it stands in the log before the summary."""
        report = self.report() if self._entered else None
        return ":" if report is None else f" {report.text()};"

    def report(self) -> StopReport | None:
        """Return how the stop went so far; None before it begins."""
        from exotrio._wire.stops import MAX_WHY, StopReport  # here, as all bodies of the API

        if not self.stop.was_requested:
            return None
        why, asked_at = self.stop.first_request
        now, phases = self.now(), list(self._entered)
        took = dict.fromkeys(Phase, None) | {
            phase: to_ms(until - since)
            for (phase, since), (_, until) in zip(phases, [*phases, (None, now)][1:], strict=True)
        }
        shortened_by = ", then ".join(filter(None, (self.stop.shortened_by, self.cut_off_by)))
        running = list(self._running)
        cut = [held for held in running if held.ending in CUT and held.ran(now) is not None]
        return StopReport(
            why=shortened(sendable(why), MAX_WHY),
            shortened_by=shortened(sendable(shortened_by), MAX_WHY),
            took_ms=to_ms(max(0.0, now - asked_at)),
            drain_ms=took[Phase.DRAINING],
            clean_up_ms=took[Phase.CANCELLING],
            flush_ms=took[Phase.FLUSHING],
            finished=sum(held.ending in FINISHED for held in running),
            handed_over=sum(held.ending is Ending.HANDED_OVER for held in running),
            cut=len(cut),
            work_lost_ms=to_ms(math.fsum(held.seconds_at_risk(now) for held in cut)),
            unknown=self.ledger.ended(Ending.UNKNOWN) + self.lost_claims,
            abandoned=self.ledger.ended(Ending.ABANDONED),
            kept=self.ledger.ended(Ending.KEPT),
            exit_code=self.exit_code,
        )
