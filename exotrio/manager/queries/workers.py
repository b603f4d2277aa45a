"""The runtimes of a namespace: who is live, and what each offers and holds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from pydantic_core import from_json

from exotrio._wire.native import HeartbeatProgress, HeartbeatRequest, HeartbeatState
from exotrio._wire.overview import RuntimeInfo, RuntimeList, V0Runtime
from exotrio.manager.engine.workers import FORGOTTEN_AFTER_MS, STOPPED_FORGOTTEN_AFTER_MS
from exotrio.manager.queries.load import Held, count_held
from exotrio.manager.rules.errors import not_found
from exotrio.manager.store.driver import Row
from exotrio.manager.store.view import View

SILENT_AFTER_MS = 60_000
"""Without a request for this long a runtime is not called live: three heartbeats are missing."""
_REMEMBERED = "seen_at >= ? AND (phase <> 'stopped' OR seen_at >= ?)"


@dataclass(frozen=True, kw_only=True)
class Worker:
    """One runtime, as it is shown. Ages are in ms.

    Attributes:
        phase: At its last heartbeat; ``starting`` before the first.
        heard_ms: Since its last request. Claims count as long as they are kept (``keep_claim``).
        polled_ms: Since its last claim; None before the first.
        nodes: Those it asked for so far. A node at its limit is left out of a claim.
        drain_asked, tasks_asked: Whether it is to be asked for this with its next heartbeat.
        tasks: The task tree it sent last, if it was asked for one.
    """

    worker_id: str
    runtime: str
    phase: str
    heard_ms: int
    polled_ms: int | None
    nodes: list[str]
    drain_asked: bool
    tasks_asked: bool
    tasks: str | None
    tasks_ms: int | None
    beat: str | None

    @property
    def is_live(self) -> bool:
        """Whether it was heard of lately and has not stopped."""
        return self.heard_ms < SILENT_AFTER_MS and self.phase != "stopped"

    @cached_property
    def last(self) -> HeartbeatRequest:
        """Its last heartbeat; an empty one as long as it only claimed."""
        if self.beat is None:
            return HeartbeatRequest(worker_id=self.worker_id)
        return HeartbeatRequest.model_validate_json(self.beat)

    @property
    def held(self) -> int | None:
        """How many states it held at its last heartbeat, the sum of its numbers.

        None if only the database knows: of one that is not live, and of one that only claimed so far.
        """
        is_known = self.is_live and self.phase != "starting"
        return self.last.busy + self.last.buffered + self.last.reporting if is_known else None

    @property
    def has_tasks(self) -> bool:
        """Whether it shows its task tree, or did."""
        return self.last.shows_tasks or self.tasks is not None

    @cached_property
    def reported(self) -> dict[str, HeartbeatState]:
        """The states of its last heartbeat, by id."""
        return {state.state_id: state for state in self.last.states}


def workers_of(view: View, namespace: str, now: int) -> list[Worker]:
    """Return the runtimes of a namespace that were heard of lately: the live ones first, by name and id.

    ``now`` is in ms on the clock of leases, as in all these functions.
    """
    rows = view.execute(
        f"SELECT * FROM workers WHERE namespace = ? AND {_REMEMBERED} ORDER BY runtime, worker_id",
        (namespace, *_remembered_since(now)),
    )
    return sorted((_worker(row, now) for row in rows), key=lambda worker: not worker.is_live)


def find_worker(view: View, namespace: str, worker_id: str, now: int) -> Worker:
    """Return a runtime; refuse with 404 if it was not heard of lately."""
    row = view.row(
        f"SELECT * FROM workers WHERE namespace = ? AND worker_id = ? AND {_REMEMBERED}",
        (namespace, worker_id, *_remembered_since(now)),
    )
    if row is None:
        raise not_found(f"no runtime {worker_id!r} was heard of in namespace {namespace!r}")
    return _worker(row, now)


def _remembered_since(now: int) -> tuple[int, int]:
    return now - FORGOTTEN_AFTER_MS, now - STOPPED_FORGOTTEN_AFTER_MS


def _worker(row: Row, now: int) -> Worker:
    def age(at: int | None) -> int | None:
        # Another state manager that wrote it may be ahead of this one by a little.
        return None if at is None else max(0, now - at)

    return Worker(
        worker_id=row["worker_id"],
        runtime=row["runtime"],
        phase=row["phase"] or "starting",
        heard_ms=max(0, now - row["seen_at"]),
        polled_ms=age(row["polled_at"]),
        nodes=from_json(row["nodes"]),
        drain_asked=bool(row["drain_asked"]),
        tasks_asked=bool(row["tasks_asked"]),
        tasks=row["tasks"],
        tasks_ms=age(row["tasks_at"]),
        beat=row["beat"],
    )


def v0_runtimes(view: View, namespace: str, now: int) -> list[tuple[list[str], int]]:
    """Return which nodes were asked for through v0, and how many ms ago last, the latest first."""
    rows = view.execute(
        "SELECT nodes, seen_at FROM v0_runtimes WHERE namespace = ? AND seen_at >= ?"
        " ORDER BY seen_at DESC, id DESC",
        (namespace, now - FORGOTTEN_AFTER_MS),
    )
    return [(from_json(row["nodes"]), max(0, now - row["seen_at"])) for row in rows]


def live_v0_runtimes(view: View, namespace: str, now: int) -> list[list[str]]:
    """Return what was asked for through v0 within the last minute, by whoever it was."""
    return [nodes for nodes, ago in v0_runtimes(view, namespace, now) if ago < SILENT_AFTER_MS]


def list_workers(view: View, namespace: str, now: int, held: Held | None = None) -> RuntimeList:
    """Return the runtimes of a namespace, the live ones first. ``held`` is as of ``load.backlog``."""
    holds = (held or count_held(view, namespace)).by_worker
    return RuntimeList(
        workers=[
            RuntimeInfo(
                worker_id=worker.worker_id,
                runtime=worker.runtime,
                phase=worker.phase,
                live=worker.is_live,
                asked_to_drain=worker.drain_asked,
                workers=worker.last.workers,
                busy=worker.last.busy,
                buffered=worker.last.buffered,
                reporting=worker.last.reporting,
                holds=holds[worker.worker_id],
                heard_ms=worker.heard_ms,
                polled_ms=worker.polled_ms,
                nodes=worker.nodes,
                shows_tasks=worker.last.shows_tasks,
            )
            for worker in workers_of(view, namespace, now)
        ],
        v0=[V0Runtime(nodes=nodes, polled_ms=ago) for nodes, ago in v0_runtimes(view, namespace, now)],
    )


def progress_of(workers: Iterable[Worker]) -> dict[str, HeartbeatProgress]:
    """Return the last progress of running nodes, by state: that of the runtime that was heard of last."""
    return {
        state.state_id: state.progress
        for worker in sorted(workers, key=lambda worker: -worker.heard_ms)
        for state in worker.last.states
        if state.progress is not None
    }


def offered(view: View, namespace: str, now: int) -> dict[str, list[str]]:
    """Return which live runtimes ask for each node."""
    found: dict[str, set[str]] = {}
    for row in view.execute(
        # Without their heartbeats: pages ask this often.
        "SELECT runtime, worker_id, nodes FROM workers"
        " WHERE namespace = ? AND seen_at > ? AND phase <> 'stopped'",
        (namespace, now - SILENT_AFTER_MS),
    ):
        for node in from_json(row["nodes"]):
            found.setdefault(node, set()).add(row["runtime"] or row["worker_id"])
    for nodes in live_v0_runtimes(view, namespace, now):
        for node in nodes:
            found.setdefault(node, set()).add("a v0 runtime")
    return {node: sorted(names) for node, names in found.items()}


def count_buffered(workers: Iterable[Worker], held: Mapping[str, int]) -> int:
    """Return how many of the states that runtimes hold, by their ids, wait in a buffer.

    A runtime runs as many as it has workers. Those that are claimed through v0 count as running: nothing is
    known of them.
    """
    return sum(
        max(0, held.get(worker.worker_id, 0) - worker.last.workers)
        for worker in workers
        if worker.last.workers
    )


def disagreements(workers: Iterable[Worker]) -> list[dict[str, Any]]:
    """Return the nodes that live runtimes have with different inputs or outputs, and who has which."""
    found: dict[str, dict[str, list[str]]] = {}
    for worker in workers:
        if worker.is_live:
            for node, fields in worker.last.nodes.items():
                who = f"{worker.runtime} ({worker.worker_id})"
                found.setdefault(node, {}).setdefault(fields, []).append(who)
    return [
        {
            "node": node,
            "versions": [{"fields": fields, "runtimes": who} for fields, who in sorted(versions.items())],
        }
        for node, versions in sorted(found.items())
        if len(versions) > 1
    ]
