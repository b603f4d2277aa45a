"""How many tests run at once, and what was left out, said where nobody can overlook it."""

from __future__ import annotations

import os

import pytest

from tests.browser.chromium import INSTALL, missing


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    lacking = missing()
    left_out = [
        report for report in terminalreporter.stats.get("skipped", []) if "tests/browser/" in report.nodeid
    ]
    if lacking and left_out:
        terminalreporter.section("THE BROWSER JOURNEYS DID NOT RUN", sep="!", red=True, bold=True)
        terminalreporter.line(f"{len(left_out)} tests of the dashboard need {' and '.join(lacking)}:")
        terminalreporter.line(INSTALL)


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """One more than there are processors: many tests wait for processes they started."""
    return (os.cpu_count() or 1) + 1
