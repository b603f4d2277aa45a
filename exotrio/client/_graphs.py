"""What the public client does with graphs and nodes: upsert and wait for the validation, list, trigger."""

from __future__ import annotations

from typing import Any, cast
from uuid import uuid4

import anyio
from pydantic import BaseModel

from exotrio._wire.v0 import TriggerReply
from exotrio._wire.vocabulary import ValidationStatus
from exotrio.client._calls import Calls
from exotrio.client._upsert import REFUSED, as_graph, branch_references, is_stale, only_valid
from exotrio.errors import GraphInvalid, ManagerError, ManagerUnavailable, RequestRefused

VALIDATION_PATIENCE = 60.0
"""Seconds for which a trigger waits until a graph is validated."""
FIRST_LOOK, MAX_PAUSE = 0.05, 1.0


async def trigger(
    calls: Calls, graph_name: str, request: dict[str, Any], run_id: str | None
) -> dict[str, Any]:
    """Start a run and return the reply as it came."""

    async def ask(path: str, body: dict[str, Any]) -> dict[str, Any]:
        return await _checked(calls, TriggerReply, "POST", path, body)

    async def native() -> dict[str, Any]:
        # The id is chosen once, so that repeating the request cannot start a second run.
        body = {**request, "run_id": run_id or str(uuid4())}
        return await calls.repeat(lambda: ask(calls.native("graph", graph_name, "trigger"), body))

    async def once() -> dict[str, Any]:
        return await calls.repeat(lambda: ask(calls.v0("graph", graph_name, "trigger"), request), sent=False)

    async def v0() -> dict[str, Any]:
        try:
            return await once()
        except RequestRefused as refusal:
            if refusal.status != 400 or not await _is_valid_by_now(calls, graph_name):
                raise
        # Refused, so nothing was started.
        return await once()

    return await calls.prefer_native(native, v0)


async def _is_valid_by_now(calls: Calls, name: str) -> bool:
    """Wait while a graph is PENDING, and return whether it is valid then.

    A stock server validates in the background, and refuses a trigger meanwhile as if the graph were invalid.
    """
    pause = FIRST_LOOK
    with anyio.move_on_after(VALIDATION_PATIENCE):
        while True:
            try:
                status = (await get_graph(calls, name))["validation_status"]
            except ManagerError:
                return False
            if status != ValidationStatus.PENDING:
                return bool(status == ValidationStatus.VALID)
            await anyio.sleep(pause)
            pause = min(pause * 2, MAX_PAUSE)
    return False


async def get_graph(calls: Calls, name: str) -> dict[str, Any]:
    """Return a graph as the state manager has it."""
    path = calls.v0("graph", name)
    return as_graph(await calls.repeat(lambda: calls.http.ask("GET", path)), name)


async def upsert_graph(
    calls: Calls, name: str, body: dict[str, Any], *, validation_timeout: float, polling_interval: float
) -> dict[str, Any]:
    """Create or replace a graph and return it once it is validated."""
    give_up = anyio.current_time() + validation_timeout

    async def put() -> dict[str, Any]:
        return await _put(calls, name, body, give_up, validation_timeout, polling_interval)

    graph = await put()
    if is_stale(graph, body):  # the second, identical PUT is compared with the first
        graph = await put()
    return only_valid(graph, name)


async def _put(
    calls: Calls, name: str, body: dict[str, Any], give_up: float, timeout: float, polling_interval: float
) -> dict[str, Any]:
    """Put a graph and return it once it is no longer PENDING."""
    path = calls.v0("graph", name)
    answer = await calls.repeat(lambda: calls.http.ask("PUT", path, body=body, accept=REFUSED, last=True))
    if answer.status in REFUSED and (problems := branch_references(body)) and not await calls.is_native():
        raise GraphInvalid(f"graph {name!r} needs exotrio's own state manager", problems)
    graph = as_graph(answer, name)
    while graph["validation_status"] == ValidationStatus.PENDING:
        if anyio.current_time() > give_up:
            raise ManagerUnavailable(
                f"graph {name!r} is still not validated after {timeout} s",
                where=f"asked: {answer.asked}",
                fix="wait longer (validation_timeout), or see what keeps the state manager busy",
            )
        await anyio.sleep(polling_interval)
        graph = await get_graph(calls, name)
    return graph


async def _checked(
    calls: Calls, model: type[BaseModel], method: str, path: str, body: dict[str, Any]
) -> dict[str, Any]:
    """Return an answer as it came, once it is known to be what was asked for."""
    answer = await calls.http.ask(method, path, body=body)
    answer.parse(model)
    return cast("dict[str, Any]", answer.body)
