"""Use cases on their way to a commit, and what a commit did."""

from __future__ import annotations

import inspect
import statistics
from collections import deque
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass, field
from functools import partial
from typing import Any, cast

import outcome
import trio

from exotrio.manager.store.effects import NO_EFFECTS, Effects, Topic, WithEffects
from exotrio.manager.store.errors import NotCommitted
from exotrio.manager.store.transaction import Transaction

MAX_TIMES, MIN_TIMES = 100, 10
"""Commits whose times are kept; fewer than the latter say nothing."""


@dataclass(slots=True, eq=False)
class Write:
    """A use case on its way to its commit. The Trio thread sets ``abandoned``, whichever thread runs it."""

    use_case: Callable[[Transaction], Any]
    _: KW_ONLY
    deadline: float | None = None
    """Until when, on the store's clock, it waits as long as it returns None. None: it does not wait."""
    repeat: bool = False
    """Whether it is put into the queue again until it is committed."""
    task: trio.lowlevel.Task | None = None
    """The task that waits for its result, if any."""
    abandoned: bool = False
    """Whether that task was cancelled."""
    is_last: bool = True
    """Whether it does not wait any more when it runs next, even if it returns None."""
    waits: bool = False
    """Whether it returned None when it ran last, and waits for one of the topics in its effects."""
    waited: bool = False
    """Whether it has waited; see ``Transaction.waited``."""
    result: outcome.Outcome[Any] | None = None
    """Once it is committed, or has failed."""
    effects: Effects = NO_EFFECTS
    """Those of its last run. They happen if it is committed."""
    changes: int = 0
    """Rows that it changed, if it was committed alone."""
    give_up_at: float | None = None
    """Time on the monotonic clock after which it is not run again if its transaction fails; None until it
    has had a connection."""
    topics: frozenset[Topic] = frozenset()
    """The topics under which ``Topics`` lists it, ..."""
    turn: int = -1
    """... and its place among all that wait."""

    @property
    def name(self) -> str:
        """The name of its use case, which ``Store.write`` has wrapped, perhaps several times."""
        name, use_case = "", cast(Callable[..., Any] | None, self.use_case)
        while use_case is not None:
            while isinstance(use_case, partial):
                use_case = use_case.func
            name = getattr(use_case, "__name__", type(use_case).__name__)
            is_function = inspect.isfunction(use_case)
            use_case = inspect.getclosurevars(use_case).nonlocals.get("use_case") if is_function else None
        return name

    def run(self, tx: Transaction) -> Any:
        self.effects, self.waits = NO_EFFECTS, False
        value, self.effects = WithEffects.of(self.use_case(tx))
        tx.check_updates()
        if freed := self.effects.freed:
            self.effects.announced |= tx.limited_nodes.nodes_of(tx, freed)
        self.waits = value is None and not self.is_last
        return value


@dataclass(slots=True, kw_only=True)
class Commit:
    """What one commit did. ``writes`` have their results; ``changes`` counts the rows that it changed.

    ``error`` says why it failed, if so.
    """

    writes: list[Write] = field(default_factory=list)
    error: NotCommitted | None = None
    changes: int = 0

    @property
    def effects(self) -> list[Effects]:
        """The effects of the use cases that are committed."""
        if self.error is not None:
            return []
        return [write.effects for write in self.writes if isinstance(write.result, outcome.Value)]


class CommitTimes:
    """How long the last commits of one process took: every outcome waits for one. For all threads."""

    def __init__(self) -> None:
        self._seconds: deque[float] = deque(maxlen=MAX_TIMES)

    def add(self, seconds: float) -> None:
        """Add how long a commit took that wrote something and did not fail."""
        self._seconds.append(seconds)

    @property
    def median_ms(self) -> float | None:
        """The median, in ms; None if there were too few."""
        seconds = list(self._seconds)
        return round(1_000 * statistics.median(seconds), 1) if len(seconds) >= MIN_TIMES else None
