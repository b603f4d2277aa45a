"""The arena, at a tiny size: every cell runs, and what it counts is right."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bench.arena.cells import CELLS
from tests.bench.arena.command import measure, postgres
from tests.bench.arena.journal import Journals
from tests.bench.systems import EXOTRIO, Installed
from tests.support.postgres import Server, server

IN_EACH_RUN = "backend-kills"
"""The cell that is not only in the long form: each takes some seconds."""


@pytest.fixture(scope="module")
def large_server() -> Iterator[Server]:
    """A server for 400 connections, which may be stopped."""
    with postgres() as started:
        yield started


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[] if name == IN_EACH_RUN else [pytest.mark.long_form]) for name in CELLS],
)
def test_no_job_is_lost_in_any_cell(name: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    used = server() if name == IN_EACH_RUN else request.getfixturevalue("large_server")
    scale = 0.0001 if name == "soak" else 0.002
    ((_, _, outcome),) = measure([name], [Installed(EXOTRIO)], used, tmp_path, scale)
    assert outcome.stored > 0
    assert (outcome.lost, outcome.died) == (0, 0)


def test_a_job_that_was_acknowledged_and_has_not_run_is_lost(tmp_path: Path) -> None:
    first, second = tmp_path / "replica-0", tmp_path / "replica-1"
    first.write_text("stored a b c\nrefused 2\ndone a 1.0 0.5\n")
    second.write_text("done b 2.0 0.25\ndone a 2.5 2.0\ndone unknown 3.0 0.0\ndone c 3")
    journals = Journals(tmp_path)
    journals.read()
    assert (journals.lost, journals.refused, journals.repeated, len(journals.done)) == (1, 2, 1, 3)
    assert journals.max_waited == 2.0
    with second.open("a") as file:
        file.write(".5 0.0\n")
    journals.read()
    assert journals.lost == 0


def test_a_rate_has_recovered_once_it_is_nine_tenths_of_what_it_was(tmp_path: Path) -> None:
    ends = [10 + number / 10 for number in range(100)] + [25 + number / 9 for number in range(100)]
    (tmp_path / "replica-0").write_text("".join(f"done {end} {end} 0.0\n" for end in ends))
    journals = Journals(tmp_path)
    journals.read()
    assert journals.rate(10, 20) == 10
    assert journals.recovery(20, 36, rate=10, window=2) == 5
    assert journals.recovery(20, 36, rate=20, window=2) is None
