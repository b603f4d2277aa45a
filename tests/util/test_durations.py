"""Durations as people write them."""

from __future__ import annotations

import pytest

from exotrio._util.times import format_coarse, format_duration, parse_duration


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("45s", 45),
        ("90m", 5_400),
        ("12h", 43_200),
        ("30d", 2_592_000),
        (" 1s ", 1),
        ("36500d", 3_153_600_000),
    ],
)
def test_a_number_and_a_unit_are_seconds(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "30", "d", "30 d", "-1d", "1.5h", "1w", "30D", "1h30m", "\u0663d"])
def test_the_error_for_anything_else_says_how_to_write_one(text: str) -> None:
    with pytest.raises(ValueError, match="60s, 5m, 12h or 30d"):
        parse_duration(text)


@pytest.mark.parametrize("text", ["0s", "36501d", "999999999d"])
def test_values_out_of_range_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="out of range"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("milliseconds", "text"),
    [
        (0, "0 ms"),
        (-5, "0 ms"),
        (999, "999 ms"),
        (1_640, "1.6 s"),
        (59_940, "59.9 s"),
        (59_999, "1 min"),
        (250_000, "4 min 10 s"),
        (3_600_000, "1 h"),
        (3_660_000, "1 h 1 min"),
        (266_400_000, "3 d 2 h"),
        (None, "\u2014"),
    ],
)
def test_durations_read_well(milliseconds: int | None, text: str) -> None:
    seconds = None if milliseconds is None else milliseconds / 1000
    assert format_duration(seconds) == text


def test_a_coarse_duration_has_one_unit() -> None:
    shown = [format_coarse(seconds) for seconds in (-1, 59, 90, 7_200, 90_000)]
    assert shown == ["0 s", "59 s", "1 min", "2 h", "1 d"]
