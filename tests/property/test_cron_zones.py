"""Cron in time zones, around real changes of clocks, against a model that looks at every minute."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import cache
from itertools import pairwise
from zoneinfo import ZoneInfo

from hypothesis import example, given
from hypothesis import strategies as st

from exotrio._util.cron import next_occurrence_ms, schedule_of

ZONES = ("Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kolkata", "Pacific/Chatham")
MINUTES = {
    "*": range(60),
    "*/15": range(0, 60, 15),
    "0": [0],
    "30": [30],
    "5,45": [5, 45],
    "10-20": range(10, 21),
}
HOURS = {"*": range(24), "*/2": range(0, 24, 2), "0": [0], "1": [1], "2": [2], "3": [3], "1-3": [1, 2, 3]}
MINUTE = timedelta(minutes=1)
BERLIN_BACK = datetime(2026, 10, 25, 1, tzinfo=UTC)
BERLIN_FORWARD = datetime(2026, 3, 29, 1, tzinfo=UTC)


@cache
def changes(name: str) -> list[datetime]:
    """Return when the clocks of a zone are changed; a day like any other where they never are."""
    zone, hour = ZoneInfo(name), timedelta(hours=1)
    begin = datetime(2026, 1, 1, tzinfo=UTC)
    offsets = [
        (begin + n * hour / 2, (begin + n * hour / 2).astimezone(zone).utcoffset()) for n in range(40_000)
    ]
    moments = [at for (_, before), (at, after) in pairwise(offsets) if before != after]
    return moments or [datetime(2026, 3, 29, tzinfo=UTC)]


def model(minute: str, hour: str, name: str, after: datetime) -> datetime | None:
    """Return the first minute of two days in which it is due."""
    zone = ZoneInfo(name)

    def named(wall: datetime) -> bool:
        return wall.minute in MINUTES[minute] and wall.hour in HOURS[hour]

    is_interval = minute.startswith("*") or hour.startswith("*")
    at = after.replace(second=0)
    for _ in range(2 * 24 * 60):
        at += MINUTE
        local = at.astimezone(zone)
        if named(local) and (is_interval or local.fold == 0):
            return at
        wall, skipped = (at - MINUTE).astimezone(zone).replace(tzinfo=None) + MINUTE, []
        while wall < local.replace(tzinfo=None):
            skipped.append(wall)
            wall += MINUTE
        if not is_interval and any(map(named, skipped)):
            return at
    return None


@given(
    zone=st.sampled_from(ZONES),
    number=st.integers(0, 3),
    seconds=st.integers(-4 * 3600, 4 * 3600),
    minute=st.sampled_from(sorted(MINUTES)),
    hour=st.sampled_from(sorted(HOURS)),
)
@example(zone="Europe/Berlin", number=0, seconds=-60, minute="30", hour="2")
@example(zone="Europe/Berlin", number=1, seconds=-1800, minute="30", hour="2")
@example(zone="Europe/Berlin", number=1, seconds=-30, minute="*/15", hour="2")
@example(zone="Australia/Lord_Howe", number=0, seconds=-30, minute="*", hour="1")
def test_an_expression_is_due_at_the_time_of_its_zone(
    zone: str, number: int, seconds: int, minute: str, hour: str
) -> None:
    moments = changes(zone)
    after = moments[number % len(moments)] + timedelta(seconds=seconds)
    due = next_occurrence_ms(schedule_of(f"{minute} {hour} * * *", zone), round(after.timestamp() * 1000))
    assert due is not None
    assert datetime.fromtimestamp(due / 1000, UTC) == model(minute, hour, zone, after)


def occurrences(expression: str, begin: datetime, hours: int) -> list[str]:
    """Return the times of an expression in Berlin within some hours, as its clocks show them."""
    moments, at = [], round(begin.timestamp() * 1000) - 1
    while (due := next_occurrence_ms(schedule_of(expression, "Europe/Berlin"), at)) is not None:
        at = due
        moment = datetime.fromtimestamp(due / 1000, UTC)
        if moment >= begin + timedelta(hours=hours):
            break
        moments.append(moment.astimezone(ZoneInfo("Europe/Berlin")).strftime("%H:%M%z"))
    return moments


def test_on_days_of_a_clock_change_a_time_of_day_is_due_once_and_an_interval_in_each_hour() -> None:
    midnight_forward, midnight_back = BERLIN_FORWARD - timedelta(hours=2), BERLIN_BACK - timedelta(hours=3)
    assert occurrences("30 2 * * *", midnight_forward, 23) == ["03:00+0200"]
    assert occurrences("10,30,50 2 * * *", midnight_forward, 23) == ["03:00+0200"]
    assert occurrences("30 2 * * *", midnight_back, 25) == ["02:30+0200"]
    assert len(occurrences("0 * * * *", midnight_forward, 23)) == 23
    assert len(occurrences("@hourly", midnight_back, 25)) == 25
    assert len(occurrences("* * * * * */20", BERLIN_FORWARD - 30 * MINUTE, 1)) == 3 * 60
