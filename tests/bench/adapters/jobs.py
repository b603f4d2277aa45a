"""What the jobs of the figures do: nothing but wake the task that waits for them.

The first word of a payload says which one it is.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Awaitable, Callable

import anyio

from tests.bench.adapters import Adapter


class Jobs:
    """Performs payloads and counts them by their tags."""

    def __init__(self) -> None:
        self.system: Adapter
        self._counts: Counter[str] = Counter()
        self._awaited: dict[str, tuple[int, anyio.Event]] = {}
        self._began: dict[str, float] = {}

    def expect(self, tag: str, count: int = 1) -> Callable[[], Awaitable[object]]:
        """Return a function that waits until so many jobs with this tag have run."""
        event = anyio.Event()
        self._awaited[tag] = (count, event)
        return event.wait

    def began(self, tag: str) -> float:
        """Return when the last job with this tag began."""
        return self._began[tag]

    async def perform(self, payload: str) -> str:
        now = time.perf_counter()
        match payload.split():
            case ["fan", tag, size]:
                await self.system.submit([f"part {tag} {number} {size}" for number in range(int(size))])
            case ["part", tag, number, size]:
                if await self.system.record(tag, part=int(number), size=int(size)):
                    await self.system.submit([f"joined {tag}"])
            case ["unit", *_]:
                pass  # a part of a fan-out that the system joins
            case ["chain", tag, left]:
                if int(left) > 1:
                    await self.system.submit([f"chain {tag} {int(left) - 1}"])
                self._note(tag, now)
            case [_, tag]:
                self._note(tag, now)
        return payload

    def _note(self, tag: str, now: float) -> None:
        self._began[tag] = now
        self._counts[tag] += 1
        count, event = self._awaited.get(tag, (0, None))
        if event is not None and self._counts[tag] == count:
            event.set()
