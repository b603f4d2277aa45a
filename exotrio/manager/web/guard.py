"""Requests of browsers: their origin, cookies and forms; and the headers of every response.

The session's cookie is SameSite=Strict, but for a browser every port of this machine is the same site. So a
request that changes something must also have the origin of this dashboard.
"""

from __future__ import annotations

import re
from contextlib import aclosing
from urllib.parse import parse_qsl, quote, urlsplit

import trio
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from exotrio.manager.rules.errors import Forbidden, InvalidRequest

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    # Not no-referrer: browsers would then send "Origin: null" with our own forms, too. Either way no other
    # host learns the address.
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}

FRAGMENTS_HEADER = "x-fragments"
Form = dict[str, list[str]]
"""The fields of a form, each of which may occur several times."""

MAX_FORM = 1024 * 1024
MAX_SIGN_IN_FORM = 16 * 1024
"""Bytes of the form that unauthenticated clients may send."""
FORM_TIME = 10.0
"""Seconds in which a form must have arrived."""
MAX_FIELDS = 2_000
MAX_COOKIES = 16 * 1024
"""Characters of the Cookie header that are read. Other servers on this machine may have set cookies, too."""
_OUR_COOKIES = re.compile(r"(?:^|;)[ \t]*(exotrio[a-z0-9_]*)=([^;\s]*)")


def check_origin(request: Request) -> None:
    """Refuse, with 403, a request that does not come from a page of this dashboard."""
    origin = request.headers.get("origin", "")
    host = request.headers.get("host", "")
    if not host or _origin_host(origin).lower() != host.lower():
        raise Forbidden(
            "this request did not come from a page of this dashboard. A proxy in front of it has to pass on"
            " the Host header unchanged",
        )


def _origin_host(origin: str) -> str:
    """Return host and port of an origin, or an empty string."""
    try:
        return urlsplit(origin).netloc
    except ValueError:  # an unmatched bracket, say
        return ""


def cookie_name(request: Request) -> str:
    """Return the name of the session's cookie, with the port: browsers share cookies among all ports."""
    port = request.headers.get("host", "").rpartition(":")[2]
    return f"exotrio_{port}" if port.isascii() and port.isdigit() else "exotrio"


def read_cookie(request: Request, name: str) -> str:
    """Return the value of a cookie, or an empty string.

    Not by Starlette: it uses http.cookies, whose time grew with the square of the length of a quoted value
    before Python 3.11.10 and 3.12.6 (CVE-2024-7592), and any client may send one. The values of our cookies
    are never quoted.
    """
    header = request.headers.get("cookie", "")[:MAX_COOKIES]
    return next((value for each, value in _OUR_COOKIES.findall(header) if each == name), "")


def is_secure(request: Request) -> bool:
    """Return whether the browser uses HTTPS, to us or to a proxy in front of us.

    ``X-Forwarded-Proto`` counts from any client: it only adds the attribute Secure to the cookie of the
    client that sent it. The Origin of a form shows it, too, but a link that signs in has none.
    """
    forwarded = request.headers.get("x-forwarded-proto", "").partition(",")[0].strip().lower()
    if "https" in (request.url.scheme, forwarded):
        return True
    return request.headers.get("origin", "").startswith("https://")


def set_cookie(request: Request, response: Response, name: str, value: str, *, max_age: int) -> None:
    """Set a cookie that no other site sends and no script reads, for ``max_age`` seconds."""
    response.set_cookie(
        name, value, max_age=max_age, httponly=True, samesite="strict", secure=is_secure(request)
    )


def local_path(path: str) -> str:
    """Return ``path``, to redirect to, if it is a path of this site; else that of the start page."""
    try:
        parts = urlsplit(path)
    except ValueError:
        return "/"
    # Browsers take "\" for "/", and drop control characters.
    odd = any(character < "!" or character in "\\\x7f" for character in path)
    if odd or parts.scheme or parts.netloc or not path.startswith("/") or path.startswith("//"):
        return "/"
    return path


async def read_form(request: Request, *, max_bytes: int = MAX_FORM) -> Form:
    """Return the fields of a form; refuse one that is longer than ``max_bytes``, too slow, or not a form."""
    # Checked first (without leading zeros), as a large body waits for memory that all clients share.
    length = request.headers.get("content-length", "").lstrip("0")
    too_large = HTTPException(413, f"the form is longer than {max_bytes:,} bytes")
    if length.isascii() and length.isdigit() and (len(length) > 20 or int(length) > max_bytes):
        raise too_large
    body = bytearray()
    with trio.move_on_after(FORM_TIME) as reading:
        async with aclosing(request.stream()) as chunks:
            async for chunk in chunks:
                body += chunk
                if len(body) > max_bytes:
                    raise too_large
    if reading.cancelled_caught:
        raise HTTPException(408, f"the form did not arrive within {FORM_TIME:g} s")
    if not body:
        return {}
    if request.headers.get("content-type", "").partition(";")[0] != "application/x-www-form-urlencoded":
        raise HTTPException(415, "a form is required")
    try:
        pairs = parse_qsl(
            body.decode("utf-8"), keep_blank_values=True, errors="strict", max_num_fields=MAX_FIELDS
        )
    except ValueError:
        raise InvalidRequest("the form cannot be read") from None
    form: Form = {}
    for name, value in pairs:
        # Browsers send the line ends of a text area as CR LF.
        form.setdefault(name, []).append(value.replace("\r\n", "\n"))
    return form


def field(form: Form, name: str) -> str:
    """Return the first value of a field, or an empty string."""
    return form.get(name, [""])[0]


def is_automatic(request: Request) -> bool:
    """Return whether the script sent the request, and not a person."""
    return FRAGMENTS_HEADER in request.headers or request.url.path.startswith("/live/")


def path_and_query(request: Request) -> str:
    """Return the address of a request as it was sent, without the host."""
    path = quote(request.scope["path"], safe="/")
    return path + (f"?{request.url.query}" if request.url.query else "")


def filled_in(path: str, request: Request) -> str:
    """Return a path with its parameters replaced by those of the request."""
    return path.format(**{name: quote(value, safe="") for name, value in request.path_params.items()})


def html(content: str, status: int = 200) -> Response:
    return HTMLResponse(content, status, headers=HEADERS)


def redirect(path: str) -> Response:
    return RedirectResponse(path, 303, headers=HEADERS)
