"""The exceptions with which a use case, a query or a route refuses a request. Then nothing has changed.

They say what is wrong, in one line, and know no HTTP: ``manager.service.status_of`` gives their statuses.
"""

from __future__ import annotations

from collections.abc import Mapping


class Refused(Exception):
    """A request is refused, for the reason in ``detail``. One of the following is raised."""

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.detail = detail


class InvalidRequest(Refused):
    """The request is wrong in itself, or asks for too much."""


class InvalidQuery(Refused):
    """A parameter of a list or search is wrong."""


class Forbidden(Refused):
    """The caller may not do this."""


class NotFound(Refused):
    """What the request names does not exist."""


class Conflict(Refused):
    """The request conflicts with what is stored, or with what happens at this time."""


class Unavailable(Refused):
    """The request cannot be served at this time; it may be repeated later."""


class EntriesRefused(Exception):
    """Some entries of a list are refused, and so is the list. ``entries`` has the first of them, by index."""

    def __init__(self, entries: Mapping[int, Refused]) -> None:
        super().__init__(f"{len(entries)} refused")
        self.entries = entries
