"""How long connections are kept, and the warning for unencrypted ones."""

from __future__ import annotations

import asyncio
import gc
import logging
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import trio
import trio.testing

from exotrio._http.client import HttpClient
from exotrio._http.connections import open_network
from exotrio._http.endpoint import Endpoint
from exotrio.errors import ManagerUnavailable
from tests.support.http_doubles import tcp_server
from tests.support.processes import Process


@pytest.mark.parametrize(
    ("uri", "warned"),
    [
        ("http://manager.invalid", 1),
        ("http://192.0.2.1:8000", 1),
        ("https://manager.invalid", 0),
        ("http://127.0.0.1:1", 0),
        ("http://[::1]:1", 0),
        ("http://localhost:1", 0),
    ],
)
async def test_a_key_sent_in_clear_off_this_machine_is_warned_of_once(
    caplog: pytest.LogCaptureFixture, uri: str, warned: int
) -> None:
    with caplog.at_level(logging.WARNING, "exotrio"):
        for _ in range(2):
            # What the first request does; sending one would leave this machine.
            await open_network(Endpoint(uri, "the-key")).aclose()
    assert sum("unencrypted" in record.message for record in caplog.records) == warned


async def test_a_connection_is_not_used_again_when_a_server_may_be_about_to_close_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Common servers close after 5 s: a request must not cross the close on the wire."""
    used: list[trio.SocketStream] = []
    passed = 0.0

    async def respond(stream: trio.SocketStream, _: bytes) -> None:
        used.append(stream)
        await stream.send_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")

    clock = SimpleNamespace(monotonic=lambda: time.monotonic() + passed)
    monkeypatch.setattr("exotrio._http.network.time", clock)
    async with tcp_server(respond) as (uri, _):
        http = HttpClient(Endpoint(uri, "the-key"))
        await http.ask("GET", "/ping")
        passed = 1.0
        await http.ask("GET", "/ping")
        passed = 5.9
        await http.ask("GET", "/ping")
        await http.aclose()
    assert used[0] is used[1]
    assert used[1] is not used[2], "it was idle for 4.9 s"


async def _ask_in_vain(uri: str) -> None:
    client = HttpClient(Endpoint(uri, "key"))
    with pytest.raises(ManagerUnavailable, match="did not answer within"):
        await client.ask("GET", "/health", timeout=0.2)
    await client.aclose()


@pytest.mark.parametrize(
    "run",
    [lambda uri: trio.run(_ask_in_vain, uri), lambda uri: asyncio.run(_ask_in_vain(uri))],
    ids=["trio", "asyncio"],
)
def test_a_tls_handshake_that_takes_too_long_closes_its_connection(run: Callable[[str], None]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        run(f"https://127.0.0.1:{silent.getsockname()[1]}")
        gc.collect()  # pytest turns a warning of what is left open into an error


NO_THREADS = """
import resource, time
import trio
from exotrio import ManagerUnavailable, StateManager

async def main():
    used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 40 * 2**20, resource.RLIM_INFINITY))
    try:
        for _ in range(1000):
            trio.lowlevel.start_thread_soon(lambda: time.sleep(1000), lambda result: None)
    except RuntimeError as error:
        print(error, flush=True)
    async with StateManager("ns", "http://localhost:9", "key") as manager:
        try:
            await manager.runs(1, 1)
        except ManagerUnavailable as error:
            print("unavailable:", error.what, flush=True)

import httpx, httpcore, anyio, anyio._backends._trio
trio.run(main)
"""


def test_a_name_that_no_thread_can_look_up_makes_the_state_manager_unavailable(tmp_path: Path) -> None:
    with Process([sys.executable, "-c", NO_THREADS], cwd=tmp_path) as process:
        end = process.wait(code=0)
    assert end.out.count("can't start new thread") == 2, end
    assert "unavailable: " in end.out
