"""Moments in UTC, as they travel (ISO 8601) and as they are stored (Unix milliseconds). Pure."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import lru_cache
from typing import overload


def iso_time(moment: datetime, timespec: str = "milliseconds") -> str:
    """Return an aware moment as ISO 8601 in UTC: ``2026-01-31T12:00:00.000Z``."""
    return moment.astimezone(UTC).isoformat(timespec=timespec).replace("+00:00", "Z")


@lru_cache(maxsize=64)  # states that are made together share it, at 2 us for each
def timestamp(ms: float, timespec: str = "milliseconds") -> str:
    """Return a moment in Unix milliseconds as ``iso_time`` writes it."""
    return iso_time(from_unix_ms(ms), timespec)


@overload
def from_unix_ms(ms: float) -> datetime: ...


@overload
def from_unix_ms(ms: float | None) -> datetime | None: ...


def from_unix_ms(ms: float | None) -> datetime | None:
    """Return a moment in Unix milliseconds as a ``datetime`` in UTC; None for None."""
    return None if ms is None else datetime.fromtimestamp(ms / 1000, UTC)


def moment_ms(moment: datetime | str) -> int:
    """Return a moment, or what ``timestamp`` made of it, in Unix milliseconds. ValueError: it is neither."""
    if isinstance(moment, str):
        moment = datetime.fromisoformat(moment)
    return round(moment.timestamp() * 1000)
