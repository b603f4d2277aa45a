"""``FACTS.md``, the table of facts and their tests: each fact has tests, and they are there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.facts import named_tests

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


def test_the_suite_runs_where_pytest_asyncio_is_installed_too(tmp_path: Path) -> None:
    # Installed as pip does it. Its warning about an option that is not set is an error here.
    (tmp_path / "other_plugin.py").write_text(
        "import warnings\ndef pytest_configure(): warnings.warn('unset')\n"
    )
    (tmp_path / "other_plugin-1.dist-info").mkdir()
    (tmp_path / "other_plugin-1.dist-info" / "METADATA").write_text("Name: other_plugin\nVersion: 1\n")
    (tmp_path / "other_plugin-1.dist-info" / "entry_points.txt").write_text(
        "[pytest11]\nasyncio = other_plugin\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-n", "0", "--markers"],
        cwd=ROOT.parent,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr
