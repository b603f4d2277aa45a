"""Reading the bodies of requests: their length, and of large ones the number of values in them.

A JSON text can become objects of fifty times its size, and while they are made nothing else runs in the
process. So the values in a large body are counted first, it is parsed in a thread, and all large bodies that
are handled at the same time may have only so many values together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import ParamSpec, TypeVar

from pydantic import BaseModel
from starlette.requests import Request

from exotrio._httpd import Budget
from exotrio._wire.native import OutcomeItem
from exotrio.manager.api.json import parse_model
from exotrio.manager.engine.masking import has_texts, mask, secrets_to_mask
from exotrio.manager.rules.errors import Refused
from exotrio.manager.service import Service

M = TypeVar("M", bound=BaseModel)
P = ParamSpec("P")
T = TypeVar("T")

LARGE = 256 * 1024
"""Bytes above which the values of a body are counted, and it is parsed in a thread."""
MAX_VALUES = 1_500_000
"""Values in one body, and in all large bodies that are handled at once. A field counts once, with its
name. There is room for an outcome with ``MAX_OUTPUTS`` outputs of six fields."""
RELEASE = "exotrio.release"
"""Key in an ASGI scope: what is called when the request has been handled."""
PIECE = 1024 * 1024
"""Bytes of a text that are taken apart at once."""
_MARKS = b",[{"
"""One of them precedes each value in a list, and each field of an object."""


class Bodies:
    """Reads the bodies of the requests to one app."""

    def __init__(self, service: Service, max_bytes: int) -> None:
        self._service = service
        self._max_bytes = max_bytes
        self._values = Budget(MAX_VALUES)

    async def read(self, request: Request) -> bytes:
        """Return a body; refuse one that is too long or has too many values.

        A large one waits until those that are being handled leave room for its values, and counts among them
        until its request has been handled.
        """
        body = await request.body()
        # The server has the same limit, but requests from inside the process do not pass through it.
        if len(body) > self._max_bytes:
            raise Refused(413, f"the body is longer than {self._max_bytes} bytes")
        if len(body) > LARGE:
            values = await self._service.compute(count_values, body)
            if values > MAX_VALUES:
                raise Refused(413, f"the body has more than {MAX_VALUES:,} values: send less at once")
            await self._values.acquire(values)
            request.scope[RELEASE] = partial(self._values.release, values)
        return body

    async def parse(self, body: bytes, parse: Callable[..., T], *args: object) -> T:
        """Return ``parse(body, *args)``, which runs in a thread if the body is large."""
        if len(body) <= LARGE:
            return parse(body, *args)
        return await self._service.compute(parse, body, *args)


async def read_body(request: Request) -> bytes:
    """Return the body, as ``Bodies.read`` does."""
    bodies: Bodies = request.app.state.bodies
    return await bodies.read(request)


async def read_parsed(request: Request, parse: Callable[..., T], *args: object) -> T:
    """Return what ``parse`` makes of the body and of ``args``; errors as of ``read_body`` and ``parse``."""
    bodies: Bodies = request.app.state.bodies
    return await bodies.parse(await bodies.read(request), parse, *args)


async def read_model(request: Request, model: type[M]) -> M:
    """Parse the body as ``model``; errors as of ``read_body`` and ``parse_model``."""
    return await read_parsed(request, parse_model, model)


async def masked(service: Service, items: Sequence[OutcomeItem]) -> list[OutcomeItem]:
    """Return outcomes with the secrets of their graphs masked in errors and log lines."""
    state_ids = [item.state_id for item in items if has_texts(item)]
    if not state_ids:
        return list(items)
    secrets = await service.store.read(secrets_to_mask, state_ids, service.cipher)
    return await service.compute(mask, items, secrets) if secrets else list(items)


def count_values(body: bytes) -> int:
    """Return how many values a JSON text has at most; above ``MAX_VALUES`` only if it has too many.

    Whatever the text is, this takes time in proportion to its length, and little memory.
    """
    found = _count_marks(body)
    if found <= MAX_VALUES:
        return found
    # Without those within strings; by pieces, so that what is made of them stays small.
    unescaped = body.replace(b"\\\\", b"").replace(b'\\"', b"")
    found = within = 0
    for at in range(0, len(unescaped), PIECE):
        parts = unescaped[at : at + PIECE].split(b'"')
        found += _count_marks(b"".join(parts[within::2]))
        if found > MAX_VALUES:
            break
        within ^= (len(parts) - 1) % 2
    return found


def _count_marks(text: bytes) -> int:
    return len(text) - len(text.translate(None, _MARKS))
