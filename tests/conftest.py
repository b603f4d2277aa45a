"""What is compiled and imported before, how many tests run at once, and what was left out, said loudly."""

from __future__ import annotations

import compileall
import gc
import importlib
import logging
import os
import signal
import sys
import tempfile
from collections.abc import Generator, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

import exotrio
from tests.browser.chromium import INSTALL
from tests.support import postgres

TESTS = Path(__file__).parent
# In memory, if there is much room: no commit waits for a disk that all tests share.
if postgres.has_room_in_memory() and "TMPDIR" not in os.environ:
    tempfile.tempdir = os.environ["TMPDIR"] = str(postgres.MEMORY)
SDK_NEEDS = "They need Python >= 3.12 with venv and pip, and a package index that can be reached."


# How fast the machine is, is not tested. ``--hypothesis-profile=long`` searches deeper.
both = settings(deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("short", both, max_examples=15)
settings.register_profile("long", both, max_examples=3000)
settings.load_profile("short")


def pytest_configure(config: pytest.Config) -> None:
    """Compile what processes of the tests import: they write no bytecode, and each would do it again.

    And let them handle SIGINT and SIGHUP though these are ignored here, as in a background job of a script or
    under nohup: a process that is started inherits that, but no handler.
    """
    for ignored in (signal.SIGINT, signal.SIGHUP):
        if signal.getsignal(ignored) is signal.SIG_IGN:
            signal.signal(ignored, lambda number, frame: None)
    if not hasattr(config, "workerinput"):
        for folder in (Path(exotrio.__file__).parent, TESTS / "support", TESTS / "chaos"):
            compileall.compile_dir(folder, quiet=2)


@pytest.hookimpl(wrapper=True)
def pytest_collection(session: pytest.Session) -> Generator[None, object, object]:
    """Import all test files with a third of the work: each process would rewrite the asserts of all of them,
    and its garbage collector would look again and again at what stays until the end."""
    gc.disable()
    before, sys.dont_write_bytecode = sys.dont_write_bytecode, False
    if session.config.args == ["tests"] and (worker := getattr(session.config, "workerinput", None)):
        # Each its share first; by then the others have written what they rewrote.
        for path in sorted(TESTS.rglob("test_*.py"))[int(worker["workerid"][2:]) :: worker["workercount"]]:
            with suppress(Exception):  # pytest meets it again, and reports it
                importlib.import_module(".".join(path.relative_to(TESTS.parent).with_suffix("").parts))
    try:
        return (yield)
    finally:
        sys.dont_write_bytecode = before
        gc.freeze()
        gc.set_threshold(5_000, 20, 20)  # by default collections take a twentieth of the time
        gc.enable()


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    """Undo what commands that run in this process do to our logger: later tests read its records."""
    logger = logging.getLogger("exotrio")
    before = logger.level, logger.propagate, logger.disabled, list(logger.handlers)
    yield
    logger.setLevel(before[0])
    logger.propagate, logger.disabled = before[1:3]
    logger.handlers[:] = before[3]


@pytest.fixture
def unconfigured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in an empty folder, which it gives, with no state manager and no key in the environment."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("EXOSPHERE_STATE_MANAGER_URI", raising=False)
    monkeypatch.delenv("EXOSPHERE_API_KEY", raising=False)
    return tmp_path


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    for sign, title, cure in (
        ("tests/browser/", "THE BROWSER JOURNEYS DID NOT RUN", INSTALL),
        ("tests/sdk/", "THE TESTS WITH THE STOCK SDK DID NOT RUN", SDK_NEEDS),
        (postgres.SKIPPED, "THE TESTS ON POSTGRESQL DID NOT RUN", postgres.INSTALL),
        (postgres.NO_POOLER, "THE TESTS BEHIND PGBOUNCER DID NOT RUN", postgres.INSTALL_POOLER),
    ):
        skipped = terminalreporter.stats.get("skipped", [])
        skips = [(report.nodeid, report.longrepr[2]) for report in skipped]
        reasons = [reason for test, reason in skips if sign in test or sign in reason]
        if reasons:
            terminalreporter.section(title, sep="!", red=True, bold=True)
            for reason in sorted(set(reasons)):
                why = reason.removeprefix("Skipped: ")
                terminalreporter.line(f"left out ({reasons.count(reason)}): {why}")
            terminalreporter.line(cure)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin the longest file of the last ones first: it takes half a minute, and would be waited for."""
    items.sort(key=lambda item: not item.nodeid.startswith("tests/test_readme.py"))


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Two more than there are processors: a third of the time, tests wait for processes they started."""
    return (os.cpu_count() or 1) + 2
