"""Native routes about the events of runs."""

from __future__ import annotations

from dataclasses import asdict

from exotrio._util.times import moment_ms
from exotrio._wire.events import (
    EVENT_PATH,
    EventLinkReply,
    EventLinkRequest,
    EventRequest,
    RunEvents,
    SentEvent,
)
from exotrio.manager.api.routing import GRAPHS, NS, READ, Endpoints, get, post
from exotrio.manager.engine import sending
from exotrio.manager.engine.event_links import make_event_link
from exotrio.manager.queries.events import show_events
from exotrio.manager.rules.access import Caller

RUN = NS + "/run/{run_id}"


class Events(Endpoints):
    @post(RUN + "/events", "Send an event to a run", GRAPHS, SentEvent)
    async def send(self, caller: Caller, namespace: str, run_id: str, body: EventRequest) -> object:
        sent = await self._store.write_as(caller, sending.send, namespace, run_id, body.name, body.value)
        return SentEvent(run_id=run_id, name=body.name, **asdict(sent))

    @get(RUN + "/events", "Show events, and what the run waits for", READ, RunEvents)
    async def show(self, namespace: str, run_id: str) -> object:
        return await self._store.read_with_deadline(show_events, namespace, run_id)

    @post(RUN + "/event-link", "Make a link that sends one event", GRAPHS, EventLinkReply)
    async def make_link(self, caller: Caller, namespace: str, run_id: str, body: EventLinkRequest) -> object:
        until, cipher = moment_ms(body.until), self._service.cipher
        link = await self._store.write_as(
            caller, make_event_link, cipher, namespace, run_id, body.name, body.value, until
        )
        return {"path": f"{EVENT_PATH}?link={link}"}
