"""``/openapi.json`` and ``/docs``: both APIs described, from the classes that parse and make their bodies.

They ask for no key, as at the stock state manager: they are the same everywhere, and say nothing of what a
state manager holds. The page loads nothing and has no script.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterable
from hashlib import sha256

from pydantic_core import to_json
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from exotrio.manager.api.routing import routes_of
from exotrio.manager.service import Service

OPEN = frozenset({"/openapi.json", "/docs"})
"""Paths without a key."""


def description_routes(service: Service, routes: Iterable[Route]) -> list[Route]:
    """Return the routes that describe ``routes`` and themselves."""
    described: list[Route] = list(routes)
    made: dict[str, bytes] = {}
    headers: dict[str, str] = {}

    def make() -> None:
        # Here: most state managers are never asked for it.
        from exotrio.manager.api.document import STYLE, document_of, page_of

        if not made:
            digest = b64encode(sha256(STYLE.encode()).digest()).decode()
            headers["content-security-policy"] = (
                f"default-src 'none'; style-src 'sha256-{digest}'; frame-ancestors 'none'; base-uri 'none'"
            )
            headers["x-content-type-options"] = "nosniff"
            document = document_of(described)
            made.update({"json": to_json(document), "html": page_of(document).encode()})

    async def content(name: str) -> bytes:
        if not made:
            await service.compute(make)  # beside the other requests: it takes a quarter of a second
        return made[name]

    async def document(request: Request) -> Response:
        return Response(await content("json"), media_type="application/json")

    async def page(request: Request) -> Response:
        return Response(await content("html"), headers=headers, media_type="text/html")

    own = routes_of([("GET", "/openapi.json", document), ("GET", "/docs", page)])
    described += own
    return own
