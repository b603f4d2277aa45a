"""Runtimes as a page shows them."""

from __future__ import annotations

from typing import Any

from exotrio._wire_native import BeatProgress
from exotrio.manager._workers import Worker
from exotrio.manager.web._page import Asked

SILENT_AFTER_MS = 60_000
"""Without a sign of life for this long a runtime is not called live: three heartbeats are missing."""


def shown_workers(asked: Asked) -> list[dict[str, Any]]:
    """Return the runtimes heard of lately, the live ones first."""
    found = [_shown(worker, asked.monotonic) for worker in asked.workers]
    return sorted(found, key=lambda worker: not worker["live"])


def _shown(worker: Worker, now: int) -> dict[str, Any]:
    beat = worker.last
    return {
        "id": beat.worker_id,
        "runtime": beat.runtime or "(not heard yet)",
        "phase": beat.phase or "starting",
        "live": now - worker.seen_at < SILENT_AFTER_MS and beat.phase != "stopped",
        "busy": beat.busy,
        "workers": beat.workers,
        "shows_tasks": beat.shows_tasks,
        "tasks": worker.tasks,
        "tasks_ms": None if worker.tasks_at is None else now - worker.tasks_at,
        "asked_for_tasks": "tasks" in worker.commands,
        "buffered": beat.buffered,
        "seen_ms": now - worker.seen_at,
        "polled_ms": None if worker.polled_at is None else now - worker.polled_at,
        "nodes": sorted(worker.nodes),
        "draining": beat.phase not in ("", "running") or "drain" in worker.commands,
        "asked_to_drain": "drain" in worker.commands,
    }


def progress_of(asked: Asked) -> dict[str, BeatProgress]:
    """Return what running nodes said last of their progress, by state."""
    return {
        beat.state_id: beat.progress
        for worker in asked.workers
        for beat in worker.last.states
        if beat.progress is not None
    }


def offered(asked: Asked) -> dict[str, list[str]]:
    """Return which live runtimes ask for each node."""
    found: dict[str, list[str]] = {}
    for worker in asked.workers:
        if asked.monotonic - worker.seen_at < SILENT_AFTER_MS and worker.last.phase != "stopped":
            for node in worker.nodes:
                found.setdefault(node, []).append(worker.last.runtime or worker.last.worker_id)
    for nodes, at in asked.anonymous.items():
        if asked.monotonic - at < SILENT_AFTER_MS:
            for node in nodes:
                found.setdefault(node, []).append("a v0 runtime")
    return {node: sorted(set(names)) for node, names in found.items()}
