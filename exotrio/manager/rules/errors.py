"""The exceptions with which a use case or a route refuses a request."""

from __future__ import annotations

from collections.abc import Mapping


class Refused(Exception):
    """The request is answered with an error status and ``{"detail": detail}``; nothing changed."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail


class EntriesRefused(Refused):
    """Some entries of a list are refused, and so is the list. ``entries`` has the first of them, by index."""

    def __init__(self, entries: Mapping[int, Refused]) -> None:
        first = next(iter(entries.values()))
        super().__init__(first.status, first.detail)
        self.entries = entries


def not_found(what: str) -> Refused:
    return Refused(404, what)
