"""``export``: a run as one file."""

from __future__ import annotations

import os
import stat
import time

import pytest

from tests.support.commands import Cli, fails
from tests.support.processes import Server, disk_of, ended
from tests.support.stock import KEY, Stock, on_a_port


@pytest.fixture
def run(cli: Cli) -> str:
    """Return a run one state of which failed."""
    return cli("trigger", "fan", "--follow", "--store", "bad=1").out.split()[0]


def test_a_run_is_written_to_a_file_that_only_its_owner_reads(cli: Cli, run: str) -> None:
    end = cli("export", run[:8], "run.html", code=0)
    page = (cli.folder / "run.html").read_bytes()
    assert end.out == f"run.html: {len(page):,} bytes\n"
    assert page.startswith(b"<!doctype html>")
    assert b"ValueError: \\x1b[31mcannot work on 1" in page
    assert stat.S_IMODE((cli.folder / "run.html").stat().st_mode) == 0o600
    assert sorted(set(os.listdir(cli.folder)) - {"__pycache__"}) == ["nodes.py", "run.html"], (
        "nothing else is left"
    )


def test_the_result_is_printed_as_json(cli: Cli, run: str) -> None:
    size = cli.json("export", run[:8], "run.html")["bytes"]
    assert size == (cli.folder / "run.html").stat().st_size
    fails(cli("export", run, "-", "-o", "json"), 2, "standard output gets the page")
    fails(cli("export", run, "-o", "jsno"), 2, "'jsno' is not one of")


def test_without_a_name_the_file_is_named_by_the_run(cli: Cli, run: str) -> None:
    assert cli("export", run[:6]).out.startswith(f"run-{run[:8]}.html: ")
    fails(cli("export", run), 2, f"run-{run[:8]}.html already exists", "replace it: --overwrite\n")


def test_a_file_that_exists_is_left_alone_unless_it_may_be_overwritten(cli: Cli, run: str) -> None:
    (cli.folder / "run.html").write_text("mine")
    fails(cli("export", run, "run.html"), 2, "run.html already exists", "--overwrite")
    assert (cli.folder / "run.html").read_text() == "mine"
    assert cli("export", run, "run.html", "--overwrite").code == 0
    assert run in (cli.folder / "run.html").read_text("utf-8")


def test_a_place_that_cannot_be_written_is_named(cli: Cli, run: str) -> None:
    fails(cli("export", run, "absent/run.html"), 2, "absent/run.html cannot be created", "No such file")
    fails(cli("export", run, ".", "--overwrite"), 2, ". is not a regular file")
    assert set(os.listdir(cli.folder)) - {"__pycache__"} == {"nodes.py"}


def test_a_full_disk_leaves_no_partial_file(cli: Cli, run: str, running: Server) -> None:
    options = ("--namespace", "n", "run.html")
    end = ended("export", run, *options, cwd=cli.folder, env=running.env, after=disk_of(1_000))
    fails(end, 2, "the page run.html cannot be written: File too large", "free space")
    assert set(os.listdir(cli.folder)) - {"__pycache__"} == {"nodes.py"}


def test_standard_output_gets_the_page_and_nothing_else(running: Server, cli: Cli, run: str) -> None:
    end = ended("export", run, "--namespace", "n", "-", cwd=cli.folder, env=running.env, code=0)
    assert end.err == ""
    assert end.out.startswith("<!doctype html>")
    assert end.out.endswith("</html>")


def test_values_can_be_left_out(cli: Cli, run: str) -> None:
    assert cli("export", run, "run.html", "--no-values").code == 0
    page = (cli.folder / "run.html").read_text("utf-8")
    assert "&lt;0&gt;" not in page
    assert "left out, as requested" in page


def test_an_unknown_run_is_an_error(cli: Cli, run: str) -> None:
    fails(cli("export", f"{run[:-1]}{'0' if run[-1] != '0' else '1'}"), 6, "there is no run", "did you mean")
    assert not list(cli.folder.glob("*.html"))


def test_a_state_manager_that_speaks_only_v0_cannot_export(bare: Cli) -> None:
    stock = Stock(time.monotonic)
    stock.runs["r"] = {"graph": "g", "namespace": "n"}
    stock.add("A")
    with on_a_port(stock) as uri:
        bare.set(EXOSPHERE_STATE_MANAGER_URI=uri, EXOSPHERE_API_KEY=KEY, EXOSPHERE_NAMESPACE="n")
        fails(
            bare("export", "r"), 3, "/run/r/export cannot be requested: ", "speaks only v0", "exotrio server"
        )
