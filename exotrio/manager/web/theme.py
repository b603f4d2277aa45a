"""The theme that somebody chose: light, dark, or that of their system. A cookie keeps it, so that the first
thing that a page shows has it already, also without the script."""

from __future__ import annotations

from typing import Any

from markupsafe import Markup
from starlette.requests import Request
from starlette.responses import Response

from exotrio.manager.rules.errors import Refused
from exotrio.manager.web.guard import field, local_path, path_and_query, read_form, redirect, set_cookie
from exotrio.manager.web.page import render

THEMES = ("auto", "light", "dark")
COOKIE = "exotrio_theme"
"""For all ports of this machine, unlike that of the session."""
KEPT = 365 * 86_400
"""Seconds."""


def theme_of(request: Request) -> str:
    chosen = request.cookies.get(COOKIE, "auto")
    return chosen if chosen in THEMES else "auto"


def render_whole(request: Request, template: str, **variables: Any) -> Markup:
    """Return a whole page, in the theme of the browser."""
    return render(
        template,
        theme=theme_of(request),
        themes=THEMES,
        # Of what was sent by a form there is no page.
        here=path_and_query(request) if request.method == "GET" else "/",
        **variables,
    )


async def set_theme(request: Request, session: str) -> Response:
    """Keep the theme of a form, and lead back to the page that it was chosen on."""
    form = await read_form(request)
    theme = field(form, "theme")
    if theme not in THEMES:
        raise Refused(400, f"there is no theme {theme!r}")
    response = redirect(local_path(field(form, "to") or "/"))
    set_cookie(request, response, COOKIE, theme, max_age=KEPT)
    return response
