"""The ASGI application of the dashboard: pages, their fragments, their events and their forms."""

from __future__ import annotations

import logging
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any
from urllib.parse import quote

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from exotrio._httpd import mark_authenticated
from exotrio.errors import DatabaseError
from exotrio.manager.queries.graphs import all_namespaces, first_namespace
from exotrio.manager.rules.access import IN_PROCESS, Caller, Permission
from exotrio.manager.rules.errors import Forbidden, InvalidRequest, NotFound, Refused
from exotrio.manager.security.access import caller_of, let_in, log_forbidden
from exotrio.manager.security.sessions import add_flash, has_flashes, take_flashes
from exotrio.manager.service import Service, status_of
from exotrio.manager.store.errors import UnknownCommit, log_level
from exotrio.manager.store.view import View
from exotrio.manager.web import actions, guard, live
from exotrio.manager.web.event_page import EventPage
from exotrio.manager.web.export import export_headers, export_run
from exotrio.manager.web.guide import PAGES as GUIDE_PAGES
from exotrio.manager.web.guide import guide_page
from exotrio.manager.web.page import (
    THEME_COOKIE,
    THEMES,
    Data,
    FormRejected,
    Page,
    PageRequest,
    link,
    navigation_at,
    render_fragments,
    render_whole,
    serve_asset,
)
from exotrio.manager.web.pages import PAGES
from exotrio.manager.web.sign_in import SESSION, SignIn

logger = logging.getLogger("exotrio.manager.http")

_LOG = "the log of the state manager has the details."
THEME_KEPT = 365 * 86_400
"""Seconds."""


class Dashboard:
    """The dashboard of one state manager, an ASGI application. ``key``, the API key, opens a session, and
    so do named keys.

    The Host header must have been checked before it is called.
    """

    def __init__(self, service: Service, *, key: str) -> None:
        self._service = service
        self._sign_in = SignIn(service.store, key, service.keys)
        self._streams: set[live.LiveResponse] = set()
        required = self._sign_in.required
        routes = [
            *self._sign_in.routes,
            Route("/", required(self._start)),
            *EventPage(service).routes,
            Route("/theme", required(self._set_theme, page_path="/"), methods=["POST"]),
            Route("/static/{version}/{name}", serve_asset),
            Route("/guide", required(self._guide)),
            Route("/guide/{name}", required(self._guide)),
            Route("/ns/{namespace}/runs/{run_id}/export", required(self._export)),
        ]
        for page in PAGES:
            routes.append(Route(page.path, required(partial(self._show, page))))
            routes.append(Route(f"/live{page.path}", required(partial(self._send_events, page))))
        for path, (needed, action) in actions.ACTIONS.items():
            shown_by = next((page for page in PAGES if page.path == path), None)
            page_path = path if shown_by else path.rpartition("/")[0]
            endpoint = required(partial(self._act, needed, action, page_path, shown_by), page_path=page_path)
            routes.append(Route(path, endpoint, methods=["POST"]))
        self._folders = frozenset(route.path.split("/")[1] for route in routes)
        errors: tuple[Any, ...] = (Refused, HTTPException, DatabaseError, Exception)
        self._app = Starlette(routes=routes, exception_handlers=dict.fromkeys(errors, self._on_error))
        self._app.router.redirect_slashes = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        session: str | Exception | None
        key = None
        try:
            session = await self._sign_in.find(Request(scope))
            key = None if session is None else self._sign_in.sessions.key_of(session)
        except (DatabaseError, Refused) as error:
            # Raised again by endpoints that need the session, so that the response is made as for any error.
            session = error
        if isinstance(session, str):
            # For each request with a session, style sheets included, so that its connection is kept open.
            mark_authenticated(scope)
        scope = {**scope, SESSION: session}
        if key is not None:
            receive = let_in(self._service.keys, key, scope, receive)
        await self._app(scope, receive, send)

    def serves(self, path: str) -> bool:
        """Return whether a path begins like one of the dashboard's routes; all others are the API's."""
        return path.startswith("/") and path.split("/", 2)[1] in self._folders

    async def sign_in_link(self, url: str, to: str = "/", caller: Caller = IN_PROCESS) -> str:
        """Return a link below ``url`` that signs one browser in to a page, once, within ten minutes, for what
        the caller's key may do."""
        target = "" if to == "/" else f"&to={quote(to, safe='')}"
        return f"{url}/sign-in?link={await self._sign_in.sessions.make_link(caller)}{target}"

    # -- pages

    async def _start(self, request: Request, session: str) -> Response:
        namespace = await self._service.store.read_with_deadline(
            first_namespace, caller_of(request.scope, "dashboard")
        )
        return guard.redirect(link(namespace if namespace is not None else "default"))

    async def _set_theme(self, request: Request, session: str) -> Response:
        form = await guard.read_form(request)
        theme = guard.field(form, "theme")
        if theme not in THEMES:
            raise InvalidRequest(f"there is no theme {theme!r}")
        response = guard.redirect(guard.local_path(guard.field(form, "to") or "/"))
        guard.set_cookie(request, response, THEME_COOKIE, theme, max_age=THEME_KEPT)
        return response

    async def _guide(self, request: Request, session: str) -> Response:
        name = request.path_params.get("name", "guide")
        content = await self._service.store.compute(lambda: guide_page(name))
        return guard.html(render_whole(request, "guide.html", name=name, pages=GUIDE_PAGES, content=content))

    def _page_request(self, request: Request, needed: Permission = Permission.READ) -> PageRequest:
        """Return a request for a page; raise Forbidden unless its caller has this permission there."""
        params = dict(request.path_params)
        namespace = params.pop("namespace")
        caller = caller_of(request.scope, "dashboard")
        caller.require(needed, namespace)
        return PageRequest(
            service=self._service,
            namespace=namespace,
            params=params,
            query=dict(request.query_params),
            caller=caller,
        )

    async def _show(self, page: Page, request: Request, session: str) -> Response:
        return await self._render(page, self._page_request(request, page.needs), request, session)

    async def _render(
        self, page: Page, page_request: PageRequest, request: Request, session: str, status: int = 200
    ) -> Response:
        fragment_names = request.headers.get(guard.FRAGMENTS_HEADER)
        parts = ["page", *page.fragments] if fragment_names is None else fragment_names.split()

        def load(view: View) -> tuple[dict[str, Data], list[str], int, bool]:
            is_whole = fragment_names is None
            names = all_namespaces(view, page_request.caller) if is_whole else []
            if names and page_request.namespace not in names:
                raise NotFound(
                    f"there is no namespace {page_request.namespace}: none of its runtimes has started yet,"
                    " and none of its graphs is stored"
                )
            flashes = is_whole and has_flashes(view, session)
            return page.load(view, page_request, parts), names, view.now_ms, flashes

        data, namespaces, now, are_flashes = await self._service.store.read_with_deadline(load)
        if to := data["page"].get("leads_to"):
            return guard.redirect(to)
        common: Data = {
            "link": page_request.link,
            "namespace": page_request.namespace,
            "now": now,
            "may": page_request.may,
            **data["page"],
        }
        fragments = render_fragments(page, data, common)
        if fragment_names is not None:
            return guard.html("".join(fragments.values()))
        flashes = await self._service.store.write(take_flashes, session) if are_flashes else []
        return guard.html(
            render_whole(
                request,
                f"{page.folder}/page.html",
                **common,
                fragments=fragments,
                namespaces=namespaces,
                flashes=flashes,
                folder=page.folder,
                live=f"/live{guard.path_and_query(request)}",
            ),
            status,
        )

    async def _send_events(self, page: Page, request: Request, session: str) -> Response:
        if len(self._streams) >= live.MAX_STREAMS:
            return PlainTextResponse("too many pages are open", 503, headers=guard.HEADERS)

        async def is_signed_in() -> bool:
            return await self._sign_in.find(request) is not None

        return live.LiveResponse(  # type: ignore[return-value]
            page, self._page_request(request, page.needs), streams=self._streams, is_signed_in=is_signed_in
        )

    async def _export(self, request: Request, session: str) -> Response:
        page_request = self._page_request(request)
        namespace, run_id = page_request.namespace, page_request.params["run_id"]
        page = await self._service.store.read_with_deadline(
            export_run, namespace, run_id, self._service.cipher
        )
        return Response(page, headers=export_headers(run_id))

    # -- actions

    async def _act(
        self,
        needed: Permission,
        action: actions.Action,
        page_path: str,
        shown_by: Page | None,
        request: Request,
        session: str,
    ) -> Response:
        """Handle a form. After a refusal the browser is sent back to ``page_path``."""
        page_request = self._page_request(request, needed)
        form = await guard.read_form(request)
        try:
            flash, to = await action(page_request, form)
        except FormRejected as rejected:
            assert shown_by is not None, "a form that may be rejected is sent to its own page"
            page_request.caller.require(shown_by.needs, page_request.namespace)
            page_request = replace(page_request, rejected=rejected)
            return await self._render(shown_by, page_request, request, session, status=422)
        except NotFound:
            raise
        except Refused as refusal:
            flash, to = f"Nothing changed: {_ended(refusal.detail)}", guard.filled_in(page_path, request)
        await self._service.store.write(add_flash, session, flash)
        return guard.redirect(to)

    # -- errors

    async def _on_error(self, request: Request, error: Exception) -> Response:
        """Return a page that says what is wrong: with links, if it is about the request and that has a
        session."""
        # Starlette raises an unexpected error again after this response, and the server logs it.
        text = f"An unexpected error occurred; {_LOG}"
        status, has_links = 500, False
        match error:
            case Refused():
                if isinstance(error, Forbidden):
                    log_forbidden(request.scope)
                status, text, has_links = status_of(error), _sentence(error.detail), True
            case HTTPException(status_code=404):
                status, text, has_links = 404, "There is no such page.", True
            case HTTPException():
                status, text, has_links = error.status_code, _sentence(error.detail), True
            case DatabaseError():
                logger.log(log_level(error), "%s %s: %s", request.method, request.url.path, error.what)
                status, text = 503, f"The state manager cannot use its database now. Try again later; {_LOG}"
                if isinstance(error, UnknownCommit):
                    status, text = 504, "Whether this happened is not known. Check before you try again."
        is_signed_in = isinstance(request.scope[SESSION], str)
        if status == 404 and not is_signed_in:
            # Unauthenticated clients do not learn what exists.
            return self._sign_in.redirect_to_sign_in(request, guard.path_and_query(request))
        layout: Data = {"layout": "bare.html"}
        if has_links and is_signed_in and not guard.is_automatic(request):
            caller = caller_of(request.scope, "dashboard")
            with suppress(DatabaseError, Refused):
                layout = await self._service.store.read_with_deadline(
                    navigation_at, request.scope["path"], caller
                )
                layout["layout"] = "layout.html"
        return guard.html(render_whole(request, "problem.html", status=status, text=text, **layout), status)


def _sentence(text: str) -> str:
    return _ended(text[:1].upper() + text[1:])


def _ended(text: str) -> str:
    return text if text.endswith(".") else f"{text}."
