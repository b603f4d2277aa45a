"""Where a fault can strike, what can strike there, and which combinations make sense.

A *point* is a step of a run, named so that a failed test reads like a sentence: "connection reset
after the send of report". A *fault* is what happens when some task gets there for the nth time.

Run many random sequences of faults, longer than the tests do::

    python -m tests.chaos.points --seeds 2000
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum


class Fault(StrEnum):
    """What happens at a point."""

    REFUSED = "connection refused"
    """Provably not sent."""
    RESET = "connection reset"
    """Before the send the request never arrives, but its sender cannot know; after it the reply is lost."""
    SILENCE = "no answer at all"
    HTTP_404 = "a 404 in JSON"
    """From a gateway without such a route: the request never arrives."""
    HTTP_500 = "a 500 in JSON"
    HTTP_502 = "a 502 in HTML"
    HTTP_503 = "a 503 in JSON with Retry-After"
    LATE = "a delay longer than the lease"
    """For everything the runtime sends, or for the node, or for the disk: whatever is at the point."""
    CANCEL = "a cancelled scope"
    STOP = "a stop without time"
    STOP_PATIENTLY = "a stop with time"
    KILL = "a kill of the worker"
    """It is never heard of again."""
    RESTART = "a kill and restart of the state manager"
    DISK = "a database error"
    CLOCK_BACK = "a clock set back by an hour"
    CLOCK_AHEAD = "a clock set ahead by 40 days"


F = Fault
OVER_THE_WIRE = (F.REFUSED, F.RESET, F.SILENCE, F.HTTP_404, F.HTTP_500, F.HTTP_502, F.HTTP_503, F.LATE)
REPLY_LOST = (F.RESET, F.SILENCE, F.HTTP_500, F.HTTP_502, F.LATE)
ENDS = (F.CANCEL, F.STOP, F.STOP_PATIENTLY, F.KILL)

OPERATIONS = {
    "native": ("discovery", "register", "claim", "report", "release", "void", "heartbeat", "secrets"),
    "v0": ("discovery", "register", "claim", "report", "requeue", "release", "secrets"),
}
"""Requests of a runtime. ``void`` releases a claim by its id."""
USE_CASES = {
    "native": ("claim_once_ready", "record_and_claim", "release", "release_claim", "heartbeat", "sweep"),
    "v0": ("claim", "record_v0", "sweep"),
}
"""Use cases of the state manager that run while a graph runs."""

WHEN_STOPPING = ("release", "void", "release_claim")
"""Points that only a runtime which stops gets to."""
WHEN_LOST = ("sweep",)
"""Points that are reached only after a worker was lost."""
NTH = {
    "claim": 3,
    "claim_once_ready": 3,
    "report": 3,
    "heartbeat": 3,
    "secrets": 2,
    "execute": 6,
    "record_and_claim": 3,
    "record_v0": 3,
    "renew": 3,
}
"""Which visit is hit, so that something is held by then. Defaults to the first."""


@dataclass(frozen=True, slots=True)
class Strike:
    """A fault planned at the ``nth`` visit of a point."""

    fault: Fault
    point: str
    nth: int = 1

    def __str__(self) -> str:
        return f"{self.fault.value} {self.point}"

    @property
    def about(self) -> str:
        """The operation or use case at the point."""
        return self.point.rpartition(" ")[2]


@dataclass(frozen=True, slots=True)
class Case:
    """One run under faults.

    Attributes:
        api: What the state manager serves beside v0: ``native``, or nothing more: ``v0``.
        strike: The fault the case is about; None in a random case.
        others: Faults that lead there, or all of those of a random case.
    """

    api: str
    strike: Strike | None
    others: tuple[Strike, ...] = ()

    def __str__(self) -> str:
        return f"{self.strike} on {self.api}" if self.strike else f"{', '.join(map(str, self.others))}"

    @property
    def strikes(self) -> tuple[Strike, ...]:
        return (*self.others, self.strike) if self.strike else self.others


def combinations(api: str) -> Iterator[tuple[str, Fault]]:
    """Yield every point of an API with every fault that makes sense there."""
    for operation in OPERATIONS[api]:
        for fault in (*OVER_THE_WIRE, *ENDS, F.RESTART):
            yield f"before the send of {operation}", fault
        for fault in (*REPLY_LOST, *ENDS, F.RESTART):
            yield f"after the send of {operation}", fault
        for fault in ENDS:
            yield f"after the reply of {operation}", fault
    for when in ("before", "in", "after"):
        for fault in (*ENDS, F.RESTART, *((F.LATE,) if when == "in" else ())):
            yield f"{when} execute", fault
    for use_case in USE_CASES[api]:
        # A sweep is nobody's request.
        ends = () if use_case in WHEN_LOST else ENDS
        for fault in (F.DISK, F.LATE, F.RESTART, *ends):
            yield f"before the commit of {use_case}", fault
        for fault in (F.LATE, F.RESTART, F.CLOCK_BACK, F.CLOCK_AHEAD, *ends):
            yield f"after the commit of {use_case}", fault


def deterministic_cases(*, every: bool = True) -> Iterator[Case]:
    """Yield a case for each combination; or for each point, with the one of its faults that came least."""
    taken = Counter[Fault]()
    for api in OPERATIONS:
        by_point: dict[str, list[Fault]] = {}
        for point, fault in combinations(api):
            by_point.setdefault(point, []).append(fault)
        for point, faults in by_point.items():
            about = point.rpartition(" ")[2]
            for fault in faults if every else [min(faults, key=taken.__getitem__)]:
                taken[fault] += 1
                yield _case(api, point, fault, about)


def _case(api: str, point: str, fault: Fault, about: str) -> Case:
    strike = Strike(fault, point, NTH.get(about, 1))
    if about in WHEN_STOPPING:
        return Case(api, strike, (Strike(F.STOP, "in execute", 4),))
    if about in WHEN_LOST:
        return Case(api, strike, (Strike(F.KILL, "in execute", 4),))
    return Case(api, strike)


def random_case(seed: int) -> Case:
    """Return the case of a seed: one to eight faults anywhere."""
    rng = random.Random(seed)
    api = rng.choice(sorted(OPERATIONS))
    every = list(combinations(api))
    drawn = [(*rng.choice(every), rng.randint(1, 12)) for _ in range(rng.randint(1, 8))]
    return Case(api, None, tuple(Strike(fault, point, nth) for point, fault, nth in drawn))


if __name__ == "__main__":
    from tests.chaos.point_campaign import main

    main()
