"""Signing in to the dashboard, with the key or once with a link; signing out; the session of each request."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from exotrio._httpd import mark_authenticated
from exotrio.manager.security.access import caller_of, client_address, refused
from exotrio.manager.security.keys import Keys, wrong_key
from exotrio.manager.security.refusals import WrongKeys
from exotrio.manager.security.sessions import IDLE_MS, Sessions
from exotrio.manager.store.base import Store
from exotrio.manager.web import guard
from exotrio.manager.web.page import render_whole

Endpoint = Callable[[Request], Awaitable[Response]]
SignedInEndpoint = Callable[[Request, str], Awaitable[Response]]
"""Takes the request and the session."""
SESSION = "exotrio.session"
"""Key in an ASGI scope: the session of a request, None without one, or the error that finding it raised."""


class SignIn:
    """Who is signed in at the dashboard of a state manager. ``key``, the API key, opens a session, and so do
    named keys."""

    def __init__(self, store: Store, key: str, keys: Keys) -> None:
        self.sessions = Sessions(store, key, keys)
        self._keys = keys
        self._wrong_keys = WrongKeys()
        self.routes = [
            Route("/sign-in", self._sign_in, methods=["GET", "POST"]),
            Route("/sign-out", self._sign_out, methods=["POST"]),
        ]

    async def find(self, request: Request) -> str | None:
        """Return the session of a request, if it has one that has not ended."""
        return await self.sessions.find(guard.read_cookie(request, guard.cookie_name(request)))

    def session_of(self, request: Request) -> str | None:
        """Return the session, which a request by a person keeps open; or raise the error of finding it."""
        session: str | Exception | None = request.scope[SESSION]
        if isinstance(session, Exception):
            raise session
        if session is not None and not guard.is_automatic(request):
            self.sessions.use(session)
        return session

    async def _sign_in(self, request: Request) -> Response:
        if request.method == "POST":
            return await self._try_key(request)
        to = guard.local_path(request.query_params.get("to", "/"))
        token = request.query_params.get("link")
        if token is not None and request.method == "GET":
            session_id = await self.sessions.redeem(token, caller_of(request.scope, "dashboard"))
            if session_id is None and self.session_of(request) is None:
                return self._form(
                    request, to, problem="This link was used before, or is too old.", status=401
                )
            # Not a redirect: after a link on another site, browsers would leave the strict cookie out of it.
            response = guard.html(render_whole(request, "welcome.html", to=to))
            if session_id is not None:
                self._set_cookie(request, response, session_id)
            return response
        return guard.redirect(to) if self.session_of(request) else self._form(request, to)

    async def _try_key(self, request: Request) -> Response:
        guard.check_origin(request)
        form = await guard.read_form(request, max_bytes=guard.MAX_SIGN_IN_FORM)
        to = guard.local_path(guard.field(form, "to") or "/")
        key = guard.field(form, "key").strip()
        session_id = await self.sessions.sign_in(key, caller_of(request.scope, "dashboard"))
        if session_id is None:
            problem = "Wrong key."
            refused(self._keys.refusals_of_wrong_keys, wrong_key(key), request.scope)
            if waited := await self._wrong_keys.delay_refusal(client_address(request.scope), key):
                problem += (
                    " Many wrong keys came from your address, so this answer was delayed by"
                    f" {math.ceil(waited)} s. Try again at any time: the right key is accepted at once."
                )
            return self._form(request, to, problem=problem, status=401)
        mark_authenticated(request.scope)
        response = guard.redirect(to)
        self._set_cookie(request, response, session_id)
        return response

    def _form(self, request: Request, to: str, *, problem: str | None = None, status: int = 200) -> Response:
        return guard.html(render_whole(request, "sign_in.html", to=to, problem=problem), status)

    def _set_cookie(self, request: Request, response: Response, session_id: str) -> None:
        guard.set_cookie(request, response, guard.cookie_name(request), session_id, max_age=IDLE_MS // 1000)

    async def _sign_out(self, request: Request) -> Response:
        guard.check_origin(request)
        name = guard.cookie_name(request)
        if self.session_of(request) is not None:
            await self.sessions.end(guard.read_cookie(request, name))
        response = guard.redirect("/sign-in")
        response.delete_cookie(name, httponly=True, samesite="strict", secure=guard.is_secure(request))
        return response

    def required(self, endpoint: SignedInEndpoint, *, page_path: str | None = None) -> Endpoint:
        """Return an endpoint that redirects clients without a session to the sign-in.

        Afterwards they come back to the same address. A form has ``page_path`` instead, to which they come
        back, and must come from a page of this dashboard.
        """

        async def checked(request: Request) -> Response:
            if page_path is not None:
                guard.check_origin(request)
            if (session := self.session_of(request)) is not None:
                return await endpoint(request, session)
            to = guard.path_and_query(request) if page_path is None else guard.filled_in(page_path, request)
            return self.redirect_to_sign_in(request, to)

        return checked

    def redirect_to_sign_in(self, request: Request, path: str) -> Response:
        """Return the response to a client without a session. After the sign-in the browser gets ``path``."""
        if guard.is_automatic(request):
            return PlainTextResponse("signed out", 401, headers=guard.HEADERS)
        return guard.redirect("/sign-in" if path == "/" else f"/sign-in?to={quote(path, safe='')}")
