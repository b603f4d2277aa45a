"""Find out which kind of state manager answers: ours, another that speaks v0, or none at all.

A status does not identify a server: a gateway without a route, or another application on the port, answers
404 in JSON, too. Ours is recognized by the body of its native root, any other by its list of nodes, before
and after which its native root is not found. In the head of that list, ours says that it has the native API.
"""

from __future__ import annotations

from typing import Any

from exotrio._http.client import HttpClient
from exotrio._http.response import CHECK_URI
from exotrio._wire.body import Body
from exotrio._wire.native import Discovery
from exotrio._wire.vocabulary import NATIVE_HEADER, NATIVE_ROOT, NATIVE_VERSION, v0_path
from exotrio.errors import InvalidResponse, NotFound, RequestRefused

DISCOVERY_TIMEOUT = 10.0


class _NodesReply(Body):
    """The list of nodes, with the nodes themselves unchecked."""

    namespace: str
    count: int
    nodes: list[Any]


async def discover(http: HttpClient, namespace: str, *, may_be_hidden: bool = True) -> Discovery | None:
    """Return what a state manager says of its native API; None if it has none.

    This exotrio can use version ``NATIVE_VERSION``. Any other server is used through v0: it has to list the
    nodes of the namespace.

    Args:
        may_be_hidden: Whether a server is also used through v0 whose native API something in between hides.

    Raises:
        InvalidResponse: what answers is not a state manager, at least not now; or its native API is hidden.
        ManagerUnavailable, KeyRefused: as ``HttpClient.ask`` says.
    """
    native = await discover_native(http)
    if native is None or native.version != NATIVE_VERSION:
        is_hidden = await require_v0(http, namespace)
        # Race: a gateway without the route may have answered for ours, which then listed its nodes. Over v0,
        # claims have no leases: what a runtime that is lost holds so stays claimed.
        native = await discover_native(http)
        if native is None and is_hidden and not may_be_hidden:
            raise InvalidResponse(
                f"the state manager at {http.endpoint.shown} has the native API, but 404 is answered for it",
                status=404,
                fix=f"let proxies in between pass on all paths below {NATIVE_ROOT}, or use link='v0',"
                " without leases",
            )
    return native


async def discover_native(http: HttpClient) -> Discovery | None:
    """Return the answer of the native root; None after a 404 in JSON."""
    try:
        return await http.fetch(Discovery, "GET", NATIVE_ROOT, timeout=DISCOVERY_TIMEOUT)
    except NotFound:
        return None
    except RequestRefused as error:
        # A proxy that is being set up may answer anything: the server may have the route all the same.
        raise InvalidResponse(error.what, status=error.status, where=error.where, fix=error.fix) from error


async def require_v0(http: HttpClient, namespace: str) -> bool:
    """Return if a state manager that speaks v0 answers, and whether it says that it also has the native API;
    raise as ``discover`` does if not."""
    try:
        answer = await http.ask("GET", v0_path(namespace, "nodes", ""), timeout=DISCOVERY_TIMEOUT)
    except (NotFound, RequestRefused) as error:
        raise not_a_manager(http, "its nodes", f"it answered {error.status}", error) from error
    if answer.parse(_NodesReply).namespace != namespace:
        raise not_a_manager(http, "its nodes", "it answered about another namespace")
    return answer.headers.get(NATIVE_HEADER) == NATIVE_VERSION


def not_a_manager(
    http: HttpClient, requested: str, why: str, error: NotFound | RequestRefused | None = None
) -> InvalidResponse:
    """Return the error for an answer that no state manager gives."""
    return InvalidResponse(
        f"what is at {http.endpoint.shown} does not answer as a state manager: asked for {requested}, {why}",
        status=error.status if error else None,
        where=error.where if error else "",
        fix=CHECK_URI,
    )
