"""Routes: endpoints that are decorated with what they serve, and the Starlette routes made of them.

A decorator has the method and path that an endpoint serves, and the type of the reply. The parameters of the
endpoint have the names of the parameters of the path, or are ``body`` and ``query``, whose annotations are
the models for parsing them. ``openapi`` describes the API from the same decorators.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, TypeVar, get_type_hints

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from exotrio.manager.api.bodies import read_model
from exotrio.manager.api.json import path_name, read_query

Endpoint = Callable[..., Awaitable[Response]]
E = TypeVar("E", bound=Endpoint)
_MARK = "_exotrio_route"


@dataclass(frozen=True, slots=True)
class ApiRoute:
    """One method of one path. As a decorator it marks a method of a class as the endpoint.

    Attributes:
        summary: One line for the description of the API.
        reply: The type of the reply, a media type if that is a text, or None for any JSON.
        body: The type of the body, if there is one. To be set only for an endpoint without a parameter
            ``body``, which reads it by itself.
        status: Of a reply that is not an error.
        is_open: No key is needed.
        query: The model of the query, if there is one.
        takes_body: Whether the endpoint takes the parsed body.
        endpoint: Called with the request, and with its other parameters by name.
    """

    method: str
    path: str
    summary: str
    reply: Any = None
    body: Any = None
    status: int = 200
    is_open: bool = False
    query: Any = None
    takes_body: bool = False
    endpoint: Endpoint | None = None

    def __call__(self, endpoint: E) -> E:
        setattr(endpoint, _MARK, self)
        return endpoint


def routes_of(api: object) -> list[ApiRoute]:
    """Return the routes of an object whose class has marked endpoints."""
    routes = []
    for name, member in vars(type(api)).items():
        if isinstance(marked := getattr(member, _MARK, None), ApiRoute):
            models = _models(member)
            routes.append(replace(marked, endpoint=getattr(api, name), takes_body="body" in models, **models))
    return routes


@cache
def _models(endpoint: Endpoint) -> dict[str, Any]:
    hints = get_type_hints(endpoint)
    return {name: hints[name] for name in ("body", "query") if name in hints}


def starlette_routes(routes: Iterable[ApiRoute]) -> list[Route]:
    """Return Starlette's routes: one per path, with or without a slash at its end, dispatching on the method.

    Starlette answers 405 from the first route whose path matches, so the methods of a path must
    share one route.
    """
    by_path: dict[str, dict[str, ApiRoute]] = {}
    for route in routes:
        by_path.setdefault(route.path, {})[route.method] = route
    made = [Route(path, _dispatcher(methods), methods=list(methods)) for path, methods in by_path.items()]
    for each in made:
        each.path_regex = re.compile(each.path_regex.pattern.removesuffix("$") + "/?$")
    return made


def _dispatcher(methods: dict[str, ApiRoute]) -> Callable[[Request], Awaitable[Response]]:
    async def dispatch(request: Request) -> Response:
        # Starlette adds HEAD to every route that has GET.
        route = methods["GET" if request.method == "HEAD" else request.method]
        arguments: dict[str, Any] = {**request.path_params}
        if "namespace" in arguments:
            arguments["namespace"] = path_name(request, "namespace")
        for name in ("graph", "node"):
            if name in arguments:
                arguments[name] = path_name(request, name).strip()  # as it is stored
        if route.query is not None:
            arguments["query"] = read_query(request, route.query)
        if route.takes_body:
            arguments["body"] = await read_model(request, route.body)
        assert route.endpoint is not None
        return await route.endpoint(request, **arguments)

    return dispatch
