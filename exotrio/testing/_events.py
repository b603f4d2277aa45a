"""The sender of the events of a run in ``explore``, with the faults that strike them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

from exotrio._fields.models import Values
from exotrio._wire.events import EventWait
from exotrio.client._state_manager import StateManager
from exotrio.testing._graphs import VirtualClock
from exotrio.testing._points import Fault, Moment, Place, Point

_TIMES = {None: 1, Fault.EVENT_REPEATED: 2}
"""How often an event is sent when it is waited for; with any other fault not then."""


def _last_moment(wait: EventWait) -> datetime:
    """Return shortly before the deadline of a wait: an event that is sent at the deadline is too late."""
    if wait.until is None:
        return wait.since + timedelta(days=1)
    return max(wait.until - timedelta(seconds=1), wait.since + (wait.until - wait.since) / 2)


class EventSender:
    """Sends the events of one run.

    Args:
        places: Gets the place of each event, if the run has no fault.

    Attributes:
        limited: Names of the events that were waited for with a deadline.
    """

    def __init__(
        self, events: Mapping[str, Values], point: Point | None, clock: VirtualClock, places: list[Place]
    ) -> None:
        self.limited: set[str] = set()
        self.struck = False
        self._unsent = dict(events)
        self._point = point
        self._clock = clock
        self._places = places

    async def send_early(self, manager: StateManager, run: str) -> None:
        """Send the event that the fault lets come before anything waits for it."""
        if self._point is not None and self._point.fault is Fault.EVENT_EARLY:
            name, self.struck = self._point.place.node, True
            await manager.send(run, name, self._unsent.pop(name))

    async def send_awaited(self, manager: StateManager, run: str, waits: Sequence[EventWait]) -> bool:
        """Send the events that are waited for, but let the fault strike one; return whether any was sent."""
        faults = {each.name: self._fault_of(each) for each in waits if each.name in self._unsent}
        values = {name: self._unsent.pop(name) for name in faults}
        for name, fault in faults.items():
            for _ in range(_TIMES.get(fault, 0)):
                await manager.send(run, name, values[name])
        # After the others, whose deadlines may pass, too.
        for late in [each for each in waits if faults.get(each.name) is Fault.EVENT_LATE][:1]:
            self._clock.skip_to(_last_moment(late))
            await manager.send(run, late.name, values[late.name])
        return any(fault is not Fault.EVENT_LOST for fault in faults.values())

    def _fault_of(self, awaited: EventWait) -> Fault | None:
        """Return the fault that strikes an event that would be sent now; without one, record the place."""
        place = Place(node=awaited.name, execution=1, moment=Moment.EVENT)
        if self._point is not None and place == self._point.place:
            self.struck = True
            return self._point.fault
        if self._point is None and place not in self._places:  # several places may wait for it
            self._places.append(place)
            if awaited.until is not None:
                self.limited.add(awaited.name)
        return None
