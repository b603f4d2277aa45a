"""What an HTTP response means: a JSON answer, or an error of ``exotrio.errors``. Sends nothing."""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from exotrio._shared.settings import KEY_VARIABLE, URI_VARIABLE
from exotrio._util.json import NotJson, decode
from exotrio._util.words import readable_errors
from exotrio.errors import (
    InvalidResponse,
    KeyRefused,
    ManagerError,
    ManagerUnavailable,
    NotFound,
    RequestRefused,
)

M = TypeVar("M", bound=BaseModel)

MAX_DETAIL = 2_000
"""Characters of an error body that are shown."""
MAX_RETRY_AFTER = 120.0
"""Seconds, so that a wrong header does not stop a client for a day."""

CHECK_URI = "check that the URI is one of a state manager, and which proxies are in between"

_NOT_ACCEPTED = frozenset({408, 425, 429, 503})
_TOO_LARGE = frozenset({413, 414, 431})


class NotAccepted(ManagerUnavailable):
    """The state manager answered, in JSON, that it did not accept the request (408, 425, 429, 503).

    Unlike after a 502 of a proxy, it is certain that the request had no effect.
    """


class ServerError(ManagerUnavailable):
    """The state manager answered, in JSON, that it failed at the request (500).

    Other requests may succeed, unlike after the 500 of a proxy.
    """


class ResponseTooSlow(ManagerUnavailable):
    """The answer had begun to arrive when its time was up. A smaller one might have arrived in time."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A JSON answer; ``request_line`` (``METHOD uri``) is for messages. ``headers`` are in lower case."""

    status: int
    body: Any
    request_line: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)

    def parse(self, model: type[M]) -> M:
        """Return the body as ``model``; raise InvalidResponse if it has another form."""
        try:
            return model.model_validate(self.body)
        except ValidationError as error:
            raise InvalidResponse(
                f"answered {self.status}, but not with a {model.__name__}: {readable_errors(error)[0]}",
                status=self.status,
                where=f"request: {self.request_line}",
                fix="check that the URI leads to a state manager, and that its version fits",
            ) from None


def parse_response(
    status: int,
    headers: Mapping[str, str],
    content: bytes,
    *,
    at: str,
    request_line: str,
    accept: Collection[int] = (),
) -> Answer:
    """Return the answer in a response, or raise an error as ``HttpClient.ask`` says.

    ``at`` names the server in messages; ``accept`` are statuses besides 2xx that do not raise.
    """
    where = f"request: {request_line}"
    if 300 <= status < 400:
        location = headers.get("location", "nowhere")[:200]
        raise RequestRefused(
            f"{at} answered {status}, a redirect to {location}; redirects are not followed",
            status=status,
            where=where,
            fix=f"use the URI it leads to ({URI_VARIABLE} or state_manager_uri)",
        )
    try:
        body = decode(content)
    except NotJson as error:
        if status in _TOO_LARGE:  # a proxy answered, without JSON, but the request is refused all the same
            raise RequestRefused(
                f"{at} answered {status}: the request is too large", status=status, where=where
            ) from error
        what = f"{at} answered {status} with a body that is not JSON"
        if status >= 500 or status in _NOT_ACCEPTED:  # a proxy answers this while the state manager is down
            wait = retry_after(headers)
            raise ManagerUnavailable(
                what, status=status, retry_after=wait, where=where, fix=CHECK_URI
            ) from None
        raise invalid_response(what, request_line, status=status) from None
    if 200 <= status < 300 or status in accept:
        return Answer(status, body, request_line, headers)
    detail = "\n".join(problems_in(body))[:MAX_DETAIL]
    what, wait = f"{at} answered {status}: {detail}", retry_after(headers)
    if status == 500 and isinstance(body, dict) and isinstance(body.get("detail"), str):
        raise ServerError(what, status=status, where=where, retry_after=wait)
    raise _error(status, what, where, wait)


def invalid_response(what: str, request_line: str, *, status: int | None = None) -> InvalidResponse:
    """Return the error for an answer that no state manager gives."""
    return InvalidResponse(what, status=status, where=f"request: {request_line}", fix=CHECK_URI)


def _error(status: int, what: str, where: str, wait: float | None) -> ManagerError:
    if status in {401, 403}:
        fix = f"pass a key that the server accepts as key=..., or set {KEY_VARIABLE}"
        if status == 403:
            fix = f"pass a key that may do this as key=..., or in {KEY_VARIABLE}"
        return KeyRefused(what, status=status, where=where, fix=fix)
    if status == 404:
        return NotFound(what, status=status, where=where)
    if status in _NOT_ACCEPTED:
        return NotAccepted(what, status=status, where=where, retry_after=wait)
    if status >= 500:
        return ManagerUnavailable(what, status=status, where=where, retry_after=wait)
    return RequestRefused(what, status=status, where=where)


def log_text(error: ManagerError) -> str:
    """Return an error for the log: what happened and at which request, without the advice."""
    return "; ".join(part for part in (error.what.replace("\n", ", "), error.where) if part)


def problems_in(body: Any) -> list[str]:
    """Return the problems in the body of an error, each with its place but without values."""
    detail = body.get("detail", body.get("message")) if isinstance(body, dict) else None
    if isinstance(detail, str):
        return [line.strip() for line in detail.splitlines() if line.strip()] or ["no detail"]
    if isinstance(detail, list):
        return [_problem(item) for item in detail] or ["no detail"]
    return ["no detail"]


def _problem(item: Any) -> str:
    if not isinstance(item, dict):
        return str(item)
    loc = item.get("loc")
    place = ""
    for part in loc if isinstance(loc, list) else ():
        if isinstance(part, int):
            place += f"[{part}]"
        elif part != "body" or place:
            place += f".{part}" if place else str(part)
    message = str(item.get("msg", "invalid")).removeprefix("Value error, ")
    return f"{place}: {message}" if place else message


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds in ``Retry-After``, which may be a number or a date; None without it."""
    text = headers.get("retry-after", "").strip()
    if not text:
        return None
    if text.isascii() and text.isdigit():
        return float(min(int(text[:12]), int(MAX_RETRY_AFTER)))
    try:
        due = parsedate_to_datetime(text).timestamp()
    except (ValueError, TypeError, OverflowError):
        return None
    try:  # by the clock of the server, if the answer has its date: ours may differ
        now = parsedate_to_datetime(headers.get("date", "")).timestamp()
    except (ValueError, TypeError, OverflowError):
        now = time.time()
    seconds = due - now
    return min(max(seconds, 0.0), MAX_RETRY_AFTER) if math.isfinite(seconds) else None
