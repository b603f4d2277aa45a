"""Requests for a target: its path, query, headers and body, each right, nearly right, or anything."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any
from urllib.parse import quote, quote_plus

from hypothesis import strategies as st

from tests.fuzz.knowledge import Fields, World
from tests.fuzz.routes import HOST, KEY, ORIGIN, TARGETS, Target
from tests.fuzz.values import any_json, dumps, from_schema, known_or_odd, mutated, odd_texts, odd_values
from tests.fuzz.wire import Request, fill

METHODS = ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "get", "NONSENSE"]
ODD_PARTS = [
    *(b"%", b"%00", b"%0a", b"%2F", b"%2e%2e", b"%ff", b"%ED%A0%80", b"%C3%BC"),
    *(b"..", b"", b"~;,", b"a" * 3_000),
]
ODD_HEADERS = [
    *(b"", b"x", b"0", b"-1", b"*/*", b"close", b"chunked"),
    *(b"\xff\xfe", b"\tx y\t", b"\"'<>", b"a" * 3_000),
]
FORM = b"application/x-www-form-urlencoded"
JSON = b"application/json"
UUID = b"12345678-1234-5678-1234-567812345678"

SIGNED_IN = b"exotrio_8000=signed-in"
"""Stands for the cookie of a browser that is signed in, which is another one in each example."""

Headers = list[tuple[bytes, bytes]]


def mostly(right: Any, *others: Any) -> st.SearchStrategy[Any]:
    """The right thing, fourteen times of fifteen, if there are others."""
    if not others:
        return st.just(right)
    return st.integers(0, 14).flatmap(
        lambda number: st.sampled_from(others) if number == 0 else st.just(right)
    )


@st.composite
def requests(draw: st.DrawFn, made: World, target: Target, *, allowed: bool = False) -> Request:
    """Draw a request for one target.

    Args:
        allowed: It has the right method, path and headers: only what it says may be odd.
    """
    method = target.method if allowed else draw(mostly(target.method, *METHODS))
    if method == "GET" and draw(st.integers(0, 9)) == 0:
        method = "HEAD"
    path = fill(target.path, draw(_known_values(made, target))) if allowed else draw(_paths(made, target))
    if query := draw(_queries(made, target)):
        path += b"?" + query
    body, media_type = draw(_bodies(made, target)) if method not in ("GET", "HEAD") else (b"", None)
    headers = list(_right_headers(target)) if allowed else draw(_headers(made, target))
    if media_type is not None:
        other_types = () if allowed else (JSON, FORM, b"multipart/form-data; boundary=x", b"")
        headers.append((b"content-type", draw(mostly(media_type, *other_types))))
    return Request(method, path, headers, body, chunked=bool(body) and draw(mostly(False, True)))


def right_requests(made: World, target: Target) -> Iterator[Request]:
    """Give requests of which a target should take at least one."""
    if target.is_page:
        bodies = [(_form(_with_key(target, fields)), FORM) for fields in made.forms[target] or [[]]]
    else:
        bodies = [(dumps(body), JSON) for body in [*_distinct(made.bodies[target]), {}]]
    any_values = {name: made.known[name][0] for name in target.parameters}
    last = [{**any_values, name: value} for name in target.parameters[-1:] for value in made.known[name]]
    for values in [*made.paths[target], any_values, *last]:
        for body, media_type in bodies:
            headers = [*_right_headers(target), (b"content-type", media_type)]
            yield Request(target.method, fill(target.path, values), headers, body)


def _with_key(target: Target, fields: Fields) -> Fields:
    return [(name, KEY if (target.path, name) == ("/sign-in", "key") else value) for name, value in fields]


def any_requests(made: World) -> st.SearchStrategy[Request]:
    """Draw a request for any target, or for none."""
    allowed = st.sampled_from(TARGETS).flatmap(lambda target: requests(made, target, allowed=True))
    any_known = st.sampled_from(TARGETS).flatmap(lambda target: requests(made, target))
    parts = st.lists(_odd_parts(), max_size=6).map(lambda parts: b"/" + b"/".join(parts))
    headers = st.lists(
        st.tuples(st.sampled_from([b"x-a", b"cookie", b"range", b"expect"]), _header_values), max_size=3
    )
    right: Headers = [(b"host", HOST.encode()), (b"x-api-key", KEY.encode())]
    anything = st.builds(
        lambda method, target, extra, body: Request(method, target, [*right, *extra], body),
        st.sampled_from(METHODS),
        parts,
        headers,
        st.binary(max_size=50),
    )
    return st.one_of(allowed, allowed, any_known, any_known, anything)


def _odd_parts() -> st.SearchStrategy[bytes]:
    return st.sampled_from(ODD_PARTS) | odd_texts.map(
        lambda text: quote(text.encode("utf-8", "surrogatepass"), safe="").encode()[:3_000]
    )


def _known_values(made: World, target: Target) -> st.SearchStrategy[dict[str, str]]:
    """Draw values for a path's parameters that are known: some that fit together, or each by itself."""
    each = st.fixed_dictionaries({name: st.sampled_from(made.known[name]) for name in target.parameters})
    return each | st.sampled_from(made.paths[target]) if made.paths[target] else each


@st.composite
def _paths(draw: st.DrawFn, made: World, target: Target) -> bytes:
    values = draw(_known_values(made, target))
    if values and draw(st.integers(0, 3)) == 0:
        values = {**values, draw(st.sampled_from(sorted(values))): draw(odd_texts)}
    path = fill(target.path, {name: value[:3_000] for name, value in values.items()})
    if draw(st.integers(0, 7)) == 0:
        path += b"/"
    if draw(st.integers(0, 15)) == 0:
        parts = path.split(b"/")
        parts[draw(st.integers(0, len(parts) - 1))] = draw(_odd_parts())
        path = b"/".join(parts)
    # Without its slash it would be another form of target, which test_bytes draws.
    return path if path.startswith(b"/") else b"/" + path


@st.composite
def _queries(draw: st.DrawFn, made: World, target: Target) -> bytes:
    page = Target(target.path.removeprefix("/live"), target.method, target.is_page)
    seen = made.queries[target] or made.queries[page]
    names = sorted({name for fields in seen for name, _ in fields} | _fields_of(made, target))
    if not names or draw(st.integers(0, 3)) == 0:
        return draw(st.sampled_from([b"", b"", b"", b"&&==", b"a=%ff&%00=%", b"x=1;y=2"]))
    fields: Fields = []
    for name in draw(st.lists(st.sampled_from(names), max_size=4)):
        fields.append(
            (name, draw(known_or_odd([*made.known[name], *made.known[ALIASES.get(name, name)]]))[:5_000])
        )
    return _form(fields)


ALIASES = {"run": "run_id", "before": "next", "node": "node_name", "worker": "worker_id"}


def _fields_of(made: World, target: Target) -> set[str]:
    models = made.models[target] if target.method == "GET" else []
    return {name for model in models for name in model.model_fields}


def _encoded(text: str) -> bytes:
    return quote_plus(text.encode("utf-8", "surrogatepass")).encode()


# -- headers

_header_values = st.sampled_from(ODD_HEADERS) | st.binary(max_size=8).map(
    lambda value: bytes(byte for byte in value if byte > 32 and byte != 127)
)


def _right_headers(target: Target) -> Headers:
    host = (b"host", HOST.encode())
    if target.is_page:
        return [host, (b"cookie", SIGNED_IN), (b"origin", ORIGIN.encode())]
    return [host, (b"x-api-key", KEY.encode())]


@st.composite
def _headers(draw: st.DrawFn, made: World, target: Target) -> Headers:
    headers: Headers = [(b"host", draw(mostly(HOST.encode(), b"", b"evil.example", b"LOCALHOST:1", b"\xff")))]
    if target.is_page:
        if signed_in := draw(
            mostly(SIGNED_IN, b"", b"exotrio_8000=x", b'exotrio_8000=\xff; a="', SIGNED_IN + b"x")
        ):
            headers.append((b"cookie", signed_in))
        if origin := draw(
            mostly(ORIGIN.encode(), b"", b"null", b"http://evil.example", b"http://[", b"\xff")
        ):
            headers.append((b"origin", origin))
        if fragments := draw(st.sampled_from([b"", b"", b"", b"list", b"nothing", b"list " * 500, b"\xff"])):
            headers.append((b"x-fragments", fragments))
    elif key := draw(mostly(KEY.encode(), b"", b"wrong", KEY.encode() + b"x", b"\xff")):
        headers.append((b"x-api-key", key))
    if draw(st.integers(0, 3)) == 0:
        headers.append(
            (b"x-exosphere-request-id", draw(st.sampled_from([UUID, b"{%s}" % UUID]) | _header_values))
        )
    if draw(st.integers(0, 3)) == 0:
        token = draw(known_or_odd(made.known["token"])).encode("utf-8", "surrogatepass")
        headers.append(
            (b"x-exotrio-lease", bytes(byte for byte in token if byte > 32 and byte != 127)[:3_000])
        )
    for name in draw(
        st.lists(st.sampled_from([b"accept", b"cookie", b"range", b"origin", b"x-a"]), max_size=1)
    ):
        headers.append((name, draw(_header_values)))
    return headers


# -- bodies


@st.composite
def _bodies(draw: st.DrawFn, made: World, target: Target) -> tuple[bytes, bytes | None]:
    """Draw a body and its media type."""
    if draw(st.integers(0, 11)) == 0:
        return draw(
            st.binary(max_size=60) | st.sampled_from([b"{", b"[" * 3_000, b"\xff\xfe", b"{}x", b" " * 3_000])
        ), JSON
    if target.is_page:
        return draw(_forms(made, target)), FORM
    return dumps(draw(_json_bodies(made, target))), JSON


@cache
def _json_bodies(made: World, target: Target) -> st.SearchStrategy[Any]:
    seen, models = _distinct(made.bodies[target]), made.models[target]
    shapes: list[st.SearchStrategy[Any]] = [any_json]
    if seen:
        shapes += [st.sampled_from(seen).flatmap(lambda body: mutated(body, made.known))] * 6
        shapes += [st.sampled_from(seen)] * 2
    for model in models:
        shapes += [from_schema(model.model_json_schema(by_alias=True), made.known)] * 3
    if not seen and not models:
        shapes.append(st.just({}))
    return st.one_of(shapes)


def _distinct(bodies: Sequence[Any]) -> list[Any]:
    """Return the bodies without those of one shape."""
    return list({str(_shape(body)): body for body in bodies}.values())


def _shape(body: Any) -> Any:
    if isinstance(body, dict):
        return {name: _shape(value) for name, value in body.items()}
    return [_shape(value) for value in body] if isinstance(body, list) else type(body)


@st.composite
def _forms(draw: st.DrawFn, made: World, target: Target) -> bytes:
    fields = _with_key(target, draw(st.sampled_from(made.forms[target] or [[]])))
    for index, (name, value) in enumerate(fields):
        if draw(st.booleans()):
            fields[index] = (name, draw(st.just(value) | known_or_odd([*made.known[name], value])))
    how = draw(st.sampled_from(["as it is"] * 4 + ["drop", "repeat", "add", "many"]))
    if how == "drop" and fields:
        del fields[draw(st.integers(0, len(fields) - 1))]
    elif how == "repeat" and fields:
        fields.append((draw(st.sampled_from(fields))[0], draw(odd_texts)))
    elif how == "add":
        fields.append((draw(odd_texts), draw(odd_values.map(str))))
    elif how == "many":
        fields += [("run", str(number)) for number in range(2_001)]
    return _form(fields)


def _form(fields: Fields) -> bytes:
    return b"&".join(_encoded(name) + b"=" + _encoded(value) for name, value in fields)
