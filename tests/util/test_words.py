"""Counts and shares in a sentence, and names that resemble a mistyped one."""

from __future__ import annotations

import difflib

import pytest

from exotrio._util.words import closest, percent, plural


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


def test_few_names_are_compared_in_full(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[object] = []
    ratio = difflib.SequenceMatcher.ratio

    def counted(matcher: difflib.SequenceMatcher[str]) -> float:
        compared.append(matcher)
        return ratio(matcher)

    monkeypatch.setattr(difflib.SequenceMatcher, "ratio", counted)
    similar = [f"{'k' * 61}{number:03}" for number in range(300)]
    assert closest("kkz" * 21 + "9", [*similar, "Root"]) is not None
    assert 0 < len(compared) <= 2 * 3  # difflib asks for the ratio of each twice
    compared.clear()
    assert closest("k" * 65, [*similar, "Root"]) is None
    assert closest("rot", [*("k" * 61 + each for each in similar), "Root"]) == "Root"
