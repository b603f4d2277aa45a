"""A database on the engine that a row of a test names."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import postgres


@pytest.fixture
def engine() -> str:
    """The engine of tests that are not run on both."""
    return "SQLite"


@pytest.fixture
def db(engine: str, tmp_path: Path) -> Iterator[str]:
    if engine == "SQLite":
        yield str(tmp_path / "state.db")
        return
    with postgres.database() as database:
        yield database.url


@pytest.fixture
def db_url() -> Iterator[str]:
    """A new database that several state managers may use."""
    with postgres.database() as database:
        yield database.url
