"""``FACTS.md``, the table of facts and their tests: each fact has tests, and they are there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.facts import named_tests

HERE = Path(__file__).parent
ROOT = HERE.parent

SECTIONS = dict(
    re.findall(r"^## (\S+)[^\n]*\n(.*?)(?=^## |\Z)", (HERE / "FACTS.md").read_text("utf-8"), re.S | re.M)
)
"""Number of a section to its lines."""


def facts(section: str) -> list[str]:
    """Return the items of a section, each with the tests it names."""
    return re.split(r"^(?:- |\d+\. )", SECTIONS[section], flags=re.M)[1:]


def named(text: str) -> list[str]:
    return re.findall(r"`([\w/]+::\w+)`", text)


def names_in(module: str) -> frozenset[str]:
    """Return the tests of a module."""
    return named_tests(next(path for path in (HERE / f"{module}.py", ROOT / f"{module}.py") if path.exists()))


@pytest.mark.parametrize("section", SECTIONS)
def test_every_fact_has_a_test_that_exists(section: str) -> None:
    for fact in facts(section):
        assert named(fact), fact
        for name in named(fact):
            module, test = name.split("::")
            assert test in names_in(module), f"{name}, for: {fact}"


def test_no_section_of_the_protocol_is_left_out() -> None:
    assert [section for section in SECTIONS if section.isdigit()] == [str(n) for n in range(1, 17)]


@pytest.mark.parametrize(("section", "items"), [("14", 24), ("15", 7)])
def test_the_numbered_lists_are_whole(section: str, items: int) -> None:
    numbers = re.findall(r"^(\d+)\. ", SECTIONS[section], flags=re.M)
    assert numbers == [str(number) for number in range(1, items + 1)]
