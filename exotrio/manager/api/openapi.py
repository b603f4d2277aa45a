"""``/openapi.json`` and ``/docs``: both APIs described, from the classes that parse and make their bodies.

They ask for no key, as at the stock state manager: they are the same everywhere, and say nothing of what a
state manager holds. The page loads nothing and has no script.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterable
from hashlib import sha256

from markupsafe import Markup
from pydantic_core import to_json
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from exotrio._wire.vocabulary import KEY_HEADER
from exotrio.manager.api.routing import routes_of
from exotrio.manager.service import Service

OPEN = frozenset({"/openapi.json", "/docs"})
"""Paths without a key."""
STYLE = (
    "body{font:1rem/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;"
    "overflow-wrap:anywhere;background:Canvas;color:CanvasText}"
    "details{border-top:1px solid #8886;padding:.3rem 0}summary{cursor:pointer}"
    "td,th{text-align:left;vertical-align:top;padding:.1rem 1rem .1rem 0}code{font-size:.9em}"
)


def description_routes(service: Service, routes: Iterable[Route]) -> list[Route]:
    """Return the routes that describe ``routes`` and themselves."""
    described: list[Route] = list(routes)
    made: tuple[bytes, bytes, dict[str, str]] | None = None

    def make() -> tuple[bytes, bytes, dict[str, str]]:
        nonlocal made
        if made is None:
            made = _describe(described)
        return made

    async def once() -> tuple[bytes, bytes, dict[str, str]]:
        # In the thread for computations, one at a time: it takes a quarter of a second, and any client may
        # request it many times before it is made. A call that is cancelled meanwhile leaves it made.
        return await service.compute(make) if made is None else made

    async def document(request: Request) -> Response:
        content, _, _ = await once()
        return Response(content, media_type="application/json")

    async def page(request: Request) -> Response:
        _, content, headers = await once()
        return Response(content, headers=headers, media_type="text/html")

    own = routes_of([("GET", "/openapi.json", document), ("GET", "/docs", page)])
    described += own
    return own


def _describe(routes: Iterable[Route]) -> tuple[bytes, bytes, dict[str, str]]:
    """Return the document, its page and the headers of the page."""
    # Here: most state managers are never asked for it.
    from exotrio.manager.api.document import document_of
    from exotrio.manager.web.page import render

    digest = b64encode(sha256(STYLE.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; frame-ancestors 'none'; base-uri 'none'"
    headers = {"content-security-policy": policy, "x-content-type-options": "nosniff"}
    document = document_of(routes)
    page = render("api.html", document=document, style=Markup(STYLE), header=KEY_HEADER)
    return to_json(document), page.encode(), headers
