"""Where schedules are kept: those in UTC in one table, those with a time zone in another.

State managers of version 1 of the tables (``schema``) may share the database during an update. They take each
row of ``schedules`` for an expression in UTC, and end with an error when one that they cannot read comes due;
the other table they do not know. Once no such state manager is possible, one table is enough.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

from exotrio._util.cron import PREFIX

TABLES = ("schedules", "zoned_schedules")
SCHEDULES = (
    "(SELECT graph, expression, next_at FROM schedules"
    " UNION ALL SELECT graph, expression, next_at FROM zoned_schedules) AS scheduled"
)
"""All of them, in place of a table's name."""

Due = TypeVar("Due", tuple[int, str], tuple[int, str, int])
"""A graph, the text of a schedule (``_util.cron``), and maybe when it comes due, in Unix ms."""


def by_table(rows: Iterable[Due]) -> dict[str, list[Due]]:
    """Return the rows of each table, in their order there; none of a table that has none of them."""
    found: dict[str, list[Due]] = {}
    for row in sorted(rows):
        found.setdefault(TABLES[row[1].startswith(PREFIX)], []).append(row)
    return found
