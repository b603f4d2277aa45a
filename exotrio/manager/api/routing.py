"""Routes: endpoints that are decorated with what they serve, and the ASGI application that serves them.

A decorator has the method and path that an endpoint serves, and the type of the reply. The endpoint takes by
name the parameters of the path, and what else it needs: ``request``; ``caller``, who sent it; ``body`` and
``query``, whose annotations are the models for parsing them. It returns a response, or what is sent as JSON.
``openapi`` describes the API from the same decorators.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, lru_cache, partial
from typing import Any, NamedTuple, TypeVar, get_type_hints

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import compile_path
from starlette.types import Message, Receive, Scope, Send

from exotrio._wire.vocabulary import NATIVE_ROOT
from exotrio.manager.api.bodies import BodyReader, read_model
from exotrio.manager.api.json import EXPECTED, path_name, read_query, reply, reply_to_error
from exotrio.manager.rules.access import NamedKey, Permission
from exotrio.manager.rules.errors import Forbidden
from exotrio.manager.security.access import KEY, caller_of, log_forbidden
from exotrio.manager.service import Service

Endpoint = Callable[..., Awaitable[object]]
E = TypeVar("E", bound=Endpoint)
NS = NATIVE_ROOT + "/namespace/{namespace}"
"""Where the native routes of a namespace begin."""
OPEN, ANY_KEY, ADMIN = Permission.OPEN, Permission.ANY_KEY, Permission.ADMIN
RUNTIME, TRIGGER = Permission.RUNTIME, Permission.TRIGGER
READ, GRAPHS = Permission.READ, Permission.GRAPHS
_MARK = "_exotrio_route"
PATTERN = "exotrio.pattern"
"""Key in an ASGI scope: the path of the route that was found, with the names of its parameters."""
MAX_KEPT_PATH = 200
"""Characters of the longest path of which the route is remembered."""


@dataclass(frozen=True, slots=True)
class ApiRoute:
    """One method of one path. As a decorator it marks a method of a class as the endpoint.

    Attributes:
        summary: One line for the description of the API.
        needs: The permission that a key needs, in the namespace of the path if it is one for namespaces.
            Without a default: a route that does not say it cannot be defined.
        reply: The type of the reply, a media type if that is a text, or None for any JSON.
        body: The type of the body, if there is one. To be set only for an endpoint without a parameter
            ``body``, which reads it by itself.
        status: Of a reply that is not an error.
        takes: Which of ``request``, ``caller`` and ``body`` the endpoint takes.
    """

    method: str
    path: str
    summary: str
    needs: Permission
    reply: Any = None
    body: Any = None
    status: int = 200
    query: Any = None
    takes: frozenset[str] = frozenset()
    endpoint: Endpoint | None = None

    def __call__(self, endpoint: E) -> E:
        setattr(endpoint, _MARK, self)
        return endpoint


class Endpoints:
    """An object whose methods are endpoints, marked by ``get``, ``post``, ``put`` and ``delete``."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._store = service.store


get, post, put, delete = (partial(ApiRoute, method) for method in ("GET", "POST", "PUT", "DELETE"))


def routes_of(api: object) -> list[ApiRoute]:
    """Return the routes of an object whose class has marked endpoints."""
    return [
        replace(_complete(member), endpoint=getattr(api, name))
        for name, member in vars(type(api)).items()
        if isinstance(getattr(member, _MARK, None), ApiRoute)
    ]


@cache
def _complete(endpoint: Endpoint) -> ApiRoute:
    marked: ApiRoute = getattr(endpoint, _MARK)
    hints = get_type_hints(endpoint)
    models = {each: hints[each] for each in ("body", "query") if each in hints}
    return replace(marked, takes=frozenset(hints) & {"request", "caller", "body"}, **models)


@cache
def _regex(path: str) -> re.Pattern[str]:
    return re.compile(compile_path(path)[0].pattern.removesuffix("$") + "/?$")


class _Match(NamedTuple):
    """What serves a path: the route, or which methods others have."""

    pattern: str
    parameters: dict[str, str]
    methods: dict[str, ApiRoute]


class Api:
    """The ASGI application that serves a table of routes, each with or without a slash at its end.

    Starlette's application does the same, and took a tenth of the server's time for a short request: it tries
    one route after the other, and has three layers for handlers of exceptions and for middleware.

    Attributes:
        bodies: What reads the bodies, for routes that have some.
    """

    def __init__(self, table: Sequence[ApiRoute], bodies: BodyReader | None = None) -> None:
        self.table = table
        self.bodies = bodies
        by_path: dict[str, dict[str, ApiRoute]] = {}
        for route in table:
            by_path.setdefault(route.path, {})[route.method] = route
        self._paths = [(_regex(path), path, methods) for path, methods in by_path.items()]
        # Runtimes and clients call few paths again and again; those of runs, once or twice.
        self._find_short = lru_cache(maxsize=64)(self._find)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request. An unexpected error is raised after the reply to it; the caller logs it."""
        has_begun = False

        async def pass_on(message: Message) -> None:
            nonlocal has_begun
            has_begun = True
            await send(message)

        scope["app"] = self
        request = Request(scope, receive)
        try:
            response = await self._respond(request)
            await response(scope, receive, pass_on)
        except Exception as error:
            if has_begun:
                raise
            if isinstance(error, Forbidden):
                log_forbidden(scope)
            await reply_to_error(request, error)(scope, receive, send)
            if not isinstance(error, EXPECTED):
                raise

    async def _respond(self, request: Request) -> Response:
        scope = request.scope
        method, path = scope["method"], scope["path"]
        # A GET has no effects: HEAD is the same, without a body.
        method = "GET" if method == "HEAD" else method
        match = (self._find_short if len(path) <= MAX_KEPT_PATH else self._find)(method, path)
        if match is None:
            raise HTTPException(404)
        scope[PATTERN], scope["path_params"] = match.pattern, match.parameters
        route = match.methods.get(method)
        if route is None:
            also_head = ["HEAD"] if "GET" in match.methods else []
            raise HTTPException(405, headers={"Allow": ", ".join([*match.methods, *also_head])})
        arguments: dict[str, Any] = {**match.parameters}
        if "namespace" in arguments:
            arguments["namespace"] = path_name(request, "namespace")
        if KEY in scope:
            key: NamedKey = scope[KEY]
            key.require(route.needs, arguments.get("namespace", ""))
        for name in ("graph", "node", "limit"):
            if name in arguments:
                arguments[name] = path_name(request, name).strip()  # as it is stored
        if route.query is not None:
            arguments["query"] = read_query(request, route.query)
        if "request" in route.takes:
            arguments["request"] = request
        if "caller" in route.takes:
            arguments["caller"] = caller_of(scope)
        if "body" in route.takes:
            arguments["body"] = await read_model(request, route.body)
        assert route.endpoint is not None
        content = await route.endpoint(**arguments)
        return content if isinstance(content, Response) else reply(content, route.status)

    def _find(self, method: str, path: str) -> _Match | None:
        first = None
        for regex, pattern, methods in self._paths:
            if (parts := regex.match(path)) is not None:
                match = _Match(pattern, parts.groupdict(), methods)
                if method in methods:
                    return match
                first = first or match
        return first
