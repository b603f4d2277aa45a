"""The runs of an exploration, one after another, each under the same conditions."""

from __future__ import annotations

import inspect
import math
import random
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

import trio
from trio.testing import MockClock

from exotrio._util.error_message import message_line
from exotrio._wire.vocabulary import ERRORED, StateStatus
from exotrio.errors import ConfigurationError
from exotrio.testing._comparison import Ending, Usual, Version
from exotrio.testing._exploration import CrashRun, Failure, first_line
from exotrio.testing._graphs import GraphRun
from exotrio.testing._points import Point

if TYPE_CHECKING:
    from exotrio.testing._case import Case, Scenario

T = TypeVar("T")

FIRST_SECOND = 2**20
"""Where Trio's clock is when the first run begins, 12 days. Sums of times are rounded alike from here to
twice that, and finely enough for the timers of asyncio: what is due at the same moment in one run is so in
all."""


@dataclass(frozen=True, kw_only=True)
class MadeRun:
    """A run that was made.

    Attributes:
        run: Its result; None if it did not end.
        failure: How the check failed, if it did.
        version: Whose outputs it has, if that is known.
    """

    case: Case
    run: GraphRun | None
    failure: Failure | None
    version: Version | None = None


@dataclass(frozen=True, kw_only=True)
class Runs(Generic[T]):
    """Makes the runs of an exploration, and checks each."""

    scenario: Scenario
    check: Callable[[CrashRun[T]], object] | None
    setup: Callable[[], T] | None
    seed: int
    clock: MockClock
    usual: Usual | None = None

    async def make(self, point: Point | None, timeout: float) -> MadeRun:
        """Make a run with a fault, or without, and check it."""
        from exotrio.testing._case import Case  # as above

        case = Case(self.scenario, point)
        begin_second(self.clock)
        with _reproducible(self.seed):
            # Without a setup, T is the type of None.
            world = cast("T", None) if self.setup is None else self.setup()
            if inspect.iscoroutine(world):
                world.close()
                raise ConfigurationError(
                    "setup is an async def, which explore does not await", fix="write a plain def"
                )
            error: BaseException | None = None
            result = version = None
            try:
                async with case.run(timeout) as run:
                    parts = run.status, run.states, run.places, world, point, dict(case.begun)
                    result = CrashRun(*parts, case.repeated)
                    error = await self._error(result)
            except trio.TooSlowError as slow:
                error = slow
            if error is None and case.endless is not None:
                error = trio.TooSlowError(case.endless)
            if isinstance(error, trio.TooSlowError) and point is None:
                raise error
            if error is None and result is not None and self.usual is not None:
                version, problems = self.usual.compare(ending_of(result))
                error = AssertionError("; ".join(problems)) if problems else None
            failure = None if error is None else Failure(point, error, first_line(error))
            return MadeRun(case=case, run=result, failure=failure, version=version)

    async def _error(self, run: CrashRun[T]) -> BaseException | None:
        try:
            checking = None if self.check is None else self.check(run)
            if inspect.isawaitable(checking):
                await checking
        except (trio.Cancelled, KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # pytest.fail() raises no Exception
            return error
        return None


def ending_of(run: GraphRun) -> Ending:
    outputs = {
        node: [state.outputs for state in run.of(node) if state.status is StateStatus.SUCCESS]
        for node in run.places
    }
    error = next((state for state in run.states if state.status in ERRORED), None)
    text = "" if error is None else f"{error.identifier}: {message_line(error.error)}"
    return Ending(status=run.status, outputs=outputs, error=text)


def begin_second(clock: MockClock) -> None:
    """Advance the clock to a whole second at which a run may begin."""
    now = clock.current_time()
    clock.jump(max(math.ceil(now), FIRST_SECOND) - now)


@contextmanager
def _reproducible(seed: int) -> Iterator[None]:
    """Let random numbers, and the order in which Trio runs its tasks, depend on ``seed`` alone.

    pytest-trio does the same for Hypothesis: Trio has no public way to set the order of tasks.
    """
    scheduler: Any = sys.modules["trio._core._run"]
    before = random.getstate(), scheduler._r.getstate(), scheduler._ALLOW_DETERMINISTIC_SCHEDULING
    random.seed(seed)
    scheduler._r.seed(seed)
    scheduler._ALLOW_DETERMINISTIC_SCHEDULING = True
    try:
        yield
    finally:
        random.setstate(before[0])
        scheduler._r.setstate(before[1])
        scheduler._ALLOW_DETERMINISTIC_SCHEDULING = before[2]
