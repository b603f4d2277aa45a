"""Phases of a runtime and the moves between them. It only moves forward, and may skip phases: a cancelled
scope goes from RUNNING straight to CANCELLING, a failed registration from STARTING to STOPPED."""

from __future__ import annotations

from enum import Enum


class Phase(Enum):
    """Where a runtime stands.

    NEW: built, not started.
    STARTING: connecting and registering.
    RUNNING: claiming, executing, reporting.
    DRAINING: no new claims; buffered states are released; running nodes may finish.
    CANCELLING: running nodes are cancelled, cleaned up and their states released.
    FLUSHING: the last outcomes and releases are delivered.
    STOPPED: nothing is left to do.
    """

    NEW = "new"
    STARTING = "starting"
    RUNNING = "running"
    DRAINING = "draining"
    CANCELLING = "cancelling"
    FLUSHING = "flushing"
    STOPPED = "stopped"


NEXT: dict[Phase, frozenset[Phase]] = {
    Phase.NEW: frozenset({Phase.STARTING}),
    Phase.STARTING: frozenset({Phase.RUNNING, Phase.STOPPED}),
    Phase.RUNNING: frozenset({Phase.DRAINING, Phase.CANCELLING, Phase.STOPPED}),
    Phase.DRAINING: frozenset({Phase.CANCELLING, Phase.FLUSHING, Phase.STOPPED}),
    Phase.CANCELLING: frozenset({Phase.FLUSHING, Phase.STOPPED}),
    Phase.FLUSHING: frozenset({Phase.STOPPED}),
    Phase.STOPPED: frozenset(),
}
"""The moves that exist; any other is a defect of the runtime. STOPPED can follow every phase of a runtime
that was started, since a defect can end it in each."""


def advance(current: Phase, target: Phase) -> Phase:
    """Return ``target`` if the table allows the move; raise RuntimeError otherwise."""
    if target not in NEXT[current]:
        raise RuntimeError(f"a runtime cannot go from {current.value} to {target.value}")
    return target
