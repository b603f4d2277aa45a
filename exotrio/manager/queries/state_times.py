"""When a state waited, was held and ran, and how long each took."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from exotrio._wire.vocabulary import StateStatus
from exotrio.manager.engine.order import WAITING
from exotrio.manager.engine.states import (
    CREATED,
    NEXT_CREATED_ERROR,
    SUCCESS,
    begin_of,
    shown_status,
    waits_since,
)
from exotrio.manager.queries.load import BUFFERED
from exotrio.manager.store.driver import Row


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
        for_event: It waits, or waited until it ended, for an event or a run, and not for a runtime.
        for_run: For a run.
        no_event: That wait ended by its deadline.
        deadline: Which it was.
        earlier: Its creation, and when it was given back, began to wait or was woken, if it was held before:
            how long it waited and ran until then is not kept.
    """

    waits: int
    claimed: int | None
    begun: int | None
    ended: int | None
    finished: int | None
    stage: str | None = None
    is_output: bool = False
    for_event: bool = False
    for_run: bool = False
    no_event: bool = False
    deadline: int | None = None
    earlier: tuple[int, int] | None = None

    @property
    def is_over(self) -> bool:
        """Whether its ``execute`` is over, or it ended without."""
        return self.finished is not None or self.ended is not None

    def mapped(self, function: Callable[[int], int]) -> Times:
        """Return what a function makes of each of them."""
        others = (self.claimed, self.begun, self.ended, self.finished, self.deadline)
        claimed, begun, ended, finished, deadline = (None if at is None else function(at) for at in others)
        earlier = None if self.earlier is None else (function(self.earlier[0]), function(self.earlier[1]))
        return replace(
            self,
            waits=function(self.waits),
            claimed=claimed,
            begun=begun,
            ended=ended,
            finished=finished,
            deadline=deadline,
            earlier=earlier,
        )

    def spent(self, now: int) -> Spent:
        """Return how long the state waited and ran until it ended, or until now."""
        until = now if self.finished is None else self.finished
        if self.claimed is None:
            # A sweep may come to a deadline late: the state has waited no longer all the same.
            waited = max(0, (until if self.deadline is None else self.deadline) - self.waits)
            if self.for_run:
                return Spent(waited=None, for_run=waited)
            if self.for_event:
                return Spent(waited=None, for_event=waited, no_event=self.no_event)
            return Spent(waited=None if self.is_output else waited)
        waited, held = self.claimed - self.waits, max(0, until - self.claimed)
        if self.begun is None:
            return Spent(waited=waited, buffered=held if self.stage == BUFFERED else None, held=held)
        ran = max(0, (until if self.ended is None else self.ended) - self.begun)
        return Spent(waited=waited, buffered=self.begun - self.claimed, ran=ran, held=held)


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """The times of a state in ms, as ``StateTimes`` has them."""

    waited: int | None
    buffered: int | None = None
    ran: int | None = None
    held: int | None = None
    for_event: int | None = None
    for_run: int | None = None
    no_event: bool = False


def times(state: Row, stages: Mapping[int, str] | None = None) -> Times:
    """Return when a state waited, was held and ran; ``stages`` is what ``stages_among`` returned."""
    claimed = None if state["status"] == CREATED else state["claimed_at"]
    finished = state["finished_at"]
    begun = None if claimed is None else begin_of(state)
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
    no_event = bool(for_event and state["event"] and finished and state["enqueue_after"] < finished)
    created, changed = state["created_at"], state["updated_at"]
    # Later than the claim, it is the end, which a state manager of an earlier version stored.
    # A place that waits, or runs a graph, is changed when it begins to wait, and no runtime had it.
    # One that was cancelled while it waited has kept the id of its runtime.
    had_runtime = state["claimed_at"] is not None or state["worker"] is not None
    had_no_runtime = not had_runtime and (state["event"] or state["lane"] == WAITING)
    was_given_back = created < changed <= (until or changed) and not had_no_runtime
    return Times(
        waits=waits if until is None else min(waits, until),
        claimed=claimed,
        begun=begun,
        ended=None if begun is None else ended,
        finished=finished,
        stage=(stages or {}).get(state["seq"]),
        is_output=claimed is None and not for_event and state["status"] in (SUCCESS, NEXT_CREATED_ERROR),
        for_event=for_event,
        for_run=for_event and state["event"] is None,
        no_event=no_event,
        # At the very deadline, an ended state has the ms before it (``mailbox``).
        deadline=state["enqueue_after"] if no_event and finished - state["enqueue_after"] > 1 else None,
        earlier=(created, changed) if was_given_back else None,
    )


def spent_fields(state: Row, now_ms: int, stages: Mapping[int, str]) -> dict[str, Any]:
    """Return the times of a state in the wire format of ``StateTimes``."""
    fields = asdict(times(state, stages).spent(now_ms))
    return {"no_event": fields.pop("no_event")} | {f"{name}_ms": ms for name, ms in fields.items()}
