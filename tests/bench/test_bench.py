"""Every case of the benchmark runs, at a tiny size; what it measures is another matter."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from types import ModuleType

import pytest

from tests.bench import keys, latency, limits, postgres, programs, starting, stock, stop, throughput, waiting
from tests.bench.__main__ import CASES, measure
from tests.bench.figures import Comparison, Plan, Sample, as_json, as_table, comparison_table, gather
from tests.bench.places import Where, apart, server
from tests.support.postgres import Database, database

SLOW = {"postgres", "process", "processes", "stop", "import", "worker", "limits"}
SERVED: tuple[ModuleType, ...] = (latency, postgres, programs, starting, stock, stop, throughput)


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[bool, Where]]:
    """A native and a v0-only server, which all cases share here: each start takes half a second."""
    folder = tmp_path_factory.mktemp("servers")
    with apart(folder) as native, apart(folder, "--v0-only") as v0:
        yield {False: native, True: v0}


@pytest.fixture(scope="module")
def on_postgres() -> Iterator[tuple[Database, tuple[Where, int]]]:
    """A database on PostgreSQL with a server on it."""
    with database() as used, server(used.url) as started:
        yield used, started


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.long_form] if name in SLOW else []) for name in CASES],
)
def test_each_case_gives_figures(
    name: str,
    servers: dict[bool, Where],
    request: pytest.FixtureRequest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if name == "postgres":
        used, started = request.getfixturevalue("on_postgres")
        monkeypatch.setattr(postgres, "database", lambda: nullcontext(used))
        monkeypatch.setattr(postgres, "server", lambda url: nullcontext(started))
    for module in (keys, limits, waiting):
        monkeypatch.setattr(module, "ENGINES", ["SQLite"])
    if name == "keys":
        monkeypatch.setattr(keys, "COUNTS", [2])
        monkeypatch.setattr(keys, "server", lambda db: nullcontext((servers[False], os.getpid())))
    monkeypatch.setattr(waiting, "CHILD_RUNS", 1)
    monkeypatch.setattr(waiting, "SWEEPS", 1)
    for module in SERVED:
        monkeypatch.setattr(
            module, "apart", lambda folder, *options: nullcontext(servers["--v0-only" in options])
        )
    tiny = Plan(
        tmp_path,
        runs=1,
        states=12,
        triggers=4,
        rate=1000,
        fans=(5, 10),
        histories=(10, 20),
        stored=5,
        live_runs=5,
        claims=2,
        seconds=0.01,
        poll_interval=0.01,
        stock_runs=5,
        stops=1,
        work_seconds=0.4,
    )
    figures = gather(measure(tiny, [name]))
    assert figures
    assert all(figure.median >= 0 for figure in figures)
    if name == "stop":
        medians = {figure.samples[0].name: figure.median for figure in figures}
        assert medians["work repeated, exotrio with checkpoints"] == 0
        assert medians["executions cut by 1 stops, exotrio with checkpoints"] == 0


def test_a_figure_is_the_median_of_its_samples_with_its_share_of_the_limit_in_the_same_round() -> None:
    samples = [
        Sample(name, value, "per s", min_goal=15, limit=limit)
        for rate, max_goal in ((10, 20), (30, 40), (20, 80))
        for name, value, limit in (("limit", max_goal, None), ("rate", rate, "limit"))
    ]
    figure = gather(samples)[1]
    assert (figure.median, figure.range, figure.of_limit) == (20, (10, 30), 0.5)
    assert figure.cells() == ["rate", "20", "per s", "10 to 30", "15 or more: reached", "50% of: limit"]
    assert "15 or more: reached" in as_table([figure]).splitlines()[1]
    assert json.loads(as_json([figure]))[0]["values"] == [10, 30, 20]


def test_two_trees_are_compared_round_by_round() -> None:
    comparison = Comparison("rate", "per s", before=(10, 100, 20), now=(20, 150, 50))
    cells = ["rate", "20", "50", "per s", "2.00", "1.50 to 2.50"]
    assert comparison.cells() == cells
    assert comparison_table([comparison]).splitlines()[1].split() == " ".join(cells).split()
