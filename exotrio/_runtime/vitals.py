"""How a runtime is, at one moment: for health checks, metrics and displays, from any thread."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from exotrio._nodes.progress import Progress
from exotrio._runtime.ledger import HeldClaim, Stage
from exotrio._runtime.lifecycle import Phase


@dataclass(frozen=True, slots=True)
class Running:
    """A state whose node runs.

    Attributes:
        state_id: The state.
        run_id: Its run; None on v0, which does not say.
        node: Name of its node class.
        identifier: Its place in the graph.
        duration: Seconds since a worker took it.
        progress: What its node said last with ``self.progress(...)``, if anything.
    """

    state_id: str
    run_id: str | None
    node: str
    identifier: str
    duration: float
    progress: Progress | None


@dataclass(frozen=True, slots=True)
class Vitals:
    """How a runtime is.

    Attributes:
        phase: Where it stands.
        stopping: A stop was asked for, perhaps a moment before the phase tells.
        workers: Most states that run at once.
        running: What runs, the longest running first.
        buffered: States that wait for a worker.
        undelivered: Outcomes the state manager does not have yet.
        stuck: Why something is not claimed although it could be: outcomes cannot be delivered, or nodes
            that were left behind stop all others of their kind. Else empty.
        loop_lag: How many seconds the loop is late; only measured once ``Runtime.observe`` was called.
    """

    phase: Phase
    stopping: bool
    workers: int
    running: tuple[Running, ...]
    buffered: int
    undelivered: int
    stuck: str
    loop_lag: float


def vitals_of(
    held: Sequence[HeldClaim],
    *,
    phase: Phase,
    stopping: bool,
    workers: int,
    loop_lag: float,
    now: float,
    stuck: str = "",
) -> Vitals:
    """Return the vitals of a runtime that holds this at that moment, which is on Trio's clock."""
    return Vitals(
        phase=phase,
        stopping=stopping,
        workers=workers,
        running=_running(held, now),
        buffered=sum(each.stage is Stage.BUFFERED for each in held),
        undelivered=sum(each.stage is Stage.DONE and each.outcome is not None for each in held),
        stuck=_stuck(held, workers) or stuck,
        loop_lag=loop_lag,
    )


def _running(held: Sequence[HeldClaim], now: float) -> tuple[Running, ...]:
    taken = [each for each in held if each.stage is Stage.RUNNING]
    return tuple(
        Running(
            state_id=each.claim.state_id,
            run_id=each.claim.run_id,
            node=each.claim.node_name,
            identifier=each.claim.identifier,
            duration=max(0.0, now - each.taken_at),
            progress=each.progress,
        )
        for each in sorted(taken, key=lambda each: each.taken_at)
    )


def _stuck(held: Sequence[HeldClaim], workers: int) -> str:
    """Return why the poller claims nothing, if deliveries are why."""
    if any(each.key_refused for each in held):
        return "the state manager refuses the key"
    failing = sum(each.stage is Stage.DONE and each.tries > 0 for each in held)
    return f"{failing} deliveries fail and are being repeated" if failing > workers else ""
