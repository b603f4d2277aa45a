"""What was tried, at the end of a run.

``pytest --hypothesis-profile=long -n 0 tests/fuzz`` searches for half an hour; another
``--hypothesis-seed=N`` searches elsewhere.
"""

from __future__ import annotations

from collections import Counter

import pytest


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    from tests.fuzz.oracle import tried

    if tried:
        statuses = Counter[int]()
        for (_, status), count in tried.items():
            statuses[status] += count
        shown = ", ".join(f"{count:,} x {status}" for status, count in sorted(statuses.items()))
        terminalreporter.write_line(f"fuzz: {tried.total():,} answers checked: {shown}")
