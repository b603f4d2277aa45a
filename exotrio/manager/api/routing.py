"""Routes of Starlette, made of tables of (method, path, endpoint)."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable
from typing import Concatenate

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from exotrio.manager.api.bodies import RELEASE
from exotrio.manager.api.json import path_name

Endpoint = Callable[[Request], Awaitable[Response]]
NamespaceEndpoint = Callable[Concatenate[Request, str, ...], Awaitable[Response]]
"""Is given the namespace, and by name what else its path names."""


def namespace_routes(root: str, table: Iterable[tuple[str, str, NamespaceEndpoint]]) -> list[Route]:
    """Return routes below ``root/namespace/{namespace}``. A graph or a node is trimmed, as it is stored."""

    def given(endpoint: NamespaceEndpoint) -> Endpoint:
        def called(request: Request) -> Awaitable[Response]:
            namespace = path_name(request, "namespace")
            named = {
                name: path_name(request, name).strip() if name in ("graph", "node") else text
                for name, text in request.path_params.items()
                if name != "namespace"
            }
            return endpoint(request, namespace, **named)

        return called

    return routes_of(
        (method, f"{root}/namespace/{{namespace}}{path}", given(endpoint)) for method, path, endpoint in table
    )


def routes_of(table: Iterable[tuple[str, str, Endpoint]]) -> list[Route]:
    """Return Starlette routes: one per path, with or without a slash at its end, dispatching on the method.

    Starlette answers 405 from the first route whose path matches, so the methods of a path must
    share one route.
    """
    by_path: dict[str, dict[str, Endpoint]] = {}
    for method, path, endpoint in table:
        by_path.setdefault(path, {})[method] = endpoint
    routes = [Route(path, _dispatcher(methods), methods=list(methods)) for path, methods in by_path.items()]
    for route in routes:
        route.path_regex = re.compile(route.path_regex.pattern.removesuffix("$") + "/?$")
    return routes


def _dispatcher(methods: dict[str, Endpoint]) -> Endpoint:
    async def dispatch(request: Request) -> Response:
        try:
            # Starlette adds HEAD to every route that has GET.
            return await methods["GET" if request.method == "HEAD" else request.method](request)
        finally:
            if release := request.scope.get(RELEASE):
                release()

    return dispatch
