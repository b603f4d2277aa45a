"""Native routes about the events of runs."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from exotrio._wire.events import EventRequest, RunEvents, SentEvent
from exotrio._wire.vocabulary import NATIVE_ROOT
from exotrio.manager.api.json import reply
from exotrio.manager.api.routing import ApiRoute
from exotrio.manager.engine import sending
from exotrio.manager.queries.events import show_events
from exotrio.manager.rules.access import Permission
from exotrio.manager.store.port import Store

EVENTS = NATIVE_ROOT + "/namespace/{namespace}/run/{run_id}/events"


class Events:
    def __init__(self, store: Store) -> None:
        self._store = store

    @ApiRoute("POST", EVENTS, "Send an event to a run", SentEvent, needs=Permission.GRAPHS)
    async def send(self, request: Request, namespace: str, run_id: str, body: EventRequest) -> Response:
        sent = await self._store.write(sending.send, namespace, run_id, body.name, body.value)
        return reply(SentEvent(run_id=run_id, name=body.name, created=sent.created, woken=sent.woken))

    @ApiRoute("GET", EVENTS, "Show events, and what the run waits for", RunEvents, needs=Permission.READ)
    async def show(self, request: Request, namespace: str, run_id: str) -> Response:
        return reply(await self._store.read_with_deadline(show_events, namespace, run_id))
