"""Moments in UTC, as they are sent (ISO 8601) and stored (Unix milliseconds); and durations in seconds, read
as people write them (``30d``, ``12h``) and written for people. Pure."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from functools import lru_cache
from typing import overload

MAX_DURATION = 100 * 365 * 86_400.0
"""Seconds. Times much further in the future exceed the range of dates."""

_SECONDS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
_FORM = re.compile(r"([0-9]{1,9})([smhd])")


def iso_time(moment: datetime, timespec: str = "milliseconds") -> str:
    """Return an aware moment as ISO 8601 in UTC: ``2026-01-31T12:00:00.000Z``."""
    return moment.astimezone(UTC).isoformat(timespec=timespec).replace("+00:00", "Z")


@lru_cache(maxsize=64)  # rows that are created together share it; it takes 2 us
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


def parse_duration(text: str) -> float:
    """Return the seconds in a duration: a whole number above zero and ``s``, ``m``, ``h`` or ``d``.

    Raises:
        ValueError: it is not a duration, or longer than 100 years.
    """
    match = _FORM.fullmatch(text.strip())
    if match is None:
        raise ValueError(
            f"{text!r} is not a duration: write a whole number and s, m, h or d, as in 60s, 5m, 12h or 30d"
        )
    seconds = float(int(match[1]) * _SECONDS[match[2]])
    if not 0 < seconds <= MAX_DURATION:
        raise ValueError(f"{text!r} is out of range: a duration is above zero and at most 100 years")
    return seconds


def format_duration(seconds: float | None) -> str:
    """Return a duration such as ``850 ms``, ``1.6 s``, ``4 min 10 s`` or ``3 d 2 h``; a dash for None."""
    if seconds is None:
        return "—"
    # Whole microseconds: milliseconds must not become slightly less by their conversion.
    seconds = round(max(0.0, seconds), 6)
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    named = [(days, "d"), (hours, "h"), (minutes, "min"), (rest, "s")]
    while not named[0][0]:
        del named[0]
    return " ".join(f"{count} {unit}" for count, unit in named[:2] if count)


def format_coarse(seconds: float) -> str:
    """Return a duration by its largest unit only: ``12 s``, ``4 min``, ``3 d``."""
    whole = int(round(max(0.0, seconds), 6))
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if whole >= size:
            return f"{whole // size} {unit}"
    return f"{whole} s"


def format_quantile(seconds: float | None, percent: int, count: int, *, is_bound: bool = False) -> str:
    """Return a percentile of ``count`` durations, such as ``~1.6 s``; a dash for None.

    It is ``≤1.6 s`` with ``is_bound``: of some, only a longer time was measured. Of too few to tell the
    percentile from the maximum, it is ``max ~1.6 s of 3``.
    """
    if seconds is None:
        return "—"
    text = f"{'≤' if is_bound else '~'}{format_duration(seconds)}"
    return f"max {text} of {count}" if percent > 50 and count * (100 - percent) < 100 else text
