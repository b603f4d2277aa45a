"""The port of ``worker --health-port``: HTTP in a thread with its own Trio loop.

It has to answer while node code blocks the runtime's loop. It reads from the runtime only what any thread may
read, and it ends after the runtime, so that the drain can be observed.
It is here since ``monitoring`` does not serve HTTP.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Awaitable, Callable, Iterator, Mapping, MutableMapping
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any

import trio

from exotrio._httpd import LOOPBACK_HOSTS, Limits, host_name, is_loopback, open_listeners, serve_http, urls
from exotrio._runtime.runtime import Runtime
from exotrio._util.crossing import call_in_loop
from exotrio.errors import ExotrioError
from exotrio.monitoring import Health, RuntimeMetrics

log = logging.getLogger("exotrio.cli")

LIMITS = Limits(max_connections=32, max_body=1024, keyless=10.0)
GRACE = 1.0
"""Seconds for requests in flight when the process ends."""
PLAIN = "text/plain; charset=utf-8"

Answer = tuple[int, bytes, str]
Handler = Callable[[], Awaitable[Answer]]


@contextmanager
def health_server(runtime: Runtime, host: str, port: int, *, tasks: bool) -> Iterator[None]:
    """Serve the health of a runtime for as long as the block lasts. Enter it before the runtime starts.

    Args:
        runtime: The runtime whose health is served.
        host: Address to bind.
        port: 0 for any free one.
        tasks: Serve the task tree too.

    Raises:
        PortBusy, ConfigurationError: the address cannot be used.
    """
    thread = _Thread(_pages(runtime, tasks=tasks), host, port)
    log.info("health is served on %s", " ".join(thread.bound))
    try:
        yield
    finally:
        thread.end()


def _pages(runtime: Runtime, *, tasks: bool) -> Mapping[str, Handler]:
    health, metrics = Health(runtime), RuntimeMetrics(runtime)

    async def livez() -> Answer:
        return _verdict(health.alive())

    async def readyz() -> Answer:
        return _verdict(health.ready())

    async def measured() -> Answer:
        body, content_type = metrics.render()
        return 200, body, content_type

    async def tree() -> Answer:
        return 200, f"{await runtime.tasks()}\n".encode(), PLAIN

    pages: dict[str, Handler] = {"/livez": livez, "/readyz": readyz, "/metrics": measured}
    return {**pages, "/tasks": tree} if tasks else pages


def _verdict(problem: str) -> Answer:
    return (503 if problem else 200), f"{problem or 'ok'}\n".encode("utf-8", "replace"), PLAIN


class _Thread:
    """The thread of the port. Created and ended in another thread."""

    def __init__(self, pages: Mapping[str, Handler], host: str, port: int) -> None:
        self._pages = pages
        self._hosts = LOOPBACK_HOSTS | {host} if is_loopback(host) else None
        self._token: trio.lowlevel.TrioToken | None = None
        self._stopping: trio.Event | None = None
        bound: Future[list[str]] = Future()
        # A daemon: it must not hold up the end of the process.
        self._thread = threading.Thread(
            target=self._body, args=(host, port, bound), name="exotrio health", daemon=True
        )
        self._thread.start()
        self.bound = bound.result()

    def end(self) -> None:
        """Answer requests in flight, and end."""
        if self._stopping is not None:
            call_in_loop(self._token, self._stopping.set)
        self._thread.join(2 * GRACE)

    def _body(self, host: str, port: int, bound: Future[list[str]]) -> None:
        try:
            trio.run(self._main, host, port, bound)
        except BaseException as error:
            if not isinstance(error, ExotrioError):
                log.critical("the health port failed", exc_info=error)
            if not bound.done():
                bound.set_exception(error)

    async def _main(self, host: str, port: int, bound: Future[list[str]]) -> None:
        listeners = await open_listeners(host, port)
        self._stopping = trio.Event()
        self._token = trio.lowlevel.current_trio_token()
        bound.set_result(urls(listeners))
        await serve_http(self._app, listeners, limits=LIMITS, grace=GRACE, stopping=self._stopping)

    async def _app(self, scope: MutableMapping[str, Any], receive: object, send: Any) -> None:
        status, body, content_type = await self._answer(scope)
        await send(
            {
                "type": "http.response.start",
                "status": status,
                "headers": [
                    (b"content-type", content_type.encode()),
                    (b"content-length", str(len(body)).encode()),
                    (b"cache-control", b"no-store"),
                ],
            }
        )
        await send({"type": "http.response.body", "body": body})

    async def _answer(self, scope: Mapping[str, Any]) -> Answer:
        host = next((value.decode("latin-1") for name, value in scope["headers"] if name == b"host"), "")
        if self._hosts is not None and host_name(host) not in self._hosts:
            # On loopback: a web page must not read this through a host name of its own (DNS rebinding).
            return 421, b"this Host is not served here\n", PLAIN
        page = self._pages.get(scope["path"])
        if page is None:
            return 404, f"not found; there are {', '.join(self._pages)}\n".encode(), PLAIN
        if scope["method"] not in ("GET", "HEAD"):
            return 405, b"only GET\n", PLAIN
        return await page()
