"""What must be true of every answer, whatever the request was, and of the database after it."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import exotrio
from exotrio._wire.events import EVENT_PATH
from exotrio.manager.web.event_page import HEADERS as EVENT_HEADERS
from exotrio.manager.web.guard import HEADERS
from tests.fuzz.knowledge import SECRETS
from tests.fuzz.routes import KEY, TARGETS, Target, serves
from tests.fuzz.values import SCRIPT
from tests.fuzz.wire import Request, Response

PLAIN = frozenset({"/livez", "/readyz", "/metrics"})
NEVER = [
    b"Traceback (most recent call last)",
    b'File "',
    b"site-packages",
    str(Path(exotrio.__file__).parent).encode(),
    KEY.encode(),
]
"""What no body may hold: where the code lies, and the key."""

BY_THE_SERVER = frozenset({400, 408, 413, 431})
"""What is refused before the application is asked."""

tried: Counter[tuple[str, int]] = Counter()
"""How many requests for which target got which status; shown at the end of a run."""


def check(request: Request, response: Response) -> None:
    """Check one answer."""
    path = unquote(request.target.partition(b"?")[0].decode("ascii"))
    target = _target(path)
    is_page = serves(path)
    status, body = response.status, response.body
    tried[f"{request.method} {target.path}" if target else "no route", status] += 1
    assert status < 500, f"{status}: {body[:500]!r}"
    _check_body(response)
    if not (target and target.path.endswith(("/secrets", "/backup"))):
        for secret in SECRETS.values():
            assert secret.encode() not in body, "an answer holds a secret"
    if not response.header(b"x-exosphere-request-id"):
        assert status in BY_THE_SERVER
        assert response.header(b"connection") == b"close"
        if request.method != "HEAD":
            check_error(response)
        return
    assert response.header(b"server") == b""
    if request.method == "HEAD":
        assert not body
    elif is_page and status not in (401, 421):
        is_link = path == EVENT_PATH and status in (200, 404, 409)
        _check_page(response, HEADERS | EVENT_HEADERS if is_link else HEADERS)
    elif is_page:
        assert response.media_type in (b"text/html", b"text/plain", b"application/json")
    elif status >= 400:
        check_error(response)
    else:
        _check_reply(response, target)


def _target(path: str) -> Target | None:
    return next((target for target in TARGETS if target.match(path) is not None), None)


def check_any(response: Response) -> None:
    """Check an answer to an unknown request."""
    tried["a stream", response.status] += 1
    assert response.status < 500 or response.status in (501, 505), (
        f"{response.status}: {response.body[:500]!r}"
    )
    _check_body(response)
    if response.media_type == b"application/json" and response.status >= 400 and response.body:
        check_error(response)


def _check_body(response: Response) -> None:
    assert response.header(b"x-content-type-options") == b"nosniff"
    assert response.header(b"cache-control"), "caches must know whether to keep this"
    assert response.whole or response.media_type == b"text/event-stream"
    for text in NEVER:
        assert text not in response.body, f"an answer holds {text!r}"


def check_error(response: Response) -> None:
    """Check that an answer is an error in one of the documented shapes."""
    assert response.media_type == b"application/json", response
    content = _strict_json(response.body)
    detail = content.pop("detail")
    assert not content
    if isinstance(detail, str):
        assert detail
        return
    assert response.status == 422
    assert detail
    for item in detail:
        assert {"type", "loc", "msg", "input"} <= item.keys() <= {"type", "loc", "msg", "input", "ctx"}
        assert item["loc"][0] in ("body", "path", "query")
        assert isinstance(item["msg"], str)
        assert len(json.dumps(item)) < 20_000, "a refusal repeats what it refused at length"


def _check_reply(response: Response, target: Target | None) -> None:
    assert response.status < 300, "the API does not redirect"
    if target and target.path in PLAIN:
        assert response.media_type == b"text/plain"
    elif target and target.path == "/docs":
        assert response.media_type == b"text/html"
    elif target and target.path.endswith("/backup"):
        assert response.body.startswith(b"SQLite format 3\0")
    elif target and target.path.endswith("/export"):
        _check_export(response)
    else:
        assert response.media_type == b"application/json", response
        _strict_json(response.body)


def _check_page(response: Response, headers: Mapping[str, str]) -> None:
    if response.media_type in (b"text/css", b"text/javascript", b"image/svg+xml"):
        return
    if response.header(b"content-disposition"):
        _check_export(response)
        return
    for name, value in headers.items():
        assert response.header(name.encode()) == value.encode(), f"{name} of a page"
    if response.status == 303:
        location = response.header(b"location").decode("ascii")
        parts = urlsplit(location)
        local = location.startswith("/") and not (parts.scheme or parts.netloc or "\\" in location)
        assert local, f"leads to {location}"
    else:
        assert response.media_type in (b"text/html", b"text/event-stream")
        text = response.body.decode("utf-8")
        assert SCRIPT not in text, "text of a user became markup"


def _check_export(response: Response) -> None:
    """Check a page that is to be kept: shown from here it could do nothing, and it carries its own policy."""
    assert response.status == 200
    assert response.header(b"content-disposition").startswith(b"attachment;")
    assert response.header(b"content-security-policy") == b"default-src 'none'; sandbox"
    assert response.header(b"x-content-type-options") == b"nosniff"
    assert b"default-src &#39;none&#39;" in response.body or b"default-src 'none'" in response.body
    text = response.body.decode("utf-8")
    assert "<script" not in text, "an export has no script"
    assert SCRIPT not in text, "text of a user became markup"


def _strict_json(body: bytes) -> Any:
    def refuse(constant: str) -> Any:
        raise AssertionError(f"{constant} is not JSON")

    return json.loads(body.decode("utf-8"), parse_constant=refuse)


def compare(before: dict[str, Any], after: dict[str, Any], why: str) -> None:
    """Check that a database is as it was."""
    for table in before.keys() | after.keys():
        old, new = before.get(table, []), after.get(table, [])
        assert old == new, f"{why} changed {table}: {set(old) ^ set(new)}"


@contextmanager
def quiet_log() -> Iterator[None]:
    """Check that nothing is logged as an error meanwhile."""
    errors: list[str] = []

    class Noting(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            errors.append(self.format(record))

    handler = Noting(logging.ERROR)
    logger = logging.getLogger("exotrio")
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
    assert not errors, "\n".join(errors)
