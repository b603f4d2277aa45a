"""``FACTS.md``, the table of facts and their tests, is complete."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parent

SECTIONS = dict(
    re.findall(r"^## (\S+)[^\n]*\n(.*?)(?=^## |\Z)", (HERE / "FACTS.md").read_text("utf-8"), re.S | re.M)
)
"""Number of a section to its lines."""


def facts(section: str) -> list[str]:
    """Return the items of a section, each with the tests it names."""
    return re.split(r"^(?:- |\d+\. )", SECTIONS[section], flags=re.M)[1:]


def test_every_fact_has_a_test() -> None:
    """``test_architecture`` checks that they exist."""
    assert not [fact for section in SECTIONS for fact in facts(section) if "::test_" not in fact]


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
