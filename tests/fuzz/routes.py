"""What the application serves, read from its own tables of routes: a new route is fuzzed by itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import trio
from starlette.routing import Route, Router

from exotrio.manager import Service, create_app, open_service
from exotrio.manager.api.metrics import ManagerMetrics
from exotrio.manager.web import Dashboard
from tests.support.manager import NO_SETTINGS

KEY = "fuzz-suite-key-91b4c7"
HOST = "localhost:8000"
ORIGIN = f"http://{HOST}"


@dataclass(frozen=True, order=True)
class Target:
    """A method of a path that the application serves.

    Attributes:
        path: With ``{parameter}``, and no slash at its end. That a parameter may hold slashes is left out.
        is_page: Whether it is the dashboard's, and not the API's.
    """

    path: str
    method: str
    is_page: bool

    def __str__(self) -> str:
        return f"{self.method} {self.path}"

    @property
    def parameters(self) -> list[str]:
        return [part[1:-1] for part in self.path.split("/") if part.startswith("{")]

    def match(self, path: str) -> dict[str, str] | None:
        """Return the values of its parameters in a path, or None if it is another's."""
        parts, given = self.path.split("/"), path.rstrip("/").split("/")
        if len(parts) != len(given):
            return None
        values = {}
        for part, value in zip(parts, given, strict=True):
            if part.startswith("{"):
                values[part[1:-1]] = value
            elif part != value:
                return None
        return values


def application(service: Service) -> Any:
    """Return the whole application: both APIs, probes, metrics and the dashboard."""
    return create_app(
        service,
        key=KEY,
        allowed_hosts={"localhost"},
        dashboard=Dashboard(service, key=KEY),
        metrics=ManagerMetrics(service.store),
    )


async def sign_in(client: httpx.AsyncClient, key: str = KEY) -> bytes:
    """Sign a browser in to the dashboard, and return its cookie."""
    answer = await client.post("/sign-in", data={"key": key}, headers={"origin": ORIGIN})
    assert answer.status_code == 303, answer.text
    return answer.headers["set-cookie"].partition(";")[0].encode()


async def _served() -> tuple[tuple[Target, ...], Callable[[str], bool]]:
    """Return all targets, and what returns whether a path is the dashboard's, and not the API's."""
    async with open_service(":memory:", settings=NO_SETTINGS) as service:
        is_page = Dashboard(service, key=KEY).serves
        with _routers() as routers:
            application(service)
    matching = set()
    for route in (route for router in routers for route in router.routes):
        assert isinstance(route, Route), f"how is {route} to be fuzzed?"
        path = route.path.rstrip("/").replace(":path}", "}") or "/"
        for method in route.methods or ():
            if method != "HEAD":  # a form of GET, which is drawn with it
                matching.add(Target(path, method, is_page(path)))
    return tuple(sorted(matching)), is_page


@contextmanager
def _routers() -> Iterator[list[Router]]:
    """Note every router that is made: a new one need not be listed in the tests."""
    made: list[Router] = []
    make = Router.__init__

    def noting(router: Router, *args: Any, **options: Any) -> None:
        make(router, *args, **options)
        made.append(router)

    Router.__init__ = noting  # type: ignore[method-assign, assignment]
    try:
        yield made
    finally:
        Router.__init__ = make  # type: ignore[method-assign]


TARGETS, serves = trio.run(_served)


def target_of(method: str, path: str) -> tuple[Target, dict[str, str]] | None:
    """Return what a request is for, with the values of the path's parameters."""
    for target in sorted(TARGETS, key=lambda target: len(target.parameters)):
        values = target.match(path)
        if values is not None and target.method == method:
            return target, values
    return None
