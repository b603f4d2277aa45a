"""The list of a namespace's workers, as the native API gives it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from exotrio._wire.runtimes import ListedWorker, V0Asker, WorkersReply
from exotrio.manager.engine.workers import Worker
from exotrio.manager.queries.held import held_by_worker
from exotrio.manager.store.port import View


def list_workers(
    view: View, namespace: str, workers: Iterable[Worker], anonymous: Mapping[frozenset[str], int], now: int
) -> WorkersReply:
    """Return who works, the live ones first.

    Args:
        workers: Those heard of lately.
        anonymous: Which nodes were asked for through v0, and when last.
        now: On the monotonic clock, ms, as are the times of the former.
    """
    held = held_by_worker(view, namespace)
    listed = [
        ListedWorker(
            worker_id=worker.last.worker_id,
            runtime=worker.last.runtime,
            phase=worker.last.phase or "starting",
            live=worker.is_live(now),
            asked_to_drain="drain" in worker.commands,
            workers=worker.last.workers,
            busy=worker.last.busy,
            buffered=worker.last.buffered,
            holds=held[worker.last.worker_id],
            heard_ms=now - worker.seen_at,
            polled_ms=None if worker.polled_at is None else now - worker.polled_at,
            nodes=sorted(worker.nodes),
            shows_tasks=worker.last.shows_tasks,
        )
        for worker in workers
    ]
    return WorkersReply(
        workers=sorted(listed, key=lambda worker: not worker.live),
        v0=[
            V0Asker(nodes=sorted(nodes), polled_ms=now - at)
            for nodes, at in sorted(anonymous.items(), key=lambda item: -item[1])
        ],
    )
