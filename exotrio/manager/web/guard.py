"""Which requests are let in, and the headers that every answer carries.

The session's cookie is SameSite=Strict, but to a browser every port of this machine is the same site;
so whatever changes something must also name our very own origin.
"""

from __future__ import annotations

from contextlib import aclosing
from urllib.parse import parse_qsl, urlsplit

import trio
from starlette.requests import Request

from exotrio.manager.rules.errors import Refused

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    # Not no-referrer: browsers then send "Origin: null" with our own forms too. No other host learns
    # where somebody came from either way.
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}

LARGEST_FORM = 1024 * 1024
SIGN_IN_FORM = 16 * 1024
"""Bytes of the form that anybody may send."""
FORM_TIME = 10.0
"""Seconds in which a form must have arrived."""
MOST_FIELDS = 2_000


def check_origin(request: Request) -> None:
    """Refuse what does not come from a page of our own.

    Raises:
        Refused: 403.
    """
    origin = request.headers.get("origin", "")
    host = request.headers.get("host", "")
    if not host or _origin_host(origin).lower() != host.lower():
        raise Refused(
            403,
            "this did not come from a page of this dashboard. A proxy in front of it has to pass the Host"
            " header on as it was",
        )


def _origin_host(origin: str) -> str:
    """Return host and port of an origin, or an empty string."""
    try:
        return urlsplit(origin).netloc
    except ValueError:  # a bracket without its other half, say
        return ""


def cookie_name(request: Request) -> str:
    """Return the name of the session's cookie: browsers share cookies among all ports of a host."""
    port = request.headers.get("host", "").rpartition(":")[2]
    return f"exotrio_{port}" if port.isascii() and port.isdigit() else "exotrio"


def is_secure(request: Request) -> bool:
    """Return whether the browser speaks HTTPS, to us or to a proxy in front of us."""
    return request.url.scheme == "https" or request.headers.get("origin", "").startswith("https://")


def local_path(path: str) -> str:
    """Return where to go after the sign-in: ``path`` if it leads nowhere else, the start otherwise."""
    try:
        parts = urlsplit(path)
    except ValueError:
        return "/"
    # Browsers take "\" for "/", and drop control characters.
    odd = any(character < "!" or character in "\\\x7f" for character in path)
    if odd or parts.scheme or parts.netloc or not path.startswith("/") or path.startswith("//"):
        return "/"
    return path


async def read_form(request: Request, *, most: int = LARGEST_FORM) -> dict[str, list[str]]:
    """Return the fields of a form; each may occur several times.

    Args:
        most: Bytes it may have. No more than that is read.

    Raises:
        Refused: it is too large, too slow, or no form.
    """
    length = request.headers.get("content-length", "")
    too_large = Refused(413, f"the form is longer than {most:,} bytes")
    if length.isascii() and length.isdigit() and len(length) < 20 and int(length) > most:
        raise too_large
    body = bytearray()
    with trio.move_on_after(FORM_TIME) as reading:
        async with aclosing(request.stream()) as chunks:
            async for chunk in chunks:
                body += chunk
                if len(body) > most:
                    raise too_large
    if reading.cancelled_caught:
        raise Refused(408, f"the form did not arrive within {FORM_TIME:g} s")
    if not body:
        return {}
    if request.headers.get("content-type", "").partition(";")[0] != "application/x-www-form-urlencoded":
        raise Refused(415, "a form is required")
    try:
        pairs = parse_qsl(
            body.decode("utf-8"), keep_blank_values=True, errors="strict", max_num_fields=MOST_FIELDS
        )
    except ValueError:
        raise Refused(400, "the form cannot be read") from None
    form: dict[str, list[str]] = {}
    for name, value in pairs:
        # Browsers end lines of a text area with CR LF; what was typed had LF.
        form.setdefault(name, []).append(value.replace("\r\n", "\n"))
    return form


def field(form: dict[str, list[str]], name: str) -> str:
    """Return the first value of a field, or an empty string."""
    return form.get(name, [""])[0]
