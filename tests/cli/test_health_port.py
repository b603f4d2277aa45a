"""The health port and the JSON log of a real worker process, and metrics of a real state manager."""

from __future__ import annotations

import json
import signal
import socket
import urllib.error
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import trio

from exotrio import Graph, GraphNodeModel, StateManager
from tests.support.processes import KEY, NOWHERE, Process, Processes, Server, ended
from tests.support.scrapes import get, until

APP = """
import logging, os, threading, time, warnings
import trio
import exotrio.monitoring
from exotrio import BaseNode, Runtime
from pydantic import BaseModel

log = logging.getLogger("app.pages")
exotrio.monitoring.MAX_LAG = float(os.environ.get("MAX_LAG", "5"))

class Pages(BaseNode):
    class Secrets(BaseModel):
        token: str

    async def execute(self):
        self.progress(0.4, "12 of 30 pages")
        log.info("opened %s with %s", "page 1", self.secrets.token)
        try:
            raise ValueError(f"odd {self.secrets.token}")
        except ValueError:
            log.exception("a page is odd")
        await trio.to_thread.run_sync(self.threaded)
        while not os.path.exists("open"):
            await trio.sleep(0.02)

    def threaded(self):
        log.warning("logged in a thread")
        warnings.warn("a warning of Python's", stacklevel=1)

class Blocks(BaseNode):
    async def execute(self):
        print("blocks", flush=True)
        while not os.path.exists("unblock"):
            time.sleep(0.02)

runtime = Runtime("ns", "pages", [Pages, Blocks], workers=2, poll_interval=0.05, shutdown_grace=600)
"""
SECRET = "sesame-4711-open"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Processes() as processes:
        yield processes.server(tmp_path_factory.mktemp("server"))


@pytest.fixture
def processes() -> Iterator[Processes]:
    with Processes() as processes:
        yield processes


def worker(
    processes: Processes, folder: Path, server: Server, *arguments: str, **variables: str
) -> tuple[Process, str]:
    """Start a worker and return it with the URL of its health port."""
    (folder / "app.py").write_text(APP, "utf-8")
    options = ("--health-port", "0", *arguments)
    env = {**server.env, "PYTHONWARNINGS": "default", **variables}
    process = processes.start("worker", "app.py", *options, cwd=folder, env=env)
    return process, process.line(r"health is served on (http://[\d.:]+)")[1]


def trigger(server: Server, node: str) -> str:
    async def main() -> str:
        async with StateManager("ns", server.uri, KEY) as manager:
            place = GraphNodeModel(node_name=node, namespace="ns", identifier="it", inputs={})
            await manager.upsert_graph(Graph(node.lower(), nodes=[place], secrets={"token": SECRET}))
            run_id: str = (await manager.trigger(node.lower()))["run_id"]
            return run_id

    return trio.run(main)


def test_a_worker_shows_its_health_from_its_start_to_the_end_of_its_drain(
    server: Server, processes: Processes, tmp_path: Path
) -> None:
    process, url = worker(processes, tmp_path, server, "--health-tasks", "--log-format", "json")
    until(f"{url}/readyz", 200)
    run_id = trigger(server, "Pages")
    process.line("logged in a thread")
    assert get(f"{url}/livez") == (200, "ok\n")
    status, metrics = get(f"{url}/metrics")
    assert status == 200
    assert "exotrio_workers_busy 1.0" in metrics
    assert 'exotrio_polls_total{result="states"} 1.0' in metrics
    assert run_id not in metrics
    status, tree = get(f"{url}/tasks")
    assert status == 200
    assert "Pages.execute (" in tree
    assert get(f"{url}/nothing")[0] == 404
    assert get(f"{url}/livez", host="a-page.example")[0] == 421

    process.signal(signal.SIGTERM)
    process.line("asked to stop by SIGTERM: 1 running")
    assert get(f"{url}/readyz") == (503, "draining\n")
    assert get(f"{url}/livez") == (200, "ok\n")
    assert 'exotrio_phase{phase="draining"} 1.0' in get(f"{url}/metrics")[1]
    at_risk = r"waiting for 1 node, \d+\.\d s of work at risk"
    process.line(rf"{at_risk}: state \w+ \(Pages as it\) running \d+\.\d s, 40 %: 12 of 30 pages")
    (tmp_path / "open").touch()
    end = process.wait(code=0)
    with pytest.raises(urllib.error.URLError):
        get(f"{url}/livez")

    assert SECRET not in end.err
    assert KEY not in end.err
    lines: list[dict[str, Any]] = [json.loads(line) for line in end.err.splitlines()]
    assert all({"time", "level", "logger", "message"} <= line.keys() for line in lines)
    by_message = {line["message"]: line for line in lines}
    about = {"run": run_id, "node": "Pages", "attempt": 1}
    ours = by_message["opened page 1 with ***"]
    assert about.items() <= ours.items()
    assert (ours["logger"], ours["level"], ours["phase"]) == ("app.pages", "INFO", "running")
    assert ours["time"].endswith("Z")
    assert len(ours["time"]) == len("2026-01-01T00:00:00.000Z")
    assert by_message["logged in a thread"]["state"] == ours["state"]
    odd = by_message["a page is odd"]["exception"]
    assert odd.startswith("Traceback")
    assert odd.endswith("ValueError: odd ***")
    assert any("a warning of Python's" in message for message in by_message)
    assert by_message["pages: flushing"]["phase"] == "flushing"
    assert "run" not in by_message["pages: flushing"]


def test_a_blocked_worker_is_hung_for_its_probe_and_shows_where(
    server: Server, processes: Processes, tmp_path: Path
) -> None:
    process, url = worker(processes, tmp_path, server, MAX_LAG="0.3")
    until(f"{url}/readyz", 200)
    assert get(f"{url}/tasks")[0] == 404, "it is not enabled"
    trigger(server, "Blocks")
    process.line("^blocks$")  # before, the loop may have been late for once, on a busy machine
    problem = until(f"{url}/livez", 503)
    assert "node code blocks it" in problem
    process.signal(signal.SIGTERM)
    # The signal takes a moment to arrive. The loop cannot have heard of it: it stays blocked.
    assert until(f"{url}/readyz", 503, "a stop was requested\n")
    (tmp_path / "unblock").touch()
    assert process.wait().code == 0


def test_a_worker_lives_but_is_not_ready_while_there_is_no_state_manager(
    processes: Processes, tmp_path: Path
) -> None:
    process, url = worker(processes, tmp_path, NOWHERE)
    process.line("registering at")
    assert get(f"{url}/livez") == (200, "ok\n")
    assert get(f"{url}/readyz") == (503, "starting: its nodes are not registered yet\n")
    process.signal(signal.SIGTERM)
    assert process.wait().code == 0


def test_connections_without_a_complete_request_do_not_hide_the_health(
    server: Server, processes: Processes, tmp_path: Path
) -> None:
    _, url = worker(processes, tmp_path, server)
    until(f"{url}/readyz", 200)
    address = ("127.0.0.1", int(url.rpartition(":")[2]))
    with ExitStack() as connections:
        # More than it takes at once: 32 silent ones, 32 of whose requests a byte is missing, and so on.
        for number in range(128):
            connection = connections.enter_context(socket.create_connection(address))
            connection.sendall(b"" if number // 32 % 2 else b"GET /livez HTTP/1.1\r\nhost: 127.0.0.1\r\n")
        # Sooner than the first of them are refused for being slow, after 10 s.
        assert get(f"{url}/livez", timeout=8) == (200, "ok\n")
        assert get(f"{url}/readyz", timeout=8) == (200, "ok\n")


def test_a_health_port_in_use_is_reported(server: Server, tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(APP, "utf-8")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        options = ("--health-port", port, "--log-format", "json")
        end = ended("worker", "app.py", *options, cwd=tmp_path, env=server.env, code=7)
    (line,) = end.err.splitlines()
    assert json.loads(line)["level"] == "CRITICAL"
    assert json.loads(line)["message"].startswith(f"port {port} is in use")


def test_the_state_manager_asks_for_its_key_before_it_shows_metrics_unless_they_are_open(
    server: Server, processes: Processes, tmp_path: Path
) -> None:
    headers: dict[str, Any] = {"x-api-key": KEY}
    assert get(f"{server.uri}/metrics")[0] == 401
    for path in ("livez", "readyz"):
        assert get(f"{server.uri}/{path}") == (200, "ok\n")
    status, text = get(f"{server.uri}/metrics", **headers)
    assert status == 200
    assert "exotrio_manager_connections " in text
    assert 'code="401",method="GET",route="none"' in text
    opened = processes.server(tmp_path, "--open-metrics", "--log-format", "json")
    assert get(f"{opened.uri}/metrics")[0] == 200
    assert get(f"{opened.uri}/v0/namespaces")[0] == 401
    end = opened.process.stop(code=0)
    lines = [json.loads(line) for line in end.err.splitlines()]
    # On a Python that a cookie can stop, the start warns of it.
    assert all(line["level"] == "INFO" or "CVE-2024-7592" in line["message"] for line in lines)


def test_the_health_of_a_worker_is_served_on_the_address_that_is_given(
    processes: Processes, tmp_path: Path
) -> None:
    _, url = worker(processes, tmp_path, NOWHERE, "--health-host", "127.0.0.2")
    assert url.startswith("http://127.0.0.2:")
    assert until(f"{url}/livez", 200) == "ok\n"
