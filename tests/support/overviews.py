"""Overviews of a namespace, as a state manager sends them: each part with the usual in it."""

from __future__ import annotations

from exotrio._wire.overview import Overview


def node(name: str, **fields: object) -> dict[str, object]:
    usual = {"waiting": 0, "eligible": 0, "oldest_ms": 0, "running": 0, "ended": 0, "failed": 0}
    return {"name": name, **usual, "p50_ms": None, "p95_ms": None, "offered_by": ["r"], **fields}


def runtime(**fields: object) -> dict[str, object]:
    usual = {"worker_id": "w-1", "runtime": "Greeter", "phase": "running", "live": True, "workers": 4}
    more = {"asked_to_drain": False, "busy": 3, "buffered": 1, "holds": 5, "heard_ms": 2_000}
    polls = {"polled_ms": 1_000, "nodes": ["Scan"], "shows_tasks": False}
    return {**usual, **more, **polls, **fields}


def run(number: int, **fields: object) -> dict[str, object]:
    usual = {"run_id": f"{number:08d}-0000-4000-8000-000000000000", "graph_name": "g", "status": "PENDING"}
    counts = {"success_count": 40, "pending_count": 59, "errored_count": 1, "retried_count": 0}
    times = {"created_at": "2026-01-01T00:00:00.000Z", "finished_at": None, "cancelled_at": None}
    return {**usual, **counts, "total_count": 100, **times, **fields}


def overview(**fields: object) -> Overview:
    usual = {
        "namespace": "n",
        "at": "2026-01-01T00:01:30.500Z",
        "running": 3,
        "waiting": 1_200,
        "waiting_is_more": False,
        "errored": 1,
        "oldest": {"node": "Digest", "waits_ms": 61_000},
        "throughput": {"first_minute": 1_000, "ended": [0] * 58 + [10, 2], "failed": [0] * 59 + [1]},
        "run_throughput": {"first_minute": 1_000, "ended": [0] * 59 + [5], "failed": [0] * 59 + [3]},
        "nodes": [node("Scan", ended=12), node("Digest", waiting=1_200, eligible=700, running=3)],
        "runtimes": [runtime()],
        "runtime_count": 1,
        "v0_runtimes": 0,
        "runs": [run(1)],
    }
    return Overview.model_validate({**usual, **fields})
