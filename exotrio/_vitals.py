"""How a runtime is, at one moment: for health checks, metrics and displays, from any thread."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from exotrio._ledger import Held, Stage
from exotrio._lifecycle import Phase
from exotrio._progress import Progress


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
        stuck: Why nothing is claimed although it could be: outcomes cannot be delivered. Else empty.
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


def running(held: Iterable[Held], now: Callable[[], float]) -> tuple[Running, ...]:
    """Return what of this runs, the longest running first."""
    taken = sorted(
        (each.taken_at, number, each) for number, each in enumerate(held) if each.stage is Stage.RUNNING
    )
    return tuple(
        Running(
            state_id=each.claim.state_id,
            run_id=each.claim.run_id,
            node=each.claim.node_name,
            identifier=each.claim.identifier,
            duration=max(0.0, now() - taken_at),
            progress=each.progress,
        )
        for taken_at, _, each in taken
    )


def stuck(held: Iterable[Held], workers: int) -> str:
    """Return why the poller claims nothing, if deliveries are why."""
    if any(each.key_refused for each in held):
        return "the state manager refuses the key"
    failing = sum(each.stage is Stage.DONE and each.tries > 0 for each in held)
    return f"{failing} deliveries fail and are being repeated" if failing > workers else ""
