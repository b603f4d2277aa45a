"""Which kind of state manager is there: ours, another that speaks v0, or none at all.

No status says who answers: a gateway without a route, or another application on the port, answers 404 in
JSON too. So nothing is concluded from a status. Ours is known by what its native root answers, and any
other by what its list of nodes answers.
"""

from __future__ import annotations

from typing import Any

from exotrio._http.client import HttpClient
from exotrio._http.response import CHECK_URI
from exotrio._wire.body import Body
from exotrio._wire.native import Discovery
from exotrio._wire.vocabulary import NATIVE_ROOT, NATIVE_VERSION, v0_path
from exotrio.errors import InvalidResponse, NotFound, RequestRefused

DISCOVERY_TIMEOUT = 10.0


class _NodesReply(Body):
    """The list of nodes, with the nodes themselves unchecked."""

    namespace: str
    count: int
    nodes: list[Any]


async def discover(http: HttpClient, namespace: str) -> str | None:
    """Return the version of a state manager's native API; None if it has none.

    This exotrio can use ``NATIVE_VERSION``. Any other server is used through v0: it has to list the nodes of
    the namespace.

    Raises:
        InvalidResponse: what answers is not a state manager, at least not now.
        ManagerUnavailable, KeyRefused: as ``HttpClient.ask`` says.
    """
    version = await native_version(http)
    if version != NATIVE_VERSION:
        await require_v0(http, namespace)
    return version


async def native_version(http: HttpClient) -> str | None:
    """Return what the native root says; None after a JSON 404, which does not say who is there."""
    try:
        return (await http.fetch(Discovery, "GET", NATIVE_ROOT, timeout=DISCOVERY_TIMEOUT)).version
    except NotFound:
        return None
    except RequestRefused as error:
        # A proxy that is being set up answers anything: deciding for v0 now would stick.
        raise InvalidResponse(error.what, status=error.status, where=error.where, fix=error.fix) from error


async def require_v0(http: HttpClient, namespace: str) -> None:
    """Return if a state manager that speaks v0 answers; raise as ``discover`` does if not."""
    try:
        reply = await http.fetch(
            _NodesReply, "GET", v0_path(namespace, "nodes", ""), timeout=DISCOVERY_TIMEOUT
        )
    except (NotFound, RequestRefused) as error:
        raise not_a_manager(http, "its nodes", f"it answered {error.status}", error) from error
    if reply.namespace != namespace:
        raise not_a_manager(http, "its nodes", "it answered about another namespace")


def not_a_manager(
    http: HttpClient, asked_for: str, why: str, error: NotFound | RequestRefused | None = None
) -> InvalidResponse:
    """Return the error for an answer that no state manager gives."""
    return InvalidResponse(
        f"what is at {http.endpoint.shown} does not answer as a state manager: asked for {asked_for}, {why}",
        status=error.status if error else None,
        where=error.where if error else "",
        fix=CHECK_URI,
    )
