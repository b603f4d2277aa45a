"""The port of ``worker --health-port``.

It is served in a thread with its own Trio loop, since it has to answer while node code blocks the runtime's
loop. It reads only what any thread may read of the runtime, and it ends after the runtime, so that the drain
can be observed.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager

import trio
from starlette.responses import PlainTextResponse, Response
from starlette.types import Receive, Scope, Send

from exotrio import Runtime
from exotrio._httpd import LOOPBACK_HOSTS, Limits, host_name, open_listeners, serve_http, urls
from exotrio._util.crossing import call_in_loop
from exotrio._util.database_url import is_loopback
from exotrio.cli.exit_codes import bare_errors
from exotrio.errors import ExotrioError
from exotrio.monitoring import Health, RuntimeMetrics

log = logging.getLogger("exotrio.cli")

LIMITS = Limits(max_connections=32, max_body=1024, keyless=10.0)
GRACE = 1.0
"""Seconds for requests in flight when the process ends."""


class _App:
    """The ASGI app. ``hosts`` are the values of the Host header that it accepts; None for any."""

    def __init__(self, runtime: Runtime, hosts: frozenset[str] | None, *, tasks: bool) -> None:
        self._runtime = runtime
        self._health, self._metrics = Health(runtime), RuntimeMetrics(runtime)
        self._hosts = hosts
        self._paths = ["/livez", "/readyz", "/metrics", *(["/tasks"] if tasks else [])]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        response = await self._respond(scope)
        response.headers["cache-control"] = "no-store"
        await response(scope, receive, send)

    async def _respond(self, scope: Scope) -> Response:
        host = next((value.decode("latin-1") for name, value in scope["headers"] if name == b"host"), "")
        if self._hosts is not None and host_name(host) not in self._hosts:
            # On loopback: a web page must not read this through its own host name (DNS rebinding).
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


@contextmanager
def health_server(runtime: Runtime, host: str, port: int, *, tasks: bool) -> Iterator[None]:
    """Serve the health of a runtime for as long as the block lasts; with ``tasks`` its task tree, too.

    Enter it before the runtime starts.

    Raises:
        PortBusy, ConfigurationError: the address cannot be used.
    """
    app = _App(runtime, LOOPBACK_HOSTS | {host} if is_loopback(host) else None, tasks=tasks)
    bound: Future[Callable[[], None]] = Future()

    async def main() -> None:
        stopping, token = trio.Event(), trio.lowlevel.current_trio_token()
        listeners = await open_listeners(host, port)
        log.info("health is served on %s", " ".join(urls(listeners)))
        bound.set_result(lambda: call_in_loop(token, stopping.set))
        await serve_http(app, listeners, limits=LIMITS, grace=GRACE, stopping=stopping)

    def body() -> None:
        try:
            with bare_errors():
                trio.run(main)
        except BaseException as error:
            if not isinstance(error, ExotrioError):
                log.critical("the health port failed", exc_info=error)
            if not bound.done():
                bound.set_exception(error)

    # A daemon: it must not delay the end of the process.
    thread = threading.Thread(target=body, name="exotrio health", daemon=True)
    thread.start()
    end = bound.result()
    try:
        yield
    finally:
        end()
        thread.join(2 * GRACE)
