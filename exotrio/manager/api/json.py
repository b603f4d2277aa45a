"""JSON over HTTP: parsing request bodies and path values, writing replies and errors.

Every error body is JSON, in the shapes of v0: ``{"detail": text}``; a list of problems with 422;
``{"success": false, "detail": text}`` with 500.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Awaitable, Callable
from functools import cache
from typing import Annotated, Any, TypeVar, get_origin

import trio
from pydantic import BaseModel, Field, TypeAdapter, ValidationError
from pydantic_core import from_json, to_json
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from exotrio._httpd import is_crowded
from exotrio._util.words import shortened
from exotrio._wire.vocabulary import MAX_BATCH, from_ms
from exotrio.errors import DatabaseError, GraphInvalid
from exotrio.graph import check_name
from exotrio.manager.rules.errors import EntriesRefused, Refused
from exotrio.manager.service import status_of
from exotrio.manager.store.cipher import SecretUnreadable
from exotrio.manager.store.errors import UnknownCommit, log_level

M = TypeVar("M", bound=BaseModel)
T = TypeVar("T")

logger = logging.getLogger("exotrio.manager.http")

CLAIM_LIMIT = 10.0
"""Seconds that the write of a claim may take."""
_MAX_ECHO = 200
MAX_PROBLEMS = 100
"""Problems of one request that a refusal names: all of them could be far longer than the request. Of these
pydantic collects at most a few thousand: see ``PartByPart``."""
_NUMBER = TypeAdapter(Annotated[int, Field(ge=1, le=2**63 - 1)])
"""As lax as integers in bodies: ``2.0`` is one. The maximum is that of the database."""


class Unprocessable(Exception):
    """The request does not have the right form: 422 with one item per problem."""

    def __init__(self, items: list[dict[str, Any]]) -> None:
        super().__init__(f"{len(items)} problems")
        self.items = items


def unprocessable(kind: str, location: list[str | int], message: str, value: object = None) -> Unprocessable:
    """Return the refusal of a request with one problem."""
    return Unprocessable([{"type": kind, "loc": location, "msg": message, "input": _echo(value)}])


def reply(content: object, status: int = 200) -> Response:
    """Return a JSON response. NaN and infinity, which JSON lacks, become null."""
    return Response(to_json(content, inf_nan_mode="null"), status, media_type="application/json")


class ClaimReply(Response):
    """A reply that may contain claimed states. If it cannot be written, ``undo`` releases them."""

    def __init__(self, content: object, undo: Callable[[], object] | None) -> None:
        super().__init__(to_json(content, inf_nan_mode="null"), media_type="application/json")
        self._undo = undo

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        except BaseException as error:
            if self._undo is not None:
                # After a cancellation, too: no runtime will run these states.
                logger.info("releasing claimed states: the reply could not be written (%r)", error)
                self._undo()
            raise


async def in_time(claim: Awaitable[T]) -> T:
    """Await the write of a claim; raise HTTPException (504) after ``CLAIM_LIMIT`` seconds.

    The claim may still be written then, or after a cancellation: the store undoes it.
    """
    with trio.move_on_after(CLAIM_LIMIT):
        return await claim
    what = f"the claim was not written within {CLAIM_LIMIT:g} s"
    raise HTTPException(504, f"{what}; check the server's database and its disk")


def max_wait_of(request: Request, wait_ms: int) -> float:
    """Return the seconds for which a client may wait at the server; 0 if connections are scarce."""
    return 0.0 if is_crowded(request.scope) else from_ms(wait_ms)


def parse_model(body: bytes, model: type[M]) -> M:
    """Parse a body as ``model``; raise Unprocessable if it is not JSON, or not of that form."""
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        if not body:
            raise unprocessable("missing", ["body"], "a JSON body is required") from None
        raise Unprocessable(_items(error, "body", body=body)) from None


def parse_json(body: bytes) -> Any:
    """Parse a body; raise Unprocessable if it is not JSON."""
    try:
        # Most values are unique: to keep them takes as long again.
        return from_json(body, cache_strings="keys")
    except ValueError as error:
        raise unprocessable("json_invalid", ["body", json_offset(str(error), body)], str(error)) from None


def parse_entries(body: bytes, name: str, model: type[M]) -> list[M]:
    """Parse a body that is an object with one list; raise Unprocessable if it is not, or the list too long.

    It is not parsed by a model of the whole, which would collect the problems of all entries.
    """
    raw = parse_json(body)
    entries = raw.get(name) if isinstance(raw, dict) else None
    if not isinstance(entries, list) or len(entries) > MAX_BATCH:
        raise unprocessable("list_type", ["body", name], f"a list of at most {MAX_BATCH} is required")
    parsed: list[M] = []
    items: list[dict[str, Any]] = []
    for index, entry in enumerate(entries):
        try:
            parsed.append(model.model_validate(entry))
        except ValidationError as error:
            items += _items(error, "body", name, index)
            if len(items) >= MAX_PROBLEMS:
                break
    if items:
        raise Unprocessable(items[:MAX_PROBLEMS])
    return parsed


def entries_refused(refusal: EntriesRefused, name: str) -> Unprocessable:
    """Return the refusal of entries of a list that have the right form, in the shape of all such refusals."""
    return Unprocessable(
        [
            {"type": "refused", "loc": ["body", name, index], "msg": entry.detail, "input": None}
            for index, entry in refusal.entries.items()
        ]
    )


def read_query(request: Request, model: type[M]) -> M:
    """Parse the query parameters as ``model``; raise Unprocessable if they are not of that form.

    Of a repeated parameter the last value counts, unless its field is a list.
    """
    sent, lists = request.query_params, _list_fields(model)
    fields = {name: sent.getlist(name) if name in lists else value for name, value in sent.items()}
    try:
        return model.model_validate(fields)
    except ValidationError as error:
        raise Unprocessable(_items(error, "query")) from None


@cache
def _list_fields(model: type[BaseModel]) -> frozenset[str]:
    fields = model.model_fields.items()
    return frozenset(name for name, field in fields if get_origin(field.annotation) is list)


def _items(error: ValidationError, *part: str | int, body: bytes = b"") -> list[dict[str, Any]]:
    """Return the problems of a part of the request in the shape of v0, without long or secret input."""
    items = []
    for problem in error.errors(include_url=False, include_context=False)[:MAX_PROBLEMS]:
        # A step is an index, a field, or the key of an object, which can have any length.
        steps = (step if isinstance(step, int) else shortened(step, _MAX_ECHO) for step in problem["loc"])
        location: list[str | int] = [*part, *steps]
        if problem["type"] == "json_invalid":
            location = [*part, json_offset(problem["msg"], body)]
        items.append(
            {
                "type": problem["type"],
                "loc": location,
                "msg": problem["msg"],
                "input": None if "secrets" in location else _echo(problem["input"]),
            }
        )
    return items


def json_offset(message: str, body: bytes) -> int:
    """Return how many characters of ``body`` precede its first error.

    The message is the parser's: "... at line 1 column 2", counted in bytes.
    """
    position = re.search(r" at line (\d+) column (\d+)$", message)
    if position is None:
        return 0
    line, column = int(position[1]), int(position[2])
    begin = sum(len(each) + 1 for each in body.split(b"\n", line - 1)[: line - 1])
    return len(body[: begin + column - 1].decode("utf-8", "replace"))


def _echo(value: object) -> object:
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, str) and len(value) <= _MAX_ECHO:
        return value
    return f"<{type(value).__name__}>"


def path_name(request: Request, parameter: str) -> str:
    """Return a name from the path; raise Unprocessable if it is not a valid one."""
    name: str = request.path_params[parameter]
    try:
        return check_name(name)
    except ValueError as error:
        raise unprocessable("value_error", ["path", parameter], str(error), name) from None


def path_int(parameter: str, text: str) -> int:
    """Return a whole number from the path; raise Unprocessable if it is not one, or below 1."""
    try:
        return _NUMBER.validate_python(text)
    except ValidationError as error:
        raise Unprocessable(_items(error, "path", parameter)) from None


EXPECTED = (Refused, Unprocessable, GraphInvalid, HTTPException, DatabaseError)
"""Errors that a reply tells the client; any other one is a defect."""


def reply_to_error(request: Request, error: Exception) -> Response:
    match error:
        case Refused():
            return reply({"detail": error.detail}, status_of(error))
        case Unprocessable():
            return reply({"detail": error.items}, 422)
        case GraphInvalid():
            return reply({"detail": "\n".join(error.problems)}, 400)
        case HTTPException():
            response = reply({"detail": error.detail}, error.status_code)
            response.headers.update(error.headers or {})
            return response
        case DatabaseError():
            text = "; ".join(str(error).splitlines())
            logger.log(log_level(error), "%s %s: %s", request.method, request.url.path, text)
            if isinstance(error, UnknownCommit):
                # Not 503, which means that nothing was changed.
                return reply({"detail": error.what}, 504)
            what_to_do = "" if isinstance(error, SecretUnreadable) else f"; {error.fix or 'try again later'}"
            return reply({"detail": f"{error.what}{what_to_do}"}, 503)
    return reply({"success": False, "detail": "an unexpected error occurred; it is in the server's log"}, 500)
