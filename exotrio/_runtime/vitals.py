"""The vitals of a runtime at one moment: for health checks, metrics and displays, from any thread."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from exotrio._nodes.progress import Progress
from exotrio._runtime.held_claim import HeldClaim, Stage
from exotrio._runtime.lifecycle import Phase


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """A state whose node runs.

    Attributes:
        run_id: Its run; None on v0, which does not say.
        node: Name of its node class.
        identifier: Its place in the graph.
        begun: Whether its ``execute`` began.
        duration: Seconds since its ``execute`` began; 0 while the runtime prepares that.
        progress: The last progress that its node reported with ``self.progress(...)``; None without any.
    """

    state_id: str
    run_id: str | None
    node: str
    identifier: str
    begun: bool
    duration: float
    progress: Progress | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Vitals:
    """What a runtime does and holds at one moment.

    Attributes:
        stopping: A stop was requested, perhaps a moment before the phase shows it.
        workers: Maximum number of states that run at once.
        running: The states that workers have, the longest first: they run, or are prepared.
        buffered: States that wait for a worker.
        undelivered: Outcomes the state manager does not have yet.
        stuck: Why states are not claimed although there is room: outcomes cannot be delivered, or too many
            nodes are stuck. Else empty.
        loop_lag: Seconds for which the loop is blocked, or was at the last check.
    """

    phase: Phase
    stopping: bool
    workers: int
    running: tuple[Running, ...]
    buffered: int
    undelivered: int
    stuck: str
    loop_lag: float


def running_of(held: Sequence[HeldClaim], now: float) -> tuple[Running, ...]:
    """Return the states that run, the longest running first. ``now`` is on Trio's clock."""
    running = [each for each in held if each.stage is Stage.RUNNING]
    return tuple(
        Running(
            state_id=each.claim.state_id,
            run_id=each.claim.run_id,
            node=each.claim.node_name,
            identifier=each.claim.identifier,
            begun=each.buffered is not None,
            duration=each.ran(now) or 0.0,
            progress=each.progress,
        )
        for each in sorted(running, key=lambda each: each.taken_at)
    )
