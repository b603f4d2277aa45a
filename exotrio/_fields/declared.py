"""Describes and checks the values that an input accepts, as far as its registration says which these are.

An input is registered as a plain string, as the stock state manager requires. A typed field also has the
JSON schema of its values in ``contentSchema``, a keyword of JSON Schema that others ignore. From it a type is
built again, simpler than the original (a model is a JSON object, whatever its fields are), and a text is
read by the codec of that type, as the node does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, datetime, time, timedelta
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import Field, TypeAdapter
from pydantic.fields import FieldInfo

from exotrio._fields.codecs import codec_of, reason_of, text_of

VALUES = "contentSchema"

_TYPES: dict[object, tuple[Any, str]] = {
    "string": (str, ""),
    "integer": (int, "a whole number"),
    "number": (float, "a number"),
    "boolean": (bool, "true or false"),
    "array": (list, "a JSON array"),
    "object": (dict, "a JSON object"),
}
_FORMATS: dict[object, tuple[Any, str]] = {
    "date": (date, "a date such as 2026-01-31"),
    "date-time": (datetime, "a date and time such as 2026-01-31T14:30:00Z"),
    "time": (time, "a time such as 14:30:00"),
    "duration": (timedelta, "a duration such as PT1H30M"),
    "uuid": (UUID, "a UUID"),
}
_LIMITS = {
    "minimum": ("ge", "at least {}"),
    "exclusiveMinimum": ("gt", "above {}"),
    "maximum": ("le", "at most {}"),
    "exclusiveMaximum": ("lt", "below {}"),
    "multipleOf": ("multiple_of", "a multiple of {}"),
    "minLength": ("min_length", "length at least {}"),
    "maxLength": ("max_length", "length at most {}"),
    "minItems": ("min_length", "length at least {}"),
    "maxItems": ("max_length", "length at most {}"),
    "pattern": ("pattern", "like {}"),
}
"""A limit in JSON Schema: its name in Pydantic, and its description."""


def values_schema(info: FieldInfo) -> dict[str, Any]:
    """Return the JSON schema of the values of a field."""
    return TypeAdapter(kind_of(info)).json_schema()


def kind_of(info: FieldInfo) -> Any:
    """Return the type of a field with its constraints."""
    return Annotated[(info.annotation, *info.metadata)] if info.metadata else info.annotation


@dataclass(frozen=True, slots=True, kw_only=True)
class Declared:
    """The values of one input.

    Attributes:
        type: ``string``, ``integer``, ``number``, ``boolean``, ``array``, ``object``, or the format of a
            string, such as ``date``.
        description: The values, to follow "must be": "a whole number, at least 1". Empty if any text is
            accepted.
        choices: The texts of all values, if these are few.
        is_optional: Whether ``null`` is one of them.
        limits: Limits of the values, by their names in JSON Schema.
    """

    type: str = "string"
    description: str = ""
    choices: tuple[str, ...] = ()
    is_optional: bool = False
    limits: Mapping[str, Any] = field(default_factory=dict)
    annotation: Any = str

    def problem(self, text: str) -> str | None:
        """Return what is wrong with a text, as in "must be a whole number", or None. It is not quoted."""
        try:
            value = codec_of(self.annotation).from_text(text)
            if self.limits and value is not None:
                TypeAdapter(self.annotation).validate_python(value)
        except (ValueError, TypeError, RecursionError) as error:
            reason = f": {reason_of(error)}" if self.type in ("array", "object") else ""
            return f"must be {self.description}{reason}"
        return None


ANY_TEXT = Declared()


def declared(schema: object) -> Declared:
    """Return which values an input with this JSON schema accepts: any text if it is not understood."""
    try:
        values = _declared(schema.get(VALUES, schema), {}) if isinstance(schema, Mapping) else ANY_TEXT
        TypeAdapter(values.annotation)
    except Exception:  # registration does not check schemas, so it may be anything
        return ANY_TEXT
    return values


def _declared(schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> Declared:
    definitions = schema.get("$defs", definitions)
    schema, is_optional = _resolved(schema, definitions)
    choices = schema.get("enum", [schema["const"]] if "const" in schema else [])
    limits = {name: schema[name] for name in _LIMITS if name in schema}
    if "uniqueItems" in schema:
        limits.pop("maxItems", None)  # of a set: its text may have an item twice
    annotation: Any
    if choices:
        type, annotation = "string", Literal[tuple(choices)]
        description = f"one of {', '.join(map(text_of, choices))}"
    elif schema.get("format") in _FORMATS:
        type = schema["format"]
        annotation, description = _FORMATS[type]
    else:
        type = schema["type"]
        annotation, description = _TYPES[type]
        items = schema.get("items")
        if annotation is list and items and "uniqueItems" not in schema:
            annotation = list.__class_getitem__(_declared(items, definitions).annotation)
        if limits:
            annotation = Annotated[annotation, Field(**{_LIMITS[name][0]: limits[name] for name in limits})]
            phrases = (_LIMITS[name][1].format(limit) for name, limit in limits.items())
            description = ", ".join([description or "a text", *phrases])
    return Declared(
        type=type,
        description=f"{description}, or null" if is_optional and description else description,
        choices=tuple(map(text_of, [True, False] if type == "boolean" else choices)),
        is_optional=is_optional,
        limits=limits,
        annotation=annotation | None if is_optional else annotation,
    )


def _resolved(schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> tuple[Mapping[str, Any], bool]:
    """Return the schema that references lead to, and whether ``null`` is a value, too."""
    is_optional = False
    for _ in range(10):  # definitions may refer to each other in a circle
        if "$ref" in schema:
            schema = definitions[schema["$ref"].rpartition("/")[2]]
        elif "anyOf" in schema:
            others = [each for each in schema["anyOf"] if each != {"type": "null"}]
            is_optional |= len(others) < len(schema["anyOf"])
            # A Decimal is a number or its text.
            if {each.get("type") for each in others} == {"number", "string"}:
                others = [each for each in others if each["type"] == "number"]
            (schema,) = others
    return schema, is_optional
