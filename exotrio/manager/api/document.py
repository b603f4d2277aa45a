"""Both APIs as a document of OpenAPI 3.1. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import TypeAdapter
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaMode
from starlette.routing import Route

from exotrio._wire.vocabulary import KEY_HEADER, NATIVE_VERSION
from exotrio.manager.api.descriptions import DESCRIPTIONS, Description

_REFS = "#/components/schemas/"


def operations_of(routes: Iterable[Route]) -> list[str]:
    """Return method and path of each route, as ``DESCRIPTIONS`` has them."""
    found = []
    for route in routes:
        path = re.sub(r"\{(\w+):\w+\}", r"{\1}", route.path)
        found += [f"{method} {path}" for method in sorted(route.methods or ()) if method != "HEAD"]
    return found


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
