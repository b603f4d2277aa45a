"""The commands at a stock state manager, as far as its ways differ from those of our v0."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest

from tests.commands import Cli, told


class Stock(BaseHTTPRequestHandler):
    """A state manager with stock's ways: defaults where one graph is read, redirects without a slash."""

    GRAPH: ClassVar[dict[str, Any]] = {
        "nodes": [{"node_name": "A", "namespace": "n", "identifier": "a", "inputs": {}, "next_nodes": []}],
        "secrets": {"token": True},
        "created_at": "2026-01-01T00:00:00.660000",
        "updated_at": "2026-01-01T00:00:00",
        "validation_status": "VALID",
        "validation_errors": [],
        "retry_policy": {},
        "store_config": {"required_keys": [], "default_values": {}},
        "triggers": [],
    }
    STORED: ClassVar[dict[str, Any]] = {
        **GRAPH,
        "_id": "0" * 24,
        "name": "g",
        "namespace": "n",
        "secrets": {"token": "ciphertext"},
        "store_config": {"required_keys": ["k"], "default_values": {}},
        "triggers": [{"type": "CRON", "value": {"expression": "@daily"}}],
    }
    triggered: ClassVar[list[Any]] = []

    def do_GET(self) -> None:
        answers = {
            "/v0/namespace/n/graph/g": self.GRAPH,
            "/v0/namespace/n/graphs/": {"namespace": "n", "count": 1, "templates": [self.STORED]},
            "/v0/namespace/n/nodes/": {"namespace": "n", "count": 0, "nodes": []},
        }
        if f"{self.path}/" in answers:
            self._answer(307, {})
        else:
            self._answer(
                200 if self.path in answers else 404, answers.get(self.path, {"detail": "Not Found"})
            )

    def do_POST(self) -> None:
        self.triggered.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
        self._answer(200, {"status": "CREATED", "run_id": "r"})

    def log_message(self, *arguments: object) -> None:
        pass

    def _answer(self, status: int, body: object) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


@pytest.fixture
def stock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Cli]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Stock) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        cli = Cli(tmp_path, monkeypatch, capsys).at_nobody()
        cli.set(EXOSPHERE_STATE_MANAGER_URI=f"http://127.0.0.1:{server.server_port}")
        yield cli
        server.shutdown()
        thread.join()


def test_what_a_stock_state_manager_stores_is_shown_not_the_defaults_it_shows(stock: Cli) -> None:
    graph = stock.json("graph", "show", "g")
    assert graph["store_config"]["required_keys"] == ["k"]
    assert list(graph["next_runs"]) == ["@daily"]
    assert "ciphertext" not in str(graph) + stock("graph", "ls").out + str(stock.json("graph", "ls"))
    assert stock("nodes", "ls").out.startswith("0 nodes")
    told(stock("trigger", "g"), 2, "give --store k=VALUE")
    assert stock("trigger", "g", "--store", "k=v").out == "r\n"
    assert Stock.triggered == [{"start_delay": 0, "inputs": {}, "store": {"k": "v"}}]
