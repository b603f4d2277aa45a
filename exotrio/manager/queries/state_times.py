"""When a state waited, was held and ran, and how long each took."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any, NamedTuple

from exotrio._wire.runs import MIN_REPORTING
from exotrio._wire.vocabulary import StateStatus
from exotrio.manager.engine.mailbox import FOR_EVENT, FOR_RUN, WAITS
from exotrio.manager.engine.order import WAITING
from exotrio.manager.engine.states import CREATED, NEXT_CREATED_ERROR, SUCCESS, shown_status, waits_since
from exotrio.manager.queries.load import BUFFERED, stages_among
from exotrio.manager.store.driver import Row
from exotrio.manager.store.view import View

HELD = "held"
"""The name of a phase in which a state waited for a runtime, and was held: it is not kept when."""


class Phase(NamedTuple):
    """A part of the time before a state could be claimed again: ``HELD``, ``FOR_EVENT`` or ``FOR_RUN``."""

    name: str
    begin: int
    end: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Times:
    """When a state waited, was held and ran, in Unix ms.

    Attributes:
        waits: Since when it waited: from its creation or, if it was delayed or held before, from when it
            became due or was given back.
        claimed: When it was claimed. None for one that waits, also if it was held before; its events show
            its earlier claims.
        begun: When ``execute`` began; None if it did not, or that was not reported.
        ended: When ``execute`` was over; None if it is not, or that was not reported.
        finished: When it ended.
        stage: ``BUFFERED`` or ``REPORTING``, if it is claimed and does not run.
        is_output: It is a further output of an execution: it never waited.
        waits_for: ``FOR_EVENT`` or ``FOR_RUN``, if it waits for that, or did until it ended, and not for a
            runtime.
        no_event: That wait ended by its deadline.
        never_began: It was cancelled, or replaced, while a runtime held it that had not begun it.
        earlier: If it was held before: the phases from its creation until it was given back, began to wait or
            was woken.
    """

    waits: int
    claimed: int | None
    begun: int | None
    ended: int | None
    finished: int | None
    stage: str | None = None
    is_output: bool = False
    waits_for: str | None = None
    no_event: bool = False
    deadline: int | None = None
    never_began: bool = False
    earlier: tuple[Phase, ...] = ()

    @property
    def is_buffered(self) -> bool:
        """Whether it was buffered from its claim on, without a begin."""
        return self.stage == BUFFERED or self.never_began

    @property
    def is_over(self) -> bool:
        """Whether its ``execute`` is over, or it ended without."""
        return self.finished is not None or self.ended is not None

    def is_reported_late(self, now: int) -> bool:
        """Whether the time from the end of ``execute`` until its outcome was accepted, or now, is shown."""
        until = now if self.finished is None else self.finished
        return self.ended is not None and until - self.ended >= MIN_REPORTING * 1000

    def mapped(self, function: Callable[[int], int]) -> Times:
        """Return what a function makes of each of them."""
        names = ("waits", "claimed", "begun", "ended", "finished", "deadline")
        moments: dict[str, Any] = {
            name: function(at) for name in names if (at := getattr(self, name)) is not None
        }
        earlier = tuple(Phase(name, function(begin), function(end)) for name, begin, end in self.earlier)
        return replace(self, earlier=earlier, **moments)

    def spent(self, now: int) -> dict[str, Any]:
        """Return how long the state waited and ran until it ended, or until now, in the wire format of
        ``StateTimes``."""
        until = now if self.finished is None else self.finished
        before: dict[str, int] = {}
        for name, begin, end in self.earlier:
            before[name] = before.get(name, 0) + end - begin
        if self.waits_for is not None:
            # A sweep may come to a deadline late: the state has waited no longer all the same.
            waited = max(0, (until if self.deadline is None else self.deadline) - self.waits)
            before[self.waits_for] = before.get(self.waits_for, 0) + waited
        spent: dict[str, Any] = {
            **dict.fromkeys(("waited_ms", "buffered_ms", "ran_ms", "held_ms")),
            "for_event_ms": before.get(FOR_EVENT),
            "for_run_ms": before.get(FOR_RUN),
            "earlier_ms": before.get(HELD),
            "no_event": self.no_event,
        }
        if self.waits_for is not None or self.is_output:
            return spent
        if self.claimed is None:
            return spent | {"waited_ms": max(0, until - self.waits)}
        held = max(0, until - self.claimed)
        spent |= {"waited_ms": self.claimed - self.waits, "held_ms": held}
        if self.begun is None:
            return spent | {"buffered_ms": held if self.is_buffered else None}
        ran = max(0, (until if self.ended is None else self.ended) - self.begun)
        return spent | {"buffered_ms": max(0, self.begun - self.claimed), "ran_ms": ran}


def times_among(view: View, rows: Sequence[Row]) -> dict[int, Times]:
    """Return when each of these states waited, was held and ran, by number."""
    stages = stages_among(view, {row["seq"]: row["status"] for row in rows})
    waiting = (row for row in rows if row["event"] is not None or row["calls_size"] is not None)
    waited = [row["seq"] for row in waiting if row["worker"] is not None]
    waits = _waits_of(view, view.any_of("state"), view.items(waited)) if waited else {}
    return {row["seq"]: _times(row, stages.get(row["seq"]), waits.get(row["seq"], ())) for row in rows}


def waits_in_run(view: View, run: int) -> dict[str, int]:
    """Return how long the executed states of a run waited in all, by ``FOR_EVENT`` and ``FOR_RUN``."""
    phases = _waits_of(
        view, "state IN (SELECT seq FROM states WHERE run = ? AND claimed_at IS NOT NULL)", run
    )
    sums = Counter[str]()
    for name, begin, end in chain.from_iterable(phases.values()):
        sums[name] += end - begin
    return dict(sums)


def _waits_of(view: View, which: str, parameter: object) -> dict[int, list[Phase]]:
    """Return the waits of states for events and runs, except those that ended with their states."""
    found: defaultdict[int, list[Phase]] = defaultdict(list)
    begins = dict[int, tuple[str, int]]()
    for seq, at, kind in view.execute(
        f"SELECT state, at, kind FROM events WHERE {which} ORDER BY state, id", (parameter,)
    ):
        if kind in WAITS:
            begins[seq] = WAITS[kind], at
        elif seq in begins:
            # It is written together with the event before.
            found[seq].append(Phase(*begins.pop(seq), at))
    return found


def _earlier(begin: int, end: int, waits: Sequence[Phase]) -> Iterator[Phase]:
    """Yield the phases of a time in which a state was held, and waited so."""
    for name, since, until in waits:
        # A clock that was set back may have put them in another order.
        since, until = min(max(since, begin), end), min(max(until, begin), end)
        yield Phase(HELD, begin, since)
        yield Phase(name, since, until)
        begin = until
    yield Phase(HELD, begin, end)


def _times(state: Row, stage: str | None, waited_before: Sequence[Phase]) -> Times:
    claimed = None if state["status"] == CREATED else state["claimed_at"]
    finished = state["finished_at"]
    begun = None if claimed is None else state["begun_at"]
    never_began = finished is not None and begun == finished and state["ran_ms"] is None
    if never_began:
        begun = None
    ended = finished  # of one that was cancelled
    if begun is not None and state["ran_ms"] is not None:
        ended = begun + state["ran_ms"]
    shown = shown_status(state["status"], state["lane"])
    # One that is cancelled, or waited for a run, keeps its lane. That of a place whose wait is over has none,
    # and is never claimed.
    waited = bool(finished and (state["lane"] == WAITING or (state["event"] and state["lane"] is None)))
    for_event = claimed is None and (shown == StateStatus.WAITING or waited)
    due = waits_since(state["enqueue_after"], state["updated_at"], claimed)
    waits = max(state["created_at"], due)
    if for_event:
        # A node is executed before it waits. After the end, it is what an earlier state manager stored.
        since = state["updated_at"]
        waits = since if finished is None or since < finished else state["created_at"]
    until = claimed or finished
    due_at = state["enqueue_after"]
    no_event = bool(for_event and state["event"] and finished and due_at < finished)
    created, changed = state["created_at"], state["updated_at"]
    # Later than the claim, it is the end, which a state manager of an earlier version stored.
    # A place that waits, or runs a graph, is changed when it begins to wait, and no runtime had it.
    # One that was cancelled while it waited has kept the id of its runtime.
    had_runtime = state["claimed_at"] is not None or state["worker"] is not None
    had_no_runtime = not had_runtime and (state["event"] or state["lane"] == WAITING)
    was_given_back = created < changed <= (until or changed) and not had_no_runtime
    phases = _earlier(created, changed, waited_before) if was_given_back else ()
    return Times(
        waits=waits if until is None else min(waits, until),
        claimed=claimed,
        begun=begun,
        ended=None if begun is None else ended,
        finished=finished,
        stage=stage,
        is_output=claimed is None and not for_event and state["status"] in (SUCCESS, NEXT_CREATED_ERROR),
        waits_for=(FOR_RUN if state["event"] is None else FOR_EVENT) if for_event else None,
        no_event=no_event,
        # At the very deadline, an ended state has the ms before it (``mailbox``).
        deadline=(finished if finished - due_at <= 1 else due_at) if no_event else None,
        never_began=never_began,
        earlier=tuple(phase for phase in phases if phase.begin < phase.end),
    )
