"""Describes and checks the values that an input accepts, as far as its registration says which these are.

An input is registered as a plain string, as the stock state manager requires. A field with a type or limits
also has the JSON schema of its values in ``contentSchema``, a keyword of JSON Schema that others ignore. From
it a type is built again, and a text is read by the codec of that type, as the node does. Without it, as from
the stock SDK, limits are only shown: the node may change a text before it compares it with them.

What the node accepts is never refused: a part that is not understood accepts anything, and a field whose
schema says less than its validators (``lenient_fields``) is registered without its limits.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from functools import cached_property
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, create_model
from pydantic.fields import FieldInfo

from exotrio._fields.codecs import Codec, codec_of, reason_of, text_of
from exotrio._util.redaction import NO_SECRETS, Redactor
from exotrio._util.words import shortened

MAX_QUOTED = 60
"""Characters of a value that a message quotes."""
MAX_SEARCHED = 2_000
"""Characters of a value in which secrets are masked before a part of them is quoted."""

MAX_PARTS = 500
"""Parts of one schema that are read; further ones accept anything."""
MAX_CHECKED = 1_000_000
"""Characters of a JSON array or object that is checked: the state manager does nothing else meanwhile."""

VALUES = "contentSchema"

_DECIMAL = "decimal"
"""Stands for the type of a Decimal, which JSON schema calls a number or its text."""
_TYPES: dict[object, tuple[Any, str]] = {
    "string": (str, ""),
    "integer": (int, "a whole number"),
    "number": (float, "a number"),
    "boolean": (bool, "true or false"),
    "array": (list, "a JSON array"),
    "object": (dict, "a JSON object"),
    _DECIMAL: (Decimal, "a number"),
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


@dataclass(frozen=True, kw_only=True)
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
        codec, adapter = self._readers
        is_json = self.type in ("array", "object")
        if is_json:
            with suppress(ValueError):
                if len(text) <= MAX_CHECKED:
                    adapter.validate_json(text)  # far faster than the codec of a list
                return None
        try:
            value = codec.from_text(text)
            if self.limits and value is not None:
                adapter.validate_python(value)
        except (ValueError, TypeError, RecursionError) as error:
            return f"must be {self.description}{f': {reason_of(error)}' if is_json else ''}"
        return None

    @cached_property
    def _readers(self) -> tuple[Codec, TypeAdapter[Any]]:
        return codec_of(self.annotation), TypeAdapter(self.annotation)


ANY_TEXT = Declared()


def quoted(text: str, redactor: Redactor = NO_SECRETS) -> str:
    """Return the beginning of a text for a message about its sender's mistake, with secrets masked."""
    part = redactor.redact(text[:MAX_SEARCHED], cut_after=len(text) > MAX_SEARCHED)
    length = f" ({len(text):,} characters)" if len(text) > MAX_QUOTED else ""
    return f"{shortened(part, MAX_QUOTED)!r}{length}"


def declared(schema: object) -> Declared:
    """Return which values an input with this JSON schema accepts: any text if it is not understood."""
    try:
        content = schema.get(VALUES, schema) if isinstance(schema, Mapping) else None
        values = ANY_TEXT if content is None else _Reader(content.get("$defs", {})).read(content)
        TypeAdapter(values.annotation)
    except Exception:  # registration does not check schemas, so it may be anything
        return ANY_TEXT
    return values


def typed_inputs(properties: object) -> dict[str, Declared]:
    """Return those inputs of a registered node that can be checked and do not accept every text."""
    inputs = properties.items() if isinstance(properties, Mapping) else ()
    values = {
        name: declared(schema) for name, schema in inputs if isinstance(schema, Mapping) and VALUES in schema
    }
    return {name: each for name, each in values.items() if each != ANY_TEXT}


class _Reader:
    """Reads one schema, whose parts may refer to its definitions."""

    def __init__(self, definitions: Mapping[str, Any]) -> None:
        self._definitions = definitions
        self._left = MAX_PARTS

    def read(
        self, schema: Mapping[str, Any], within: frozenset[str] = frozenset(), *, in_model: bool = False
    ) -> Declared:
        """Return the values of a schema or of a part of it.

        Args:
            within: The definitions that it is a part of.
            in_model: Pydantic reads them within the JSON of a model, and not a codec.
        """
        schema, is_optional, names = resolve(schema, self._definitions)
        choices = schema.get("enum", [schema["const"]] if "const" in schema else [])
        limits = {name: _whole(schema[name]) for name in _LIMITS if name in schema}
        if "uniqueItems" in schema:
            limits.pop("maxItems", None)  # of a set: its text may have an item twice
        annotation: Any
        if choices:
            # There an enum of numbers also accepts their texts.
            accepted = [*choices, *map(text_of, choices)] if in_model else choices
            type, annotation = "string", Literal[tuple(accepted)]
            description = f"one of {', '.join(map(text_of, choices))}"
        elif schema.get("format") in _FORMATS:
            type = schema["format"]
            annotation, description = _FORMATS[type]
        else:
            type = schema["type"]
            annotation, description = _TYPES[type]
            if type == _DECIMAL:
                type = "number"
                limits = {name: Decimal(str(limit)) for name, limit in limits.items()}
            elif within.isdisjoint(names):  # a model that has itself as a part is not followed any further
                annotation = self._with_parts(annotation, schema, within | names, in_model=in_model)
            if limits:
                constraints = Field(**{_LIMITS[name][0]: limits[name] for name in limits})
                annotation = Annotated[annotation, constraints]
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

    def _with_parts(
        self, annotation: Any, schema: Mapping[str, Any], within: frozenset[str], *, in_model: bool
    ) -> Any:
        """Return the type of an array or an object with the types of its parts."""
        items, properties, others = (
            schema.get(key) for key in ("items", "properties", "additionalProperties")
        )
        if annotation is list and items:
            # A set is read by pydantic, too.
            in_json = in_model or "uniqueItems" in schema
            inner = self._part(items, within) if in_json else self.read(items, within).annotation
            return list.__class_getitem__(inner)
        if annotation is dict and properties and len(properties) <= self._left:
            required = schema.get("required", ())
            fields: dict[str, Any] = {
                f"field_{number}": (
                    self._part(part, within),
                    Field(alias=name) if name in required else Field(default=None, alias=name),
                )
                for number, (name, part) in enumerate(properties.items())
            }
            extra: Any = "forbid" if others is False else "ignore"
            return create_model("Object", __config__=ConfigDict(extra=extra), **fields)
        if annotation is dict and isinstance(others, Mapping):
            return dict.__class_getitem__((str, self._part(others, within)))
        return annotation

    def _part(self, schema: Mapping[str, Any], within: frozenset[str]) -> Any:
        """Return the type of a part of a model: anything if it is not understood."""
        self._left -= 1
        with suppress(LookupError, TypeError, ValueError, AttributeError):
            if self._left > 0:
                return self.read(schema, within, in_model=True).annotation
        return Any


def resolve(
    schema: Mapping[str, Any], definitions: Mapping[str, Any]
) -> tuple[Mapping[str, Any], bool, frozenset[str]]:
    """Return the schema that references lead to, whether ``null`` is a value, too, and the references.

    Raises:
        LookupError, TypeError, ValueError, AttributeError: it is not understood.
    """
    is_optional = False
    names: set[str] = set()
    for _ in range(10):  # definitions may refer to each other in a circle
        if "$ref" in schema:
            name = schema["$ref"].rpartition("/")[2]
            names.add(name)
            schema = definitions[name]
        elif "anyOf" in schema:
            others = [each for each in schema["anyOf"] if each != {"type": "null"}]
            is_optional |= len(others) < len(schema["anyOf"])
            if {each.get("type") for each in others} == {"number", "string"}:
                number = next(each for each in others if each["type"] == "number")
                others = [{**number, "type": _DECIMAL}]
            (schema,) = others
    return schema, is_optional, frozenset(names)


def _whole(limit: Any) -> Any:
    return int(limit) if isinstance(limit, float) and limit.is_integer() else limit


# -- what a JSON schema does not say


_CHANGING = {"function-before", "function-wrap", "function-plain"}
_LENIENT = {
    *("strip_whitespace", "to_lower", "to_upper", "str_strip_whitespace", "str_to_lower", "str_to_upper"),
    *("coerce_numbers_to_str", "validate_by_name", "regex_engine"),
}
"""Options of pydantic-core with which more is accepted than the JSON schema says."""


def lenient_fields(model: type[BaseModel]) -> frozenset[str]:
    """Return the fields that may accept values which do not fit their JSON schema: a validator of the user
    changes them before they are checked, or an option does."""
    schema: Any = TypeAdapter(model).core_schema
    definitions: list[Any] = []
    while schema["type"] != "model-fields":
        options = {**schema, **schema.get("config", {})}
        definitions += schema.get("definitions", ())
        if (
            schema["type"] in _CHANGING
            or any(options.get(name) for name in _LENIENT)
            or "schema" not in schema
        ):
            return frozenset(model.model_fields)
        schema = schema["schema"]
    is_lenient = _is_lenient(definitions)
    return frozenset(
        name
        for name, each in schema["fields"].items()
        if _is_lenient(each) or (is_lenient and "definition-ref" in str(each))
    )


def _is_lenient(schema: Any) -> bool:
    if isinstance(schema, Mapping):
        if schema.get("type") in _CHANGING or any(schema.get(name) for name in _LENIENT):
            return True
        if isinstance(schema.get("pattern"), re.Pattern):  # the JSON schema has none of its flags
            return True
        if schema.get("type") == "enum" and _accepts_more(schema["cls"]):
            return True
        return any(_is_lenient(each) for key, each in schema.items() if key not in _NOT_SCHEMAS)
    return isinstance(schema, list) and any(map(_is_lenient, schema))


def _accepts_more(cls: type) -> bool:
    """Whether an Enum has a ``_missing_`` of the user's, which may accept any value."""
    return any("_missing_" in vars(each) for each in cls.__mro__ if each.__module__ != "enum")


_NOT_SCHEMAS = {"serialization", "metadata", "default", "expected", "members"}
