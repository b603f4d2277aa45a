"""Moments in UTC, as they travel (ISO 8601) and as they are stored (Unix milliseconds), and when a cron
expression, in the grammar of croniter, is due. Pure."""

from __future__ import annotations

from datetime import UTC, datetime


def iso_time(moment: datetime, timespec: str = "milliseconds") -> str:
    """Return an aware moment as ISO 8601 in UTC: ``2026-01-31T12:00:00.000Z``."""
    return moment.astimezone(UTC).isoformat(timespec=timespec).replace("+00:00", "Z")


def timestamp(ms: float, timespec: str = "milliseconds") -> str:
    """Return a moment in Unix milliseconds as ``iso_time`` writes it."""
    return iso_time(datetime.fromtimestamp(ms / 1000, UTC), timespec)


def moment_ms(moment: datetime | str) -> int:
    """Return a moment, or what ``timestamp`` made of it, in Unix milliseconds. ValueError: it is neither."""
    if isinstance(moment, str):
        moment = datetime.fromisoformat(moment)
    return round(moment.timestamp() * 1000)


def next_occurrence_ms(expression: str, after_ms: int) -> int | None:
    """Return the first time after ``after_ms`` that matches ``expression``, in Unix ms; None without one.

    A ValueError says why the expression cannot be read.
    """
    # Here, since few graphs have a trigger and the import takes 20 ms.
    from croniter import CroniterBadDateError, croniter

    try:
        found = croniter(expression, datetime.fromtimestamp(after_ms / 1000, UTC)).get_next(datetime)
    except CroniterBadDateError:
        return None
    return int(found.timestamp() * 1000)


def check_expression(expression: str) -> str:
    """Return the expression if it can be read; raise ValueError if not."""
    from croniter import croniter

    # Without a search for its next occurrence, which takes up to 20 ms for one that is rare.
    croniter(expression)
    return expression
