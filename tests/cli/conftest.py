"""What several commands are tried at: a state manager with a worker, and commands in this process."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.commands import Cli, with_graph, with_worker
from tests.support.processes import Server


@pytest.fixture(scope="session")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One for all files that do nothing to it but start runs."""
    with with_worker(tmp_path_factory.mktemp("native")) as running:
        yield running


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    """Commands in an empty folder, with nothing configured."""
    return Cli(tmp_path, monkeypatch, capsys)


@pytest.fixture
def cli(bare: Cli, running: Server) -> Cli:
    return with_graph(bare, running)
