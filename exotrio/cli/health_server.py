"""The port of ``worker --health-port``: HTTP in a thread with its own Trio loop.

It has to answer while node code blocks the runtime's loop. It reads from the runtime only what any thread may
read, and it ends after the runtime, so that the drain can be observed.
It is here since ``monitoring`` does not serve HTTP.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager

import trio
from starlette.responses import PlainTextResponse, Response
from starlette.types import Receive, Scope, Send

from exotrio._httpd import LOOPBACK_HOSTS, Limits, host_name, is_loopback, open_listeners, serve_http, urls
from exotrio._runtime.runtime import Runtime
from exotrio._util.crossing import call_in_loop
from exotrio.errors import ExotrioError
from exotrio.monitoring import Health, RuntimeMetrics

log = logging.getLogger("exotrio.cli")

LIMITS = Limits(max_connections=32, max_body=1024, keyless=10.0)
GRACE = 1.0
"""Seconds for requests in flight when the process ends."""


@contextmanager
def health_server(runtime: Runtime, host: str, port: int, *, tasks: bool) -> Iterator[None]:
    """Serve the health of a runtime for as long as the block lasts; with ``tasks`` its task tree, too.

    Enter it before the runtime starts.

    Raises:
        PortBusy, ConfigurationError: the address cannot be used.
    """
    thread = _Thread(runtime, host, port, tasks=tasks)
    log.info("health is served on %s", " ".join(thread.bound))
    try:
        yield
    finally:
        thread.end()


class _Thread:
    """The thread of the port. Created and ended in another thread."""

    def __init__(self, runtime: Runtime, host: str, port: int, *, tasks: bool) -> None:
        self._runtime = runtime
        self._health, self._metrics = Health(runtime), RuntimeMetrics(runtime)
        self._paths = ["/livez", "/readyz", "/metrics", *(["/tasks"] if tasks else [])]
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

    async def _app(self, scope: Scope, receive: Receive, send: Send) -> None:
        response = await self._respond(scope)
        response.headers["cache-control"] = "no-store"
        await response(scope, receive, send)

    async def _respond(self, scope: Scope) -> Response:
        host = next((value.decode("latin-1") for name, value in scope["headers"] if name == b"host"), "")
        if self._hosts is not None and host_name(host) not in self._hosts:
            # On loopback: a web page must not read this through a host name of its own (DNS rebinding).
            return PlainTextResponse("this Host is not served here\n", 421)
        path = scope["path"]
        if path not in self._paths:
            return PlainTextResponse(f"not found; there are {', '.join(self._paths)}\n", 404)
        if scope["method"] not in ("GET", "HEAD"):
            return PlainTextResponse("only GET\n", 405)
        if path == "/metrics":
            body, content_type = self._metrics.render()
            return Response(body, media_type=content_type)
        if path == "/tasks":
            return PlainTextResponse(f"{await self._runtime.tasks()}\n")
        problem = self._health.alive() if path == "/livez" else self._health.ready()
        text = f"{problem or 'ok'}\n".encode("utf-8", "replace")
        return PlainTextResponse(text, 503 if problem else 200)
