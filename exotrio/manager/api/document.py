"""Both APIs as a document of OpenAPI 3.1, and that document as a page. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from html import escape
from typing import Any

from pydantic import TypeAdapter
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaMode
from starlette.routing import Route

from exotrio._wire.vocabulary import KEY_HEADER, NATIVE_VERSION
from exotrio.manager.api.descriptions import DESCRIPTIONS, Description

_REFS = "#/components/schemas/"
STYLE = (
    "body{font:1rem/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;"
    "overflow-wrap:anywhere;background:Canvas;color:CanvasText}"
    "details{border-top:1px solid #8886;padding:.3rem 0}summary{cursor:pointer}"
    "td,th{text-align:left;vertical-align:top;padding:.1rem 1rem .1rem 0}code{font-size:.9em}"
)


def operations_of(routes: Iterable[Route]) -> list[str]:
    """Return method and path of each route, as ``DESCRIPTIONS`` has them."""
    found = []
    for route in routes:
        path = re.sub(r"\{(\w+):\w+\}", r"{\1}", route.path)
        if not path.endswith("/"):  # the other form of a path is left out
            found += [f"{method} {path}" for method in sorted(route.methods or ()) if method != "HEAD"]
    return found


# -- the document


class _Schemas(GenerateJsonSchema):
    def ser_schema(self, schema: Any) -> Any:
        # Those around a whole model leave out what is not set; its fields stay as they are.
        return None if schema["type"] == "function-wrap" else super().ser_schema(schema)


def document_of(routes: Iterable[Route]) -> dict[str, Any]:
    """Return the description of ``routes`` in OpenAPI 3.1."""
    operations = [(name, DESCRIPTIONS[name]) for name in sorted(operations_of(routes), key=_order)]
    wanted: dict[tuple[str, JsonSchemaMode], Any] = {}
    for name, described in operations:
        for part, mode in (("body", "validation"), ("query", "validation"), ("answer", "serialization")):
            of_part = getattr(described, part)
            if of_part is not None and not isinstance(of_part, str):
                wanted[f"{name} {part}", mode] = TypeAdapter(of_part).core_schema  # type: ignore[index]
    schemas, definitions = _Schemas(ref_template=_REFS + "{model}").generate_definitions(
        [(key, mode, core) for (key, mode), core in wanted.items()]
    )
    by_part = {key: schema for (key, _), schema in schemas.items()}
    paths: dict[str, dict[str, Any]] = {}
    for name, described in operations:
        method, path = name.split(" ")
        paths.setdefault(path, {})[method.lower()] = _operation(name, path, described, by_part, definitions)
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


def _order(name: str) -> tuple[bool, str, str]:
    method, path = name.split(" ")
    return path.startswith("/exotrio"), path, method


def _operation(
    name: str, path: str, described: Description, by_part: Mapping[str, Any], definitions: Mapping[Any, Any]
) -> dict[str, Any]:
    whole_numbers = ("page", "size")
    parameters: list[dict[str, Any]] = [
        {
            "name": each,
            "in": "path",
            "required": True,
            "schema": {"type": "integer" if each in whole_numbers else "string"},
        }
        for each in re.findall(r"\{(\w+)\}", path)
    ]
    if query := by_part.get(f"{name} query"):
        fields = definitions[query["$ref"].removeprefix(_REFS)]["properties"]
        parameters += [{"name": each, "in": "query", "schema": schema} for each, schema in fields.items()]
    answer: dict[str, Any] = {"description": "Done"}
    if isinstance(described.answer, str):
        answer["content"] = {described.answer: {}}
    else:
        answer["content"] = {"application/json": {"schema": by_part.get(f"{name} answer", {})}}
    operation: dict[str, Any] = {"summary": described.what, "responses": {str(described.status): answer}}
    if parameters:
        operation["parameters"] = parameters
    if body := by_part.get(f"{name} body"):
        operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": body}}}
    if described.is_open:
        operation["security"] = []
    return operation


# -- the page


def page_of(document: Mapping[str, Any]) -> Iterator[str]:
    """Yield the lines of a description as an HTML page."""
    yield '<!doctype html><html lang="en"><meta charset="utf-8">'
    yield '<meta name="viewport" content="width=device-width, initial-scale=1">'
    yield '<meta name="color-scheme" content="light dark">'
    yield f"<title>{document['info']['title']}</title><style>{STYLE}</style><main>"
    yield f"<h1>{document['info']['title']}</h1>"
    yield f"<p>Each request needs the key in the header <code>{KEY_HEADER}</code>, unless it says otherwise."
    yield ' A program reads <a href="/openapi.json">/openapi.json</a>.</p>'
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield f"<details><summary><code>{method.upper()} {escape(path)}</code>"
            yield f" {operation['summary']}</summary>"
            if operation.get("security") == []:
                yield "<p>It needs no key.</p>"
            queries = [each for each in operation.get("parameters", ()) if each["in"] == "query"]
            if queries:
                yield f"<p>Query:</p>{_table((each['name'], each['schema'], False) for each in queries)}"
            if body := operation.get("requestBody"):
                yield f"<p>Body: {_type(body['content']['application/json']['schema'])}</p>"
            for status, answer in operation["responses"].items():
                for media, content in answer["content"].items():
                    what = _type(content.get("schema", {})) if media == "application/json" else escape(media)
                    yield f"<p>Answer: {status}, {what}</p>"
            yield "</details>"
    yield "<h2>Bodies</h2>"
    for name, schema in document["components"]["schemas"].items():
        yield f'<details id="{name}"><summary><code>{name}</code></summary>'
        yield f"<p>{escape(schema.get('description', ''))}</p>"
        required = schema.get("required", ())
        fields = schema.get("properties")
        if fields:
            yield _table((each, of, each in required) for each, of in fields.items())
        else:
            yield f"<p>{_type(schema)}</p>"
        yield "</details>"


def _table(fields: Iterable[tuple[str, Mapping[str, Any], bool]]) -> str:
    rows = (
        f"<tr><td><code>{escape(name)}</code><td>{_type(schema)}<td>{'required' if needed else ''}"
        for name, schema, needed in fields
    )
    return f"<table>{''.join(rows)}</table>"


def _type(schema: Mapping[str, Any]) -> str:
    """Return the type of a value as HTML: ``list of StateNode``."""
    if "$ref" in schema:
        name = schema["$ref"].removeprefix(_REFS)
        return f'<a href="#{name}">{name}</a>'
    for kind in ("anyOf", "oneOf"):
        if kind in schema:
            return " or ".join(map(_type, schema[kind]))
    if "enum" in schema or "const" in schema:
        return escape(", ".join(map(str, schema.get("enum", [schema.get("const")]))))
    if schema.get("type") == "array":
        return f"list of {_type(schema.get('items', {}))}"
    if isinstance(of := schema.get("additionalProperties"), dict) and of:
        return f"object of {_type(of)}"
    return escape(str(schema.get("type", "any JSON")))
