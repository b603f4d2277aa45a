"""The one exception with which a use case or a route refuses a request."""

from __future__ import annotations


class Refused(Exception):
    """The request is answered with an error status and ``{"detail": detail}``; nothing changed."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail


def not_found(what: str) -> Refused:
    """Return a 404."""
    return Refused(404, what)
