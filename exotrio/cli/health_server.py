"""The port of ``worker --health-port``.

For one runtime it is served in a thread with its own Trio loop, since it has to answer while node code blocks
the runtime's loop. It reads only what any thread may read of the runtime, and it ends after the runtime, so
that the drain can be observed. With ``--processes`` the parent serves it (``processes.health``).
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from functools import partial
from typing import Protocol

import trio
from starlette.responses import PlainTextResponse, Response
from starlette.types import Receive, Scope, Send

from exotrio import Runtime
from exotrio._httpd import LOOPBACK_HOSTS, Limits, host_name, is_loopback, open_listeners, serve_http, urls
from exotrio._util.crossing import call_in_loop
from exotrio.cli.exit_codes import bare_errors
from exotrio.errors import ExotrioError
from exotrio.monitoring import Health, RuntimeMetrics

log = logging.getLogger("exotrio.cli")

LIMITS = Limits(max_connections=32, max_body=1024, keyless=10.0)
GRACE = 1.0
"""Seconds for requests in flight when the process ends."""


class Source(Protocol):
    """The contents of a health port."""

    async def alive(self) -> str:
        """Return why the process should be restarted; empty if it should not."""

    async def ready(self) -> str:
        """Return why no work is begun; empty if it is."""

    async def metrics(self) -> tuple[bytes, str]:
        """Return the metrics, and their content type."""

    async def tasks(self) -> str:
        """Return where each task waits."""


async def serve_health(
    source: Source,
    host: str,
    port: int,
    *,
    tasks: bool,
    stopping: trio.Event,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve the port until ``stopping`` is set; with ``tasks`` the task tree, too.

    Raises:
        PortBusy, ConfigurationError: the address cannot be used.

    Cancellation:
        At once.
    """
    listeners = await open_listeners(host, port)
    log.info("health is served on %s", " ".join(urls(listeners)))
    task_status.started()
    app = _App(source, LOOPBACK_HOSTS | {host} if is_loopback(host) else None, tasks=tasks)
    await serve_http(app, listeners, limits=LIMITS, grace=GRACE, stopping=stopping)


class _App:
    """The ASGI app. ``hosts`` are the values of the Host header that it accepts; None for any."""

    def __init__(self, source: Source, hosts: frozenset[str] | None, *, tasks: bool) -> None:
        self._source = source
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
            body, content_type = await self._source.metrics()
            return Response(body, media_type=content_type)
        if path == "/tasks":
            return PlainTextResponse(f"{await self._source.tasks()}\n")
        problem = await (self._source.alive() if path == "/livez" else self._source.ready())
        text = f"{problem or 'ok'}\n".encode("utf-8", "replace")
        return PlainTextResponse(text, 503 if problem else 200)


@contextmanager
def health_server(runtime: Runtime, host: str, port: int, *, tasks: bool) -> Iterator[None]:
    """Serve the health of a runtime for as long as the block lasts; with ``tasks`` its task tree, too.

    Enter it before the runtime starts.

    Raises:
        PortBusy, ConfigurationError: the address cannot be used.
    """
    serve = partial(serve_health, _OneRuntime(runtime), host, port, tasks=tasks)
    bound: Future[Callable[[], None]] = Future()

    async def main() -> None:
        stopping, token = trio.Event(), trio.lowlevel.current_trio_token()
        async with trio.open_nursery() as nursery:
            await nursery.start(partial(serve, stopping=stopping))
            bound.set_result(lambda: call_in_loop(token, stopping.set))

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


class _OneRuntime:
    """The ``Source`` for the one runtime of this process."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._health, self._metrics = Health(runtime), RuntimeMetrics(runtime)

    async def alive(self) -> str:
        return self._health.alive()

    async def ready(self) -> str:
        return self._health.ready()

    async def metrics(self) -> tuple[bytes, str]:
        return self._metrics.render()

    async def tasks(self) -> str:
        return await self._runtime.tasks()
