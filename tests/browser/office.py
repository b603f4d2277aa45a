"""A state manager and a worker for the journeys, in separate processes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

from exotrio._wire.graphs import GraphBody
from tests.browser.nodes import APP, GRAPH, NAMESPACE, graph
from tests.support.processes import Process, Processes, Server


@dataclass(frozen=True)
class Office:
    """A running state manager, and a worker with the nodes of the journeys."""

    server: Server
    worker: Process
    folder: Path

    @property
    def url(self) -> str:
        return self.server.uri

    def path(self, *parts: str) -> str:
        return "/".join(("", "ns", NAMESPACE, *parts))

    def trigger(self, **store: str) -> str:
        """Start a run and return its id."""
        run_id = str(uuid4())
        body = {"run_id": run_id, "inputs": {}, "store": store}
        self.server.ask("POST", f"/exotrio/v1/namespace/{NAMESPACE}/graph/{GRAPH}/trigger", body)
        return run_id

    def ended(self, **store: str) -> str:
        """Start a run, wait until it is over and return its id."""
        run_id = self.trigger(**store)
        path = f"/exotrio/v1/namespace/{NAMESPACE}/run/{run_id}?wait_ms=15000"
        while self.server.ask("GET", path)["status"] == "PENDING":
            pass
        return run_id


def open_office(processes: Processes, folder: Path, *options: str) -> Office:
    """Start a state manager and a worker that end with ``processes``."""
    (folder / "app.py").write_text(APP, "utf-8")
    server = processes.server(folder, *options)
    worker = processes.start("worker", "app.py", cwd=folder, env=server.env)
    worker.line(": running")
    body: dict[str, Any] = GraphBody.of(graph).model_dump(mode="json")
    put = server.ask("PUT", f"/v0/namespace/{NAMESPACE}/graph/{GRAPH}", body)
    assert put["validation_status"] == "VALID", put["validation_errors"]
    return Office(server, worker, folder)
