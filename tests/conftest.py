"""How many tests run at once, and what was left out, said where nobody can overlook it."""

from __future__ import annotations

import os

import pytest

from tests.browser.chromium import INSTALL

SDK_NEEDS = "They need Python >= 3.12 with venv and pip, and a package index that can be reached."


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    for folder, title, cure in (
        ("tests/browser/", "THE BROWSER JOURNEYS DID NOT RUN", INSTALL),
        ("tests/sdk/", "THE TESTS WITH THE STOCK SDK DID NOT RUN", SDK_NEEDS),
    ):
        skipped = terminalreporter.stats.get("skipped", [])
        reasons = [report.longrepr[2] for report in skipped if folder in report.nodeid]
        if reasons:
            terminalreporter.section(title, sep="!", red=True, bold=True)
            for reason in sorted(set(reasons)):
                why = reason.removeprefix("Skipped: ")
                terminalreporter.line(f"left out ({reasons.count(reason)}): {why}")
            terminalreporter.line(cure)


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """One more than there are processors: many tests wait for processes they started."""
    return (os.cpu_count() or 1) + 1
