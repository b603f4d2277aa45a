"""Worker processes as their heartbeats show them, and what operators ask of them. In memory: a
worker that lives is heard of again within seconds of a restart."""

from __future__ import annotations

from dataclasses import dataclass, field

from exotrio._wire_native import BeatProgress, HeartbeatRequest

FORGOTTEN_AFTER_MS = 600_000


@dataclass(slots=True)
class Worker:
    """One worker process.

    Attributes:
        last: Its last heartbeat.
        seen_at: When that came, on the monotonic clock, ms.
        commands: What is asked of it; handed over with every heartbeat until it obeys.
        tasks: The task tree it sent last, if it was asked for one.
        tasks_at: When that came.
    """

    namespace: str
    last: HeartbeatRequest
    seen_at: int
    commands: set[str] = field(default_factory=set)
    tasks: str | None = None
    tasks_at: int | None = None


class Workers:
    """The workers heard of lately."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], Worker] = {}

    def seen(self, namespace: str, beat: HeartbeatRequest, now: int) -> list[str]:
        """Note a heartbeat and return the commands for the worker."""
        for key, worker in list(self._known.items()):
            if now - worker.seen_at > FORGOTTEN_AFTER_MS:
                del self._known[key]
        worker = self._known.setdefault((namespace, beat.worker_id), Worker(namespace, beat, now))
        worker.last, worker.seen_at = beat, now
        if beat.tasks is not None:
            worker.tasks, worker.tasks_at, beat.tasks = beat.tasks, now, None
            worker.commands.discard("tasks")
        if beat.phase != "running":
            worker.commands.discard("drain")
        return sorted(worker.commands)

    def find(self, namespace: str, worker_id: str) -> Worker | None:
        """Return a worker, or None if it was not heard of."""
        return self._known.get((namespace, worker_id))

    def progress(self, namespace: str) -> dict[str, BeatProgress]:
        """Return what running nodes of a namespace said last of their progress, by state."""
        return {
            beat.state_id: beat.progress
            for worker in self._known.values()
            if worker.namespace == namespace
            for beat in worker.last.states
            if beat.progress is not None
        }

    def ask(self, namespace: str, worker_id: str, command: str) -> bool:
        """Ask something of a worker; return False if it is not known."""
        worker = self.find(namespace, worker_id)
        if worker is None:
            return False
        worker.commands.add(command)
        return True
