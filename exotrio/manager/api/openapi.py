"""``/openapi.json`` and ``/docs``: both APIs described, from the table of routes and the models in it.

They need no key, as at the stock state manager: they are the same everywhere, and contain no data of a state
manager. The page loads nothing and has no script.
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from hashlib import sha256
from typing import Any

from markupsafe import Markup
from pydantic import TypeAdapter
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaMode
from pydantic_core import to_json
from starlette.responses import Response

from exotrio._wire.vocabulary import KEY_HEADER, NATIVE_VERSION
from exotrio.manager.api.routing import OPEN, ApiRoute, get, routes_of
from exotrio.manager.rules.access import IN_NAMESPACE, Permission
from exotrio.manager.service import Service

_REFS = "#/components/schemas/"


class Descriptions:
    """The routes that describe ``routes`` and themselves; with ``guide`` the page links to the guide."""

    def __init__(self, service: Service, routes: Iterable[ApiRoute], *, guide: bool) -> None:
        self._service = service
        self._routes = [*routes, *routes_of(self)]
        self._guide = guide
        self._made: tuple[Response, Response] | None = None

    @get("/openapi.json", "This description", OPEN)
    async def document(self) -> Response:
        return (await self._make_once())[0]

    @get("/docs", "This description as a page", OPEN, "text/html")
    async def page(self) -> Response:
        return (await self._make_once())[1]

    async def _make_once(self) -> tuple[Response, Response]:
        # In the thread for computations, one at a time: it takes a quarter of a second, and any client may
        # request it many times before it is made. If this call is cancelled, the thread still makes it.
        made = self._made
        return await self._service.store.compute(self._make) if made is None else made

    def _make(self) -> tuple[Response, Response]:
        if self._made is not None:  # by the call that this one waited for
            return self._made
        self._made = _describe(self._routes, guide=self._guide)
        return self._made


def _describe(routes: Sequence[ApiRoute], *, guide: bool) -> tuple[Response, Response]:
    """Return the document, and its page."""
    # Imported here, since most state managers never serve it.
    from exotrio.manager.web.guide import PAGES
    from exotrio.manager.web.page import render, style

    sheet = style()
    digest = b64encode(sha256(sheet.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; frame-ancestors 'none'; base-uri 'none'"
    headers = {"content-security-policy": policy, "x-content-type-options": "nosniff"}
    document = document_of(routes)
    page = render(
        "api.html",
        document=document,
        style=Markup(sheet),
        header=KEY_HEADER,
        theme="auto",
        name="api",
        pages=PAGES if guide else {},
    )
    return (
        Response(to_json(document), media_type="application/json"),
        Response(page.encode(), headers=headers, media_type="text/html"),
    )


class _Schemas(GenerateJsonSchema):
    def ser_schema(self, schema: Any) -> Any:
        # Serializers around a whole model leave out fields that are not set, but do not change their types.
        return None if schema["type"] == "function-wrap" else super().ser_schema(schema)


def document_of(routes: Iterable[ApiRoute]) -> dict[str, Any]:
    """Return the description of routes in OpenAPI 3.1."""
    routes = [replace(route, path=re.sub(r"\{(\w+):\w+\}", r"{\1}", route.path)) for route in routes]
    routes.sort(key=lambda route: (route.path.startswith("/exotrio"), route.path, route.method))
    types: list[tuple[tuple[int, str], JsonSchemaMode, Any]] = []
    for number, route in enumerate(routes):
        parts: tuple[tuple[str, JsonSchemaMode, Any], ...] = (
            ("body", "validation", route.body),
            ("query", "validation", route.query),
            ("reply", "serialization", None if isinstance(route.reply, str) else route.reply),
        )
        types += [
            ((number, part), mode, TypeAdapter(of_part).core_schema)
            for part, mode, of_part in parts
            if of_part is not None
        ]
    schemas, definitions = _Schemas(ref_template=_REFS + "{model}").generate_definitions(types)
    by_part = {key: schema for (key, _), schema in schemas.items()}
    paths: dict[str, dict[str, Any]] = {}
    for number, route in enumerate(routes):
        of_route = {part: by_part.get((number, part)) for part in ("body", "query", "reply")}
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, of_route, definitions)
    return {
        "openapi": "3.1.0",
        "info": {"title": "exotrio state manager", "version": NATIVE_VERSION},
        "security": [{"key": []}],
        "paths": paths,
        "components": {
            "schemas": definitions,
            "securitySchemes": {"key": {"type": "apiKey", "in": "header", "name": KEY_HEADER}},
        },
    }


def _operation(route: ApiRoute, schemas: Mapping[str, Any], definitions: Mapping[Any, Any]) -> dict[str, Any]:
    integers = ("page", "size")
    parameters: list[dict[str, Any]] = [
        {
            "name": name,
            "in": "path",
            "required": True,
            "schema": {"type": "integer" if name in integers else "string"},
        }
        for name in re.findall(r"\{(\w+)\}", route.path)
    ]
    if query := schemas["query"]:
        fields = definitions[query["$ref"].removeprefix(_REFS)]["properties"]
        parameters += [{"name": name, "in": "query", "schema": schema} for name, schema in fields.items()]
    if isinstance(route.reply, str):
        content: dict[str, Any] = {route.reply: {}}
    else:
        content = {"application/json": {"schema": schemas["reply"] or {}}}
    operation: dict[str, Any] = {
        "summary": route.summary,
        "responses": {str(route.status): {"description": "Done", "content": content}},
    }
    if parameters:
        operation["parameters"] = parameters
    if schemas["body"]:
        content = {"application/json": {"schema": schemas["body"]}}
        operation["requestBody"] = {"required": True, "content": content}
    if route.needs is Permission.OPEN:
        operation["security"] = []
    else:
        scope = f"{route.needs}:NAMESPACE" if route.needs in IN_NAMESPACE else route.needs
        what = (
            "any key" if route.needs is Permission.ANY_KEY else f"the root key, or one with the scope {scope}"
        )
        operation["description"] = f"Needs {what}."
    return operation
