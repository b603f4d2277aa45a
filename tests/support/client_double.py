"""A state manager that answers the public client by a list of responses for each route."""

from __future__ import annotations

from typing import Any

import httpx

from exotrio.client._state_manager import StateManager
from tests.support.http_doubles import Double, answer, no_nodes

MOMENT = "2026-01-31T12:00:00.123Z"
GRAPH: dict[str, Any] = {
    "nodes": [],
    "secrets": {},
    "retry_policy": {},
    "store_config": {},
    "triggers": [],
    "created_at": MOMENT,
    "updated_at": MOMENT,
    "validation_status": "VALID",
    "validation_errors": [],
}


class Server:
    """Answers by route: ``METHOD last-path-segment`` to a response, or to one after the other."""

    def __init__(self, *, native: bool = False, **_: Any) -> None:
        self.native = native
        self.routes: dict[str, list[Any]] = {"GET nodes": [no_nodes()]}
        self.double = Double(self._answer)

    def on(self, route: str, *responses: Any) -> Server:
        self.routes[route] = list(responses)
        return self

    def _answer(self, request: httpx.Request) -> Any:
        path = request.url.path
        if path.startswith("/exotrio/") and not self.native:
            return answer(404, {"detail": "Not Found"})
        if path == "/exotrio/v1":
            return answer(200, {"version": "1", "capabilities": []})
        left = self.routes[f"{request.method} {path.rstrip('/').rpartition('/')[2]}"]
        response = left.pop(0) if len(left) > 1 else left[0]
        if isinstance(response, Exception):
            raise response
        return response

    @property
    def client(self) -> StateManager:
        return StateManager("ns", transport=self.double.endpoint.transport)

    def calls(self) -> list[str]:
        return [one for one in self.double.calls if one not in {"GET v1", "GET nodes"}]


def node(state_id: str, status: str, identifier: str = "d") -> dict[str, Any]:
    return {"id": state_id, "node_name": "D", "identifier": identifier, "status": status, "error": None}


def node_detail(state_id: str, status: str, **fields: Any) -> dict[str, Any]:
    """Return a state as v0 shows it alone."""
    place = {"graph_name": "g", "run_id": "r", "inputs": {}, "outputs": {}, "parents": {}}
    return {**node(state_id, status), **place, "created_at": MOMENT, "updated_at": MOMENT, **fields}


def run_summary(status: str, **fields: Any) -> dict[str, Any]:
    """Return a run as v0 lists it."""
    counts = dict.fromkeys(("success_count", "pending_count", "errored_count", "retried_count"), 0)
    run = {"run_id": "r", "graph_name": "g", "total_count": 3, "created_at": MOMENT, "status": status}
    return {**counts, **run, **fields}


def run_graph(*nodes: dict[str, Any]) -> httpx.Response:
    reply = {"root_states": [], "graph_name": "g", "nodes": nodes, "edges": []}
    return answer(200, {**reply, "node_count": len(nodes), "edge_count": 0, "execution_summary": {}})


def worker(worker_id: str = "w", **fields: Any) -> dict[str, Any]:
    """Return a worker as the native API lists it."""
    return {
        "worker_id": worker_id, "runtime": "r", "phase": "running", "live": True, "asked_to_drain": False,
        "workers": 4, "busy": 1, "buffered": 0, "holds": 1, "heard_ms": 1_000, "polled_ms": 900,
        "nodes": ["A"], "shows_tasks": True, **fields,
    }  # fmt: skip
