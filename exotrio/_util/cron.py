"""When a cron expression is due. Pure; the grammar is croniter's, times are UTC."""

from __future__ import annotations

from datetime import UTC, datetime


def next_occurrence_ms(expression: str, after_ms: int) -> int | None:
    """Return the first time after ``after_ms`` that matches ``expression``, in Unix ms; None without one.

    Raises:
        ValueError: the expression cannot be read; the text says why.
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
