"""Runtimes as their heartbeats show them (the wire calls them workers), and what operators ask of them.

In memory: after a restart a live runtime is heard of again within seconds.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeVar

from exotrio._wire.native import HeartbeatRequest

K = TypeVar("K")
V = TypeVar("V")

SILENT_AFTER_MS = 60_000
"""Without a request for this long a runtime is not called live: three heartbeats are missing."""
FORGOTTEN_AFTER_MS = 600_000
"""After this a silent runtime is forgotten."""
STOPPED_FORGOTTEN_AFTER_MS = 60_000
"""After this a stopped runtime is forgotten."""
MAX_WORKERS = 10_000
"""Maximum that is kept: a client that claims under ever new names must not fill the memory."""


@dataclass(slots=True, kw_only=True)
class Worker:
    """One runtime. Times are on the monotonic clock, ms.

    Attributes:
        last: Its last heartbeat; an empty one as long as it only claimed.
        nodes: Those it asked for so far. A node at its limit is left out of a claim.
        commands: What is asked of it, sent with every heartbeat until it is done.
        tasks: The task tree it sent last, if it was asked for one.
    """

    namespace: str
    last: HeartbeatRequest
    seen_at: int
    polled_at: int | None = None
    nodes: frozenset[str] = frozenset()
    commands: set[str] = field(default_factory=set)
    tasks: str | None = None
    tasks_at: int | None = None

    def is_live(self, now: int) -> bool:
        """Whether it was heard of lately and has not stopped."""
        return now - self.seen_at < SILENT_AFTER_MS and self.last.phase != "stopped"


class Workers:
    """The runtimes heard of lately. ``heard`` grows with all that is heard: pages know when to change."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], Worker] = {}
        self._anonymous: dict[tuple[str, frozenset[str]], int] = {}
        self.heard: int = 0

    def seen(self, namespace: str, beat: HeartbeatRequest, now: int) -> list[str]:
        """Keep a heartbeat and return the commands for the runtime."""
        worker = self._worker(namespace, beat.worker_id, now)
        worker.last = beat
        self.heard += 1
        if beat.tasks is not None:
            worker.tasks, worker.tasks_at, beat.tasks = beat.tasks, now, None
            worker.commands.discard("tasks")
        if beat.phase != "running":
            worker.commands.discard("drain")
        return sorted(worker.commands)

    def find(self, namespace: str, worker_id: str) -> Worker | None:
        """Return a runtime, or None if it was not heard of."""
        return self._known.get((namespace, worker_id))

    def has_polled(self, namespace: str, worker_id: str | None, nodes: frozenset[str]) -> bool:
        """Return whether these nodes were asked for before."""
        if worker_id is None:
            return (namespace, nodes) in self._anonymous
        worker = self.find(namespace, worker_id)
        return worker is not None and nodes <= worker.nodes

    def polled(self, namespace: str, worker_id: str | None, nodes: frozenset[str], now: int) -> None:
        """Keep that a runtime asked for states of these nodes.

        Args:
            worker_id: None through v0, where a runtime has no id.
        nodes: Only those that are registered.
        """
        if worker_id is None:
            if not nodes:
                return
            if (namespace, nodes) not in self._anonymous:
                self._forget(now)
                self.heard += 1
                _make_room(self._anonymous)
            self._anonymous[namespace, nodes] = now
            return
        worker = self._worker(namespace, worker_id, now)
        worker.polled_at = now
        if not nodes <= worker.nodes:
            worker.nodes |= nodes
            self.heard += 1

    def _worker(self, namespace: str, worker_id: str, now: int) -> Worker:
        worker = self._known.get((namespace, worker_id))
        if worker is None:
            self._forget(now)
            _make_room(self._known)
            worker = Worker(namespace=namespace, last=HeartbeatRequest(worker_id=worker_id), seen_at=now)
            self._known[namespace, worker_id] = worker
        worker.seen_at = now
        return worker

    def _forget(self, now: int) -> None:
        for key, worker in list(self._known.items()):
            stopped = worker.last.phase == "stopped"
            if now - worker.seen_at > (STOPPED_FORGOTTEN_AFTER_MS if stopped else FORGOTTEN_AFTER_MS):
                del self._known[key]
        for asked, at in list(self._anonymous.items()):
            if now - at > FORGOTTEN_AFTER_MS:
                del self._anonymous[asked]

    def of(self, namespace: str, now: int) -> list[Worker]:
        """Return the runtimes of a namespace, by name and id."""
        self._forget(now)
        found = [worker for worker in self._known.values() if worker.namespace == namespace]
        return sorted(found, key=lambda worker: (worker.last.runtime, worker.last.worker_id))

    def anonymous(self, namespace: str) -> dict[frozenset[str], int]:
        """Return which nodes were asked for through v0, and when last."""
        return {nodes: at for (where, nodes), at in self._anonymous.items() if where == namespace}

    def forget(self, namespace: str, worker_id: str) -> None:
        """Forget a runtime whose process has ended."""
        if self._known.pop((namespace, worker_id), None) is not None:
            self.heard += 1

    def ask(self, namespace: str, worker_id: str, command: str) -> bool:
        """Ask something of a runtime; return False if it is not known."""
        worker = self.find(namespace, worker_id)
        if worker is None:
            return False
        worker.commands.add(command)
        self.heard += 1
        return True


def _make_room(entries: dict[K, V]) -> None:
    while len(entries) >= MAX_WORKERS:
        del entries[next(iter(entries))]
