"""What the app and the server tell each other about a request, through ``scope["extensions"]``.

Each function also works, and does nothing, under another server or in a test that calls the app itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import trio

_STOPPING = "exotrio.stopping"
_CROWDED = "exotrio.crowded"
_AUTHENTICATED = "exotrio.authenticated"


def extensions(
    *, stopping: trio.Event, is_crowded: Callable[[], bool], mark_authenticated: Callable[[], None]
) -> dict[str, dict[str, Any]]:
    """Return the extensions of a request's scope, for the functions below."""
    return {
        _STOPPING: {"event": stopping},
        _CROWDED: {"now": is_crowded},
        _AUTHENTICATED: {"mark": mark_authenticated},
    }


def stopping_event(scope: Mapping[str, Any]) -> trio.Event | None:
    """Return the event that is set when the server begins to stop.

    A long poll or an endless response should then end; it is cancelled when the grace is over.
    """
    event: trio.Event | None = _extension(scope, _STOPPING).get("event")
    return event


def is_crowded(scope: Mapping[str, Any]) -> bool:
    """Return whether connections are so scarce that no request should wait at the server."""
    now = _extension(scope, _CROWDED).get("now")
    return now is not None and now()


def mark_authenticated(scope: Mapping[str, Any]) -> None:
    """Tell the server that a request comes from a client with the key or a session.

    Its connection may then stay open for more, and does not count among those of strangers.
    """
    if mark := _extension(scope, _AUTHENTICATED).get("mark"):
        mark()


def _extension(scope: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found: Mapping[str, Any] = scope.get("extensions", {}).get(name, {})
    return found
