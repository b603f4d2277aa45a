"""A browser that is watched: what no page of the dashboard may do fails the test, wherever it happens."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.browser.chromium import chromium, missing
from tests.browser.office import Office, open_office
from tests.browser.visitors import Visitors
from tests.support.processes import Processes

if TYPE_CHECKING:
    from playwright.sync_api import Browser

HERE = Path(__file__).parent
LACKING = missing()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.browser)
            if LACKING:
                item.add_marker(pytest.mark.skip(reason=f"needs {' and '.join(LACKING)}"))


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium, one for each file: as long as it lasts, nothing else may use a loop in this thread."""
    with chromium() as started:
        yield started


@pytest.fixture
def visitors(browser: Browser) -> Iterator[Visitors]:
    started = Visitors(browser)
    yield started
    started.leave()


@pytest.fixture
def processes() -> Iterator[Processes]:
    with Processes() as started:
        yield started


@pytest.fixture
def office(processes: Processes, tmp_path: Path) -> Office:
    """A state manager and a worker in separate processes, and the graph of the journeys."""
    return open_office(processes, tmp_path)
