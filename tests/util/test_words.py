"""Counts and shares in a sentence."""

from __future__ import annotations

from exotrio._util.words import percent, plural


def test_one_thing_and_several() -> None:
    assert [plural(count, "state") for count in (0, 1, 1_000)] == ["0 states", "1 state", "1,000 states"]


def test_a_share_is_never_rounded_to_all_or_nothing() -> None:
    assert percent(1, 1_000_000) == "< 0.1 %"
    assert percent(999_999, 1_000_000) == "> 99.9 %"
    assert [percent(0, 5), percent(5, 5), percent(0, 0), percent(1, 3)] == [
        "0 %",
        "100 %",
        "\u2014",
        "33.3 %",
    ]
