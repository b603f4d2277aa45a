"""What several test folders share: bodies of the v0 API, a settable clock, and waiting with a deadline."""

from __future__ import annotations

import secrets
import socket
import sqlite3
import ssl
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, TypeVar

import httpx
import trio

T = TypeVar("T")

FAST_RETRY: dict[str, Any] = {"max_retries": 2, "strategy": "FIXED", "backoff_factor": 1}
NO_RETRY: dict[str, Any] = {"max_retries": 0, "strategy": "FIXED", "backoff_factor": 1}
UNKNOWN_ID = "0123456789abcdef01234567"
UNKNOWN_RUN = "01234567-89ab-4cde-8f01-23456789abcd"

# httpx loads the system's certificates for every client otherwise, which costs more than a test does.
BARE_SSL = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


class SettableClock:
    """Unix milliseconds that move only when told to."""

    def __init__(self, now_ms: int = 1_700_000_000_000) -> None:
        self.now_ms = now_ms

    def __call__(self) -> int:
        return self.now_ms

    def advance(self, ms: int) -> None:
        self.now_ms += ms


class VirtualClock:
    """Trio's clock, as Unix milliseconds, which stands at ``START_MS`` when a test begins and can be set."""

    START_MS = 1_767_225_600_000  # 2026-01-01T00:00:00Z

    def __init__(self) -> None:
        self._ahead = 0.0

    def __call__(self) -> int:
        return self.START_MS + round((trio.current_time() + self._ahead) * 1000)

    def set(self, by: float) -> None:
        """Set it ahead by so many seconds."""
        self._ahead += by


def virtual_ms() -> int:
    """The time of Trio's clock, as Unix milliseconds."""
    return 1_700_000_000_000 + round(trio.current_time() * 1000)


def free_port() -> int:
    """Return a port that is not used, below those the kernel gives to clients: one of them could
    take it while the server is away."""
    while True:
        # Not by ``random``: Hypothesis seeds it, in every process of the tests with the same number.
        port = 18_000 + secrets.randbelow(14_000)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def sql(file: Path, statement: str) -> list[Any]:
    """Execute a statement on a SQLite file, which others may use meanwhile, and return its rows."""
    with closing(sqlite3.connect(file)) as database, database:
        return database.execute(statement).fetchall()


def open_client(
    *,
    url: str = "http://embedded",
    key: str | None = None,
    transport: httpx.AsyncBaseTransport | None = None,
    keep_alive: bool = True,
) -> httpx.AsyncClient:
    """Return a client for one state manager; it never reads proxies from the environment."""
    return httpx.AsyncClient(
        limits=httpx.Limits(max_connections=100, max_keepalive_connections=20 if keep_alive else 0),
        base_url=url.rstrip("/"),
        headers={} if key is None else {"x-api-key": key},
        transport=transport,
        timeout=60,
        trust_env=False,
        verify=BARE_SSL,
    )


def ok(response: httpx.Response, status: int = 200) -> Any:
    """Return the JSON of a reply that has to have ``status``."""
    assert response.status_code == status, f"{response.request.method} {response.url}: {response.text}"
    assert response.headers["content-type"].startswith("application/json")
    return response.json()


def refused(response: httpx.Response, *statuses: int) -> str:
    """Return the ``detail`` of a refusal that has to have one of ``statuses``, as text."""
    assert response.status_code in statuses, f"{response.status_code} {response.url}: {response.text}"
    assert response.headers["content-type"].startswith("application/json")
    detail = response.json()["detail"]
    if response.status_code == 422 and isinstance(detail, list):
        return "\n".join(str(item["msg"]) for item in detail)
    assert isinstance(detail, str)
    return detail


async def eventually(attempt: Callable[[], Awaitable[T]], *, within: float = 60) -> T:
    """Return ``attempt()`` as soon as it raises no AssertionError; re-raise the last one at the deadline.

    The longer it takes, the more seldom it is tried: each attempt takes time from what it waits for.
    """
    began = trio.current_time()
    while True:
        try:
            return await attempt()
        except AssertionError:
            waited = trio.current_time() - began
            if waited > within:
                raise
        await trio.sleep(max(0.002, waited / 10))


# -- bodies


def schema(fields: Iterable[str] | Mapping[str, Any]) -> dict[str, Any]:
    """Return a JSON Schema of plain string fields, or of the given properties."""
    properties = fields if isinstance(fields, Mapping) else {field: {"type": "string"} for field in fields}
    return {"type": "object", "properties": dict(properties), "required": list(properties)}


def declare(
    name: str,
    inputs: Iterable[str] | Mapping[str, Any] = (),
    outputs: Iterable[str] | Mapping[str, Any] = ("v", "w"),
    secrets: Iterable[str] = (),
) -> dict[str, Any]:
    """Return the declaration of one node class, as registration takes it."""
    return {
        "name": name,
        "inputs_schema": schema(inputs),
        "outputs_schema": schema(outputs),
        "secrets": list(secrets),
    }


def node_name(identifier: str) -> str:
    """Return the node class that ``place`` puts at ``identifier``: claims can pick by it."""
    return f"Node_{identifier}"


def place(
    identifier: str,
    *next_nodes: str,
    inputs: Mapping[str, Any] | None = None,
    unites: str | None = None,
    strategy: str | None = None,
    **fields: Any,
) -> dict[str, Any]:
    """Return one node of a graph; further ``fields`` override."""
    body: dict[str, Any] = {
        "node_name": node_name(identifier.strip()),
        "identifier": identifier,
        "inputs": dict(inputs or {}),
        "next_nodes": list(next_nodes),
        "unites": None,
    }
    if unites is not None:
        body["unites"] = {"identifier": unites}
        if strategy is not None:
            body["unites"]["strategy"] = strategy
    return {**body, **fields}


DAY_MS = 86_400_000
DECIDED = {
    "by": {"type": "string"},
    "ok": {"type": "string", "contentSchema": {"type": "boolean"}, "default": "false"},
}
"""The fields of an event."""


def run_place(
    identifier: str, *next_nodes: str, graph: str | dict[str, Any], **fields: Any
) -> dict[str, Any]:
    """Return a place that runs a graph."""
    named = {"name": graph} if isinstance(graph, str) else graph
    return place(identifier, *next_nodes, node_name="run graph", graph=named, **fields)


def wait_place(identifier: str, *next_nodes: str, event: str, **fields: Any) -> dict[str, Any]:
    """Return a place that waits."""
    waits = {"event": event, "outputs": DECIDED, **fields}
    return place(identifier, *next_nodes, node_name="wait for event", wait=waits)
