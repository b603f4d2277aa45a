"""The table of systems, at a tiny size and with exotrio only: pip installs the others."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest

from tests.bench.peers import ROWS, Measured, measure
from tests.bench.systems import EXOTRIO, Installed
from tests.support.postgres import new_server


@pytest.mark.long_form
def test_each_figure_of_exotrio_is_measured_in_each_place(tmp_path: Path) -> None:
    table = [Measured(row, Installed(EXOTRIO)) for row in ROWS.values() if row.kind is EXOTRIO]
    with closing(new_server()) as postgres:
        measure(table, postgres, tmp_path, runs=1, scale=0.001)
    assert [len(measured.default) + len(measured.tuned) for measured in table] == [2, 2, 2]
    for measured in table:
        assert all(value for figures in measured.default for value in figures.values())
    assert table[0].kill is not None


def test_a_cell_has_the_medians_at_default_and_at_tuned_settings() -> None:
    measured = Measured(ROWS["process"], Installed(EXOTRIO))
    measured.system.version = "1.0"
    for plain, wide in ((1_000.4, 10.0), (3_000.0, None), (2_000.0, 30.0)):
        others = {"idle": 2.25, "chain": 8.0, "fan": 0.125, "stored": 30_000.0}
        measured.default.append({"plain": plain, "wide": wide, **others})
        measured.tuned.append({"plain": 2 * plain, "wide": 40.0, **others})
    assert measured.cells() == [
        "exotrio 1.0 in process, SQLite",
        "2,000 / 4,000",
        "too slow / 40",
        "2.2 / 2.2 ms",
        "8.0 / 8.0 ms",
        "0.12 / 0.12 s",
        "30,000",
        "> 90 s",
    ]
