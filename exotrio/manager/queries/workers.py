"""The runtimes of a namespace: who is live, and what each offers and holds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from exotrio._wire.native import HeartbeatProgress
from exotrio._wire.overview import RuntimeInfo, RuntimeList, V0Runtime
from exotrio.manager.engine.workers import SILENT_AFTER_MS, Worker
from exotrio.manager.queries.load import held_by_worker
from exotrio.manager.store.port import View


def list_workers(
    view: View, namespace: str, workers: Iterable[Worker], anonymous: Mapping[frozenset[str], int], now: int
) -> RuntimeList:
    """Return the runtimes of a namespace, the live ones first.

    ``workers`` are those heard of lately; ``anonymous`` says which nodes were claimed through v0, and when
    last. Times are in ms on the monotonic clock.
    """
    held = held_by_worker(view, namespace)
    listed = [
        RuntimeInfo(
            **_facts(worker, now),
            worker_id=worker.last.worker_id,
            runtime=worker.last.runtime,
            holds=held[worker.last.worker_id],
            heard_ms=now - worker.seen_at,
        )
        for worker in workers
    ]
    return RuntimeList(
        workers=sorted(listed, key=lambda worker: not worker.live),
        v0=[
            V0Runtime(nodes=sorted(nodes), polled_ms=now - at)
            for nodes, at in sorted(anonymous.items(), key=lambda item: -item[1])
        ],
    )


def shown_workers(workers: Iterable[Worker], now: int) -> list[dict[str, Any]]:
    """Return runtimes heard of lately, the live ones first. Times are in ms on the monotonic clock."""
    found = [_shown(worker, now) for worker in workers]
    return sorted(found, key=lambda worker: not worker["live"])


def _shown(worker: Worker, now: int) -> dict[str, Any]:
    beat = worker.last
    return {
        **_facts(worker, now),
        "id": beat.worker_id,
        "runtime": beat.runtime or "(not heard yet)",
        "tasks": worker.tasks,
        "tasks_ms": None if worker.tasks_at is None else now - worker.tasks_at,
        "asked_for_tasks": "tasks" in worker.commands,
        "seen_ms": now - worker.seen_at,
        "draining": beat.phase not in ("", "running") or "drain" in worker.commands,
    }


def _facts(worker: Worker, now: int) -> dict[str, Any]:
    """Return what the API and the pages both show of a runtime."""
    return {
        "phase": worker.last.phase or "starting",
        "live": worker.is_live(now),
        "asked_to_drain": "drain" in worker.commands,
        "workers": worker.last.workers,
        "busy": worker.last.busy,
        "buffered": worker.last.buffered,
        "polled_ms": None if worker.polled_at is None else now - worker.polled_at,
        "nodes": sorted(worker.nodes),
        "shows_tasks": worker.last.shows_tasks,
    }


def progress_of(workers: Iterable[Worker]) -> dict[str, HeartbeatProgress]:
    """Return the last progress of running nodes, by state."""
    return {
        beat.state_id: beat.progress
        for worker in workers
        for beat in worker.last.states
        if beat.progress is not None
    }


def offered(
    workers: Iterable[Worker], anonymous: Mapping[frozenset[str], int], now: int
) -> dict[str, list[str]]:
    """Return which live runtimes ask for each node. Takes what ``list_workers`` does."""
    found: dict[str, list[str]] = {}
    for worker in workers:
        if worker.is_live(now):
            for node in worker.nodes:
                found.setdefault(node, []).append(worker.last.runtime or worker.last.worker_id)
    for nodes in live_anonymous(anonymous, now):
        for node in nodes:
            found.setdefault(node, []).append("a v0 runtime")
    return {node: sorted(set(names)) for node, names in found.items()}


def disagreements(workers: Iterable[Worker], now: int) -> list[dict[str, Any]]:
    """Return the nodes that live runtimes have with different inputs or outputs, and who has which."""
    found: dict[str, dict[str, list[str]]] = {}
    for worker in workers:
        if worker.is_live(now):
            for node, fields in worker.last.nodes.items():
                who = f"{worker.last.runtime} ({worker.last.worker_id})"
                found.setdefault(node, {}).setdefault(fields, []).append(who)
    return [
        {
            "node": node,
            "versions": [{"fields": fields, "runtimes": who} for fields, who in sorted(versions.items())],
        }
        for node, versions in sorted(found.items())
        if len(versions) > 1
    ]


def live_anonymous(anonymous: Mapping[frozenset[str], int], now: int) -> list[frozenset[str]]:
    """Return what was asked for through v0 within the last minute, by whoever it was."""
    return [nodes for nodes, at in anonymous.items() if now - at < SILENT_AFTER_MS]
