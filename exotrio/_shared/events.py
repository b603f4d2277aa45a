"""Events of a runtime, for metrics and for observers of users (``exotrio.monitoring``).

Without an observer no event is created::

    if events:
        events.emit(Polled("empty"))
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

log = logging.getLogger("exotrio.runtime")


@dataclass(frozen=True, slots=True)
class StateBegan:
    """The node of a claimed state is about to run: its code is entered next.

    Attributes:
        node: Name of its node class.
        identifier: Of the node in the graph.
    """

    node: str
    state_id: str
    identifier: str


@dataclass(frozen=True, slots=True)
class StateEnded:
    """A claimed state is no longer held.

    Attributes:
        node: Name of its node class.
        outcome: As ``Summary`` names it: ``completed``, ``errored``, ``released``, ...
        duration: Seconds that ``execute`` of its node took; None if that did not begin.
        buffered: Seconds from its claim until ``execute`` began; None likewise.
        waited: Seconds for which it waited to be claimed; None if the state manager does not say.
        at_risk: Seconds that its node worked after its newest checkpoint, or without one; None likewise.
    """

    node: str
    outcome: str
    duration: float | None
    state_id: str
    buffered: float | None = None
    waited: float | None = None
    at_risk: float | None = None


@dataclass(frozen=True, slots=True)
class CheckpointStored:
    """The state manager has stored a checkpoint while its node runs.

    Attributes:
        node: Name of its node class.
        age: Seconds since the node set it.
    """

    node: str
    state_id: str
    age: float


@dataclass(frozen=True, slots=True)
class Polled:
    """A claim was answered, or failed.

    Attributes:
        result: One of ``POLL_RESULTS``.
    """

    result: str


@dataclass(frozen=True, slots=True)
class Requested:
    """A request to the state manager is over.

    Attributes:
        op: The operation: ``claim``, ``outcomes``, ``heartbeat``, ...
        code: Status of the answer; None if there was none.
        duration: In seconds. A claim may wait at the state manager for a first state.
    """

    op: str
    code: int | None
    duration: float


@dataclass(frozen=True, slots=True)
class LeaseLost:
    """The lease of a state expired, and others may claim it.

    Attributes:
        node: Name of its node class.
    """

    node: str


POLL_RESULTS = ("states", "empty", "failed", "refused")
Event = StateBegan | StateEnded | CheckpointStored | Polled | Requested | LeaseLost
Observer = Callable[[Event], None]
"""Called in the runtime's loop and in the thread of its heartbeats, and should return at once."""


class Events:
    """Passes events on to observers. True if there are any."""

    def __init__(self) -> None:
        self._observers: tuple[Observer, ...] = ()

    def __bool__(self) -> bool:
        return bool(self._observers)

    def add(self, observer: Observer) -> None:
        """Pass events to ``observer``, too, from now on."""
        self._observers += (observer,)

    def emit(self, event: Event) -> None:
        """Call every observer. One that fails is removed: it must not cost a state its outcome."""
        for observer in self._observers:
            try:
                observer(event)
            except Exception:
                log.exception("an observer failed at %r and is not called again", event)
                self._observers = tuple(each for each in self._observers if each is not observer)
