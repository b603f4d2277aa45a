"""Effects: what is to be done once a use case is committed, besides what it wrote.

A use case without effects returns its value alone. Any other returns it ``WithEffects``. If a use case calls
another one, it adds the effects of that one to its own.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

from exotrio.manager.store.tallies import Key
from exotrio.manager.store.transaction import Transaction

if TYPE_CHECKING:
    from exotrio._wire.stops import StopReceipt

T_co = TypeVar("T_co", covariant=True)
K = TypeVar("K")
Counts = dict[K, int]
"""A missing key counts 0, as in a ``Counter``, which would take as long as a statement to create."""

Topic = int | str | tuple[int, int]
"""What a use case may wait for: a claimable state of a node (its id), or of a node in one run
(run, node); the begin or the end of a run (its public id)."""


@dataclass(slots=True, kw_only=True, eq=False)
class Effects:
    """What to do once a use case is committed.

    Attributes:
        claimable: New states that can be claimed, by number: run and node. They are announced, too.
        freed: Limits whose nodes are announced: there may be room.
        reopened: Nodes of which a state can be claimed that may be older than those that wait.
        final: How many states ended, by (namespace, node, status).
        ended_runs: How many runs ended, by (namespace, graph, status).
        stops: Receipts of runtimes that ended, each with its namespace.
        tally: How many states and runs ended; less than none, if runs go on that were counted before.
        deliveries: Whether states wait for runs that are to be started, delivered or cancelled
            (``engine.children``).
        lines: Lines for the log, each with its level.
        undo: A use case that is run if the caller is gone when the commit is done, since the value would be
            lost.
        undo_if_unknown: Run ``undo`` also if it is not known whether the commit happened: the caller cannot
            ask for the result again.
        waits_for: The topics that a use case waits for if its value is None, and for each the seconds after
            which it is run again without an announcement, or infinity.
    """

    announced: set[Topic] = field(default_factory=set)
    claimable: dict[int, tuple[int, int]] = field(default_factory=dict)
    freed: set[int] = field(default_factory=set)
    reopened: set[int] = field(default_factory=set)
    final: Counts[tuple[str, str, str]] = field(default_factory=partial(defaultdict, int))
    ended_runs: Counts[tuple[str, str, str]] = field(default_factory=partial(defaultdict, int))
    stops: list[tuple[str, StopReceipt]] = field(default_factory=list)
    tally: Counts[Key] = field(default_factory=partial(defaultdict, int))
    deliveries: bool = False
    lines: list[tuple[int, str]] = field(default_factory=list)
    undo: Callable[[Transaction], object] | None = None
    undo_if_unknown: bool = False
    waits_for: dict[Topic, float] = field(default_factory=dict)

    def announce(self, run: int, node_id: int) -> None:
        """Announce that a state of this run and node became claimable, or will."""
        self.announced |= {node_id, (run, node_id)}

    def reopen(self, run: int, node_id: int) -> None:
        """Announce a state that was claimable before: it may be older than those that wait."""
        self.reopened.add(node_id)
        self.announce(run, node_id)

    def add(self, other: Effects) -> None:
        """Add the effects of another use case in the same transaction, which neither waits nor is undone."""
        self.announced |= other.announced
        self.claimable |= other.claimable
        self.freed |= other.freed
        self.reopened |= other.reopened
        self.stops += other.stops
        self.deliveries |= other.deliveries
        self.lines += other.lines
        for name in ("final", "ended_runs", "tally"):
            counts = getattr(self, name)
            for key, count in getattr(other, name).items():
                counts[key] += count

    def topics(self) -> set[Topic]:
        topics = self.announced.copy()
        for run, node_id in set(self.claimable.values()):
            topics |= {node_id, (run, node_id)}
        return topics


NO_EFFECTS = Effects()
"""Of a use case that returned its value alone. Never changed."""


class WithEffects(NamedTuple, Generic[T_co]):
    """What a use case returns if it has effects. The caller of ``Store.write`` gets the value."""

    value: T_co
    effects: Effects

    @staticmethod
    def of(returned: Any) -> WithEffects[Any]:
        """Return what a use case returned, with no effects if it names none."""
        return returned if isinstance(returned, WithEffects) else WithEffects(returned, NO_EFFECTS)
