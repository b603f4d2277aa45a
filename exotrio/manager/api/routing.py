"""Routes of Starlette, made of tables of (method, path, endpoint)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from exotrio.manager.api.json import path_name

Endpoint = Callable[[Request], Awaitable[Response]]
NamespaceEndpoint = Callable[[Request, str], Awaitable[Response]]


def namespace_routes(root: str, table: Iterable[tuple[str, str, NamespaceEndpoint]]) -> list[Route]:
    """Return routes below ``root/namespace/{namespace}``; their endpoints are given the namespace."""

    def given_namespace(endpoint: NamespaceEndpoint) -> Endpoint:
        return lambda request: endpoint(request, path_name(request, "namespace"))

    return routes_of(
        (method, f"{root}/namespace/{{namespace}}{path}", given_namespace(endpoint))
        for method, path, endpoint in table
    )


def routes_of(table: Iterable[tuple[str, str, Endpoint]]) -> list[Route]:
    """Return Starlette routes: one per path and slash form, dispatching on the method.

    Starlette answers 405 from the first route whose path matches, so the methods of a path must
    share one route.
    """
    by_path: dict[str, dict[str, Endpoint]] = {}
    for method, path, endpoint in table:
        by_path.setdefault(path, {})[method] = endpoint
    return [
        Route(form, _dispatcher(methods), methods=list(methods))
        for path, methods in by_path.items()
        for form in (path, path + "/")
    ]


def _dispatcher(methods: dict[str, Endpoint]) -> Endpoint:
    async def dispatch(request: Request) -> Response:
        # Starlette adds HEAD to every route that has GET.
        return await methods["GET" if request.method == "HEAD" else request.method](request)

    return dispatch
