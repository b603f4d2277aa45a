"""JSON as it should not be: values at and beyond every limit, and texts that no serializer would write.

A value is plain data, with two additions: ``Raw`` is a piece of JSON text, and ``Pairs`` an object
that may have a name twice.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any

from hypothesis import strategies as st

SCRIPT = "<script>alert('fuzz')</script>"
"""No page may have this as it is."""


class Raw(str):
    """Stands in a JSON text as it is."""


class Pairs(list[tuple[str, Any]]):
    """An object, as pairs."""


ODD_TEXTS = [
    # blanks and control characters
    *("", " ", "\0", "a\0b", "\r\n", "line\nline", "\x7f\x1b[31m"),
    # paths
    *(".", "..", "../../etc/passwd", "a/b", "%", "%00"),
    # numbers and other values, as texts
    *("null", "true", "NaN", "-1", "0", "1.0", "5", "0x10", "1e400", str(2**63), str(2**64), "9" * 5_000),
    # beyond ASCII, and beyond Unicode
    *("१२", "²", "ü", "İ", "🙂", "\u2028", "\ufeff", "\udfff", "\ud800", "\ud83d\ude42"),
    # what something else would read
    *("${{ first.outputs.v }}", "${{ store.key }}", "${{", "${{}}" * 50, "store", "{{ 7 * 7 }}"),
    *("'; DROP TABLE states; --", SCRIPT, "\"'&<>`"),
    # lengths
    *("x" * 256, "x" * 257, "x" * 70_000),
    # times
    *("* * * * *", "* * 31 2 *", "@hourly"),
    *("2024-01-01T00:00:00Z", "0001-01-01T00:00:00Z", "9999-12-31T23:59:59-23:59"),
    # ids and cursors
    *("7b0d1f9e-0000-4000-8000-00000000000b", "urn:uuid:7b0d1f9e-0000-4000-8000-00000000000b"),
    *("1700000000000.1", f"{2**63}.{2**63}", "f" * 24, "0" * 24),
]
ODD_NUMBERS: list[Any] = [
    *(0, -1, 1, 2, 255, 1_001, 2**31, 2**53 + 1, 2**63 - 1, 2**63, 2**64, -(2**63), -(2**63) - 1),
    *(10**30, 10**400, 1.5, -0.0, 2.0, 1e-320, 1e308, 365 * 86_400_000 * 10),
    *(Raw("1e400"), Raw("-1e400"), Raw("NaN"), Raw("Infinity"), Raw("-Infinity"), Raw("1E2"), Raw("1e18")),
    *(Raw("01"), Raw("+1"), Raw(".5"), Raw("0x10"), Raw("9" * 5_000), Raw("1" + "0" * 20 + ".0")),
]
ODD_STRUCTURES: list[Any] = [
    *(None, True, False, [], {}, [None], [[]], {"": ""}, {"a": {"b": {}}}),
    *(Raw(""), Raw("'x'")),
]


def _deep(levels: int, opening: str, closing: str, inner: str = "1") -> Raw:
    return Raw(opening * levels + inner + closing * levels)


DEEP = [
    *(_deep(levels, "[", "]") for levels in (50, 120, 190, 198, 199, 200, 201, 255, 256, 5_000)),
    *(_deep(levels, '{"a":', "}") for levels in (50, 120, 190, 198, 199, 200, 201, 255, 256, 5_000)),
    Raw("[" * 100_000),
    Raw('{"a":' * 100_000),
]

odd_texts = st.sampled_from(ODD_TEXTS) | st.text(st.characters(), max_size=12)
odd_numbers = st.sampled_from(ODD_NUMBERS) | st.integers() | st.floats().map(lambda number: Raw(repr(number)))
odd_values = odd_texts | odd_numbers | st.sampled_from(ODD_STRUCTURES) | st.sampled_from(DEEP)
any_json = st.recursive(
    st.none() | st.booleans() | odd_numbers | odd_texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(odd_texts, inner, max_size=4),
    max_leaves=8,
)


def dumps(value: Any) -> bytes:
    """Return a value as JSON text; lone surrogates stand in it as escapes."""
    return _text(value).encode("ascii")


def _text(value: Any) -> str:
    if isinstance(value, Raw):
        return str(value)
    if isinstance(value, Pairs):
        return "{" + ", ".join(f"{json.dumps(name)}: {_text(item)}" for name, item in value) + "}"
    if isinstance(value, Mapping):
        return _text(Pairs(value.items()))
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_text, value)) + "]"
    if isinstance(value, int) and not isinstance(value, bool):
        # json.dumps would go through str, which refuses numbers of more than 4,300 digits.
        return str(value) if abs(value) < 10**4_000 else "9" * 4_400
    return json.dumps(value)


# -- changing what is right


def known_or_odd(texts: Sequence[str]) -> st.SearchStrategy[str]:
    """Texts that mean something, mostly, and others."""
    known = st.sampled_from(texts) if texts else odd_texts
    return st.one_of(known, known, known, known, odd_texts)


@st.composite
def mutated(draw: st.DrawFn, value: Any, known: Mapping[str, Sequence[str]]) -> Any:
    """Change a JSON value in one to three places.

    Args:
        known: Texts that mean something, by the name of their field.
    """
    value = deepcopy(value)
    for _ in range(draw(st.sampled_from([1, 1, 1, 2, 3]))):
        places = list(_places(value))
        holder, key, name = draw(st.sampled_from(places)) if places else (None, None, "")
        changed = draw(_change(holder[key] if holder is not None else value, known.get(name, ())))
        if holder is None:
            return changed
        # A copy: what is odd is shared by all examples, and may be changed itself in the next round.
        _put(draw, holder, key, deepcopy(changed))
    return value


def _places(value: Any, name: str = "") -> list[tuple[Any, Any, str]]:
    """Return where something stands: what holds it, under which key, and the name of the field."""
    places: list[tuple[Any, Any, str]] = []
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        field = key if isinstance(key, str) else name
        places.append((value, key, field))
        if not isinstance(item, Pairs):
            places += _places(item, field)
    return places


def _change(old: Any, texts: Sequence[str]) -> st.SearchStrategy[Any]:
    changes: list[st.SearchStrategy[Any]] = [odd_values, odd_values, any_json]
    if isinstance(old, str):
        changes += [known_or_odd(texts)] * 6
    if isinstance(old, bool | int | float):
        changes += [odd_numbers] * 3
    if isinstance(old, dict) and old:
        changes.append(st.just(Pairs([*old.items(), *old.items()])))
        changes.append(odd_values.map(lambda odd: Pairs([*old.items(), (next(iter(old)), odd)])))
        changes.append(st.tuples(odd_texts, odd_values).map(lambda extra: {**old, extra[0]: extra[1]}))
        changes.append(st.just({f"k{number}": next(iter(old.values())) for number in range(300)}))
    if isinstance(old, list) and old:
        changes.append(st.sampled_from([2, 3, 1_000, 1_001]).map(lambda times: old[:1] * times))
        changes.append(odd_values.map(lambda odd: [*old, odd]))
    return st.one_of(changes)


def _put(draw: st.DrawFn, holder: Any, key: Any, changed: Any) -> None:
    how = draw(st.sampled_from(["replace"] * 6 + ["remove", "rename"]))
    if how == "replace" or isinstance(holder, list):
        holder[key] = changed
    else:
        old = holder.pop(key)
        if how == "rename":
            holder[draw(odd_texts)] = old


# -- from a model


def from_schema(
    schema: Mapping[str, Any],
    known: Mapping[str, Sequence[str]],
    root: Mapping[str, Any] | None = None,
    name: str = "",
) -> st.SearchStrategy[Any]:
    """Values of the form that a JSON schema describes, with something odd here and there.

    Args:
        name: Of the field.
    """
    root = root or schema

    def inner(part: Mapping[str, Any], field: str = name) -> st.SearchStrategy[Any]:
        return from_schema(part, known, root, field)

    if "$ref" in schema:
        return st.deferred(lambda: inner(root["$defs"][schema["$ref"].rpartition("/")[2]]))
    if options := schema.get("anyOf") or schema.get("oneOf"):
        return st.one_of([inner(option) for option in options])
    if "const" in schema or "enum" in schema:
        return st.sampled_from(schema.get("enum") or [schema["const"]]) | odd_values
    kind = schema.get("type")
    if kind == "object" and "properties" in schema:
        required = set(schema.get("required", ()))
        fields = {field: inner(part, field) for field, part in schema["properties"].items()}
        return st.fixed_dictionaries(
            {field: part for field, part in fields.items() if field in required},
            optional={field: part for field, part in fields.items() if field not in required},
        )
    if kind == "object":
        extra = schema.get("additionalProperties")
        values = inner(extra) if isinstance(extra, dict) else any_json
        return st.dictionaries(known_or_odd([*known.get("node_name", ()), "key"]), values, max_size=3)
    if kind == "array":
        return st.lists(inner(schema.get("items", {})), max_size=3)
    if kind == "string":
        return known_or_odd(known.get(name, ()))
    if kind in ("integer", "number"):
        low, high = schema.get("minimum", 0), schema.get("maximum", 2**31)
        edges = [int(low), int(high), int(low) - 1, int(high) + 1]
        return st.one_of(st.integers(0, 20), st.sampled_from(edges), odd_numbers)
    return {"boolean": st.booleans(), "null": st.none()}.get(str(kind), any_json)
