"""The page of a link that sends an event to a run: for persons without a key, and without a session.

Programs that scan mails open the links in them. So only the button sends the event. The link is in the query
of the address, which no log here contains, and no other server gets the address. A link that does not work
has one answer, whatever the reason.
"""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from exotrio._wire.events import EVENT_PATH
from exotrio.manager.engine.event_links import LinkState, link_state, read_event_link, send_by_link
from exotrio.manager.security.access import caller_of
from exotrio.manager.service import Service
from exotrio.manager.web import guard
from exotrio.manager.web.page import render_whole

HEADERS = {
    "content-security-policy": "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self';"
    " frame-ancestors 'none'; base-uri 'none'",
    # Unlike other pages: there is no session that a form of another site could use.
    "referrer-policy": "no-referrer",
    "x-robots-tag": "noindex",
}


class EventPage:
    """Shows what a link sends, and sends it."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self.routes = [Route(EVENT_PATH, self._serve, methods=["GET", "POST"])]

    async def _serve(self, request: Request) -> Response:
        store = self._service.store
        state: LinkState | None = None
        link = read_event_link(request.query_params.get("link", ""), self._service.cipher)
        # The database is only used for links that were made here.
        if link is not None:
            state = await store.read_with_deadline(link_state, link)
        sends = request.method == "POST"
        if sends and link is not None and state is LinkState.OPEN:
            state = await store.write_as(caller_of(request.scope, "event link"), send_by_link, link)
        status = 404 if state is None else 409 if sends and state is LinkState.OTHER_SENT else 200
        response = guard.html(render_whole(request, "event.html", link=link, state=state), status)
        response.headers.update(HEADERS)
        return response
