"""When a cron expression, in the grammar of croniter, is due in a time zone. Pure.

A *schedule* is an expression with its zone in one text, as some crontabs have it: ``0 9 * * *`` in UTC,
``CRON_TZ=Europe/Berlin 0 9 * * *`` elsewhere. croniter refuses an expression that begins so.

Where clocks are put forward, some times of a day do not exist; where they are put back, some exist twice. As
with the cron of Debian, the expression decides what happens then:

- one with a ``*`` at the beginning of its minute or hour (also ``@hourly``) is an interval: it is due
  whenever the clock shows such a time, so not in a skipped hour, and again in a repeated one.
- any other expression names times of day, and is due once for each: if the clocks skip it, as soon as they
  were put forward, and if it exists twice, at the first of the two.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import TYPE_CHECKING

from exotrio._util.words import suggestion

if TYPE_CHECKING:
    from zoneinfo import ZoneInfo

# croniter and zoneinfo are imported where they are used, since few programs need them and both take 20 ms.

PREFIX = "CRON_TZ="
MAX_SEARCH = timedelta(days=50 * 366)
"""How far ahead to search for a time that the clock shows. croniter limits its own search to as much."""
_SECOND = timedelta(seconds=1)


def check_expression(expression: str) -> str:
    """Return the expression if it can be read; raise ValueError if not."""
    from croniter import croniter

    # Without a search for its next occurrence, which takes up to 20 ms for one that is rare.
    croniter(expression)
    return expression


def check_zone(name: str) -> str:
    """Return the name of a time zone if there is one, such as ``Europe/Berlin``; raise ValueError if not."""
    if name == "UTC" or name in _zones():
        return name
    instead = suggestion(name, sorted(_zones())) or ": IANA names, such as 'Europe/Berlin'"
    raise ValueError(f"there is no time zone {name[:100]!r}{instead}")


@cache
def _zones() -> frozenset[str]:
    from zoneinfo import available_timezones

    # Not whatever ZoneInfo finds: ``localtime`` differs from machine to machine.
    return frozenset(available_timezones() - {"localtime"})


def schedule_of(expression: str, zone: object) -> str:
    """Return the schedule of an expression in a zone; in UTC if that is not the name of one."""
    known = isinstance(zone, str) and zone != "UTC" and zone in _zones()
    return f"{PREFIX}{zone} {expression}" if known else expression


def parts_of(schedule: str) -> tuple[str, str]:
    """Return the expression and the zone of a schedule."""
    if not schedule.startswith(PREFIX):
        return schedule, "UTC"
    zone, _, expression = schedule.removeprefix(PREFIX).partition(" ")
    return expression, zone


def local_time(ms: int, zone: str) -> str:
    """Return what the clock shows in a zone: ``2026-01-31T13:00:00+01:00``."""
    from zoneinfo import ZoneInfo

    return datetime.fromtimestamp(ms / 1000, ZoneInfo(zone)).isoformat(timespec="seconds")


def next_occurrence_ms(schedule: str, after_ms: int) -> int | None:
    """Return the first time after ``after_ms`` at which a schedule is due, in Unix ms; None if there is none.

    A ValueError says why the schedule cannot be read.
    """
    expression, name = parts_of(schedule)
    after = datetime.fromtimestamp(after_ms / 1000, UTC)
    if name == "UTC":
        wall = next(_walls(expression, after.replace(tzinfo=None)), None)
        return None if wall is None else _ms(wall.replace(tzinfo=UTC))
    from zoneinfo import ZoneInfo

    zone = ZoneInfo(check_zone(name))
    fields = expression.split()
    is_interval = fields[0] == "@hourly" or any(field.startswith("*") for field in fields[:2])
    due = (_intervals if is_interval else _times_of_day)(expression, zone, after)
    return None if due is None else _ms(due)


def occurrences(schedule: str, first_ms: int | None, count: int) -> list[int]:
    """Return the first time of a schedule and those after it, in Unix ms: at most ``count``, or none."""
    times: list[int] = []
    while first_ms is not None and len(times) < count:
        times.append(first_ms)
        first_ms = next_occurrence_ms(schedule, first_ms)
    return times


def names_a_time(schedule: str, after_ms: int) -> bool:
    """Return whether a schedule names a time after ``after_ms``, though the clocks may skip it."""
    from zoneinfo import ZoneInfo

    expression, zone = parts_of(schedule)
    wall = datetime.fromtimestamp(after_ms / 1000, ZoneInfo(zone)).replace(tzinfo=None)
    return next(_walls(expression, wall), None) is not None


def _ms(moment: datetime) -> int:
    return int(moment.timestamp() * 1000)


def _walls(expression: str, after: datetime) -> Iterator[datetime]:
    """Yield the times after ``after`` that an expression names, all without a zone."""
    from croniter import CroniterBadDateError, croniter

    # Given UTC, since it would take a time without a zone for one of the machine's.
    schedule = croniter(expression, after.replace(tzinfo=UTC))
    while True:
        try:
            moment = schedule.get_next(datetime)
        except CroniterBadDateError:
            return
        yield moment.replace(tzinfo=None)


def _times_of_day(expression: str, zone: ZoneInfo, after: datetime) -> datetime | None:
    wall = after.astimezone(zone).replace(tzinfo=None)
    # Times before ``wall`` are no longer due: of a repeated time the first one counts, a skipped one is due
    # at once.
    for each in _walls(expression, wall):
        moment = _moment(each, zone, fold=0)
        due = _end_of_gap(each, zone) if moment is None else moment
        if due > after:
            return due
    return None


def _intervals(expression: str, zone: ZoneInfo, after: datetime) -> datetime | None:
    local = after.astimezone(zone)
    wall = local.replace(tzinfo=None)
    due = _first_shown(expression, zone, after, wall, local.fold)
    repeated = _moment_of(wall, zone, fold=1) - _moment_of(wall, zone, fold=0)
    if local.fold or not repeated:
        return due
    # The clock will show this time once more: it is put back, perhaps before ``due``.
    again = _first_shown(expression, zone, after, wall - repeated, fold=1)
    return min(filter(None, (due, again)), default=None)


def _first_shown(
    expression: str, zone: ZoneInfo, after: datetime, wall: datetime, fold: int
) -> datetime | None:
    """Return the first moment after ``after`` when the clock shows a named time that is after ``wall``;
    None if there is none within ``MAX_SEARCH``."""
    end = wall + MAX_SEARCH
    while wall < end:
        for each in _walls(expression, wall):
            due = _moment(each, zone, fold)
            if due is None:
                # Not step by step: a gap has thousands of seconds.
                wall = _end_of_gap(each, zone).astimezone(zone).replace(tzinfo=None) - _SECOND
                break
            if due > after:
                return due
        else:
            return None
    return None


def _moment_of(wall: datetime, zone: ZoneInfo, fold: int) -> datetime:
    return wall.replace(tzinfo=zone, fold=fold).astimezone(UTC)


def _moment(wall: datetime, zone: ZoneInfo, fold: int) -> datetime | None:
    """Return when the clock shows a time, the first or the second time; None if it never does."""
    moment = _moment_of(wall, zone, fold)
    return moment if moment.astimezone(zone).replace(tzinfo=None) == wall else None


def _end_of_gap(wall: datetime, zone: ZoneInfo) -> datetime:
    """Return the moment in which the clocks were put forward over a time."""
    # With the offset from after it a time in the gap is a moment before it, and the other way round.
    before, after = _moment_of(wall, zone, fold=1), _moment_of(wall, zone, fold=0)
    offset = before.astimezone(zone).utcoffset()
    while after - before > _SECOND:
        middle = before + (after - before) // 2
        if middle.astimezone(zone).utcoffset() == offset:
            before = middle
        else:
            after = middle
    return after.replace(microsecond=0)
