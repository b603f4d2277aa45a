"""The clock of a run, and the sender of the events of a run and its children,
with the faults of ``explore`` that strike them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

import trio

from exotrio._fields.models import Values
from exotrio._wire.events import EventWait
from exotrio._wire.vocabulary import to_ms
from exotrio.client._state_manager import StateManager
from exotrio.testing._points import Fault, Moment, Place, Point

_EPOCH_MS = 1_700_000_000_000
_TIMES = {None: 1, Fault.EVENT_REPEATED: 2}
"""How often an event is sent when it is waited for; with any other fault not then."""


def _last_moment(wait: EventWait) -> datetime:
    """Return shortly before the deadline of a wait: an event that is sent at the deadline is too late."""
    if wait.until is None:
        return wait.since + timedelta(days=1)
    return max(wait.until - timedelta(seconds=1), wait.since + (wait.until - wait.since) / 2)


class VirtualClock:
    """A wall clock in Unix milliseconds that follows Trio's clock, and is set ahead by ``skip_to``."""

    def __init__(self) -> None:
        self._begin = trio.current_time()
        self._skipped = 0

    def __call__(self) -> int:
        return _EPOCH_MS + self._skipped + to_ms(trio.current_time() - self._begin)

    def skip_to(self, moment: datetime) -> None:
        self._skipped += max(0, math.ceil(moment.timestamp() * 1000) - self())


class EventSender:
    """Sends events to a run and its children, each once.

    Args:
        places: Gets the place of each event that a run waits for, if there is no fault.
    """

    def __init__(
        self, events: Mapping[str, Values], point: Point | None, clock: VirtualClock, places: list[Place]
    ) -> None:
        self.struck = False
        self._events = events
        self._point = point
        self.clock = clock
        self._places = places
        self._numbers: dict[str, int] = {}
        """Those of runs, in the order in which they began."""
        self._sent: set[tuple[str, str]] = set()
        """Run and name."""
        self._excluded: set[tuple[Fault, Place]] = set()

    def may_strike(self, fault: Fault, place: Place) -> bool:
        """Whether a fault can strike at a place: an event is lost if its wait has a deadline, and sent early
        if its run does not begin with a wait for it."""
        return (fault, place) not in self._excluded

    def begin(self, run: str) -> bool:
        """Number a run; return whether the caller has to ``send_early``."""
        number = self._numbers.setdefault(run, len(self._numbers) + 1)
        point = self._point
        if point is None or point.fault is not Fault.EVENT_EARLY or point.place.execution != number:
            return False
        is_first, self.struck = not self.struck, True
        return is_first

    async def send_early(self, manager: StateManager, run: str) -> None:
        """Send the event that the fault lets come before anything waits for it."""
        assert self._point is not None
        await self.send(manager, run, self._point.place.node)

    async def send(self, manager: StateManager, run: str, name: str, times: int = 1) -> None:
        """Send an event."""
        self._sent.add((run, name))
        for _ in range(times):
            await manager.send(run, name, self._events[name])

    async def send_awaited(self, manager: StateManager, waits: Sequence[tuple[str, EventWait]]) -> bool:
        """Send the events that runs wait for, but let the fault strike one; return whether any was sent."""
        waits = sorted(waits, key=lambda each: self._numbers.get(each[0], math.inf))
        faults = {
            (run, each.name): self._fault_of(run, each)
            for run, each in waits
            if each.name in self._events and (run, each.name) not in self._sent
        }
        for (run, name), fault in faults.items():
            await self.send(manager, run, name, _TIMES.get(fault, 0))
        # After the others, whose deadlines may pass, too.
        for run, late in [each for each in waits if faults.get((each[0], each[1].name)) is Fault.EVENT_LATE][
            :1
        ]:
            self.clock.skip_to(_last_moment(late))
            await self.send(manager, run, late.name)
        return any(fault is not Fault.EVENT_LOST for fault in faults.values())

    def _fault_of(self, run: str, awaited: EventWait) -> Fault | None:
        """Return the fault that strikes an event that would be sent now; without one, record the place."""
        is_new = run not in self._numbers
        self.begin(run)
        place = Place(node=awaited.name, execution=self._numbers[run], moment=Moment.EVENT)
        if self._point is not None and place == self._point.place:
            self.struck = True
            return self._point.fault
        if self._point is None and place not in self._places:  # several places may wait for it
            self._places.append(place)
            if awaited.until is None:
                self._excluded.add((Fault.EVENT_LOST, place))
            if is_new:
                self._excluded.add((Fault.EVENT_EARLY, place))
        return None
