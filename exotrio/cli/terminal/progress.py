"""What ``run`` shows while it waits, on standard error: bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Protocol

from exotrio._util.terminal_text import harmless, one_line
from exotrio._wire.vocabulary import ERRORED, RETRIED, SUCCESS
from exotrio.cli.terminal.output import print_message
from exotrio.client import NodeCounts, Run, StateStatus

if TYPE_CHECKING:
    from rich.progress import TaskID

    from exotrio._runtime.runtime import Runtime

log = logging.getLogger("exotrio.cli")

WAITING = (StateStatus.CREATED,)
RUNNING = (StateStatus.QUEUED, StateStatus.EXECUTED)

_SHOW_CURSOR = b"\x1b[?25h"
MAX_PROGRESS_TEXT = 40
"""Characters beside a bar of what a node says of its progress."""
LINE_INTERVAL = 2.0
"""Seconds between two plain lines about the same run."""


def count(node: NodeCounts, statuses: tuple[StateStatus, ...]) -> int:
    """Return how many states of a place have one of the statuses."""
    return sum(node.counts.get(status, 0) for status in statuses)


class Progress(Protocol):
    """Shows a run. Enter it while the run is followed."""

    elapsed: float

    def __enter__(self) -> Progress: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def show(self, run: Run) -> None:
        """Show the run's counts."""

    def refresh(self) -> None:
        """Show what nodes say of their progress by now."""

    def print_message(self, text: str) -> None:
        """Print a line that stays."""

    def give_back(self) -> None:
        """Leave the terminal as it was, from the signal handler that ends the process."""


def progress_for(runtime: Runtime | None = None, *, verbose: bool = False, logged: bool = False) -> Progress:
    """Return bars for a terminal; lines elsewhere, and beside a log, which bars would tear.

    Args:
        runtime: Asked what its nodes say of their progress; None if they run elsewhere.
        verbose: There is a log.
        logged: Everything goes to the log.
    """
    if logged:
        return Lines(runtime, lambda text: log.info("%s", text))
    if sys.stderr.isatty() and not verbose:
        return Bars(runtime)
    return Lines(runtime)


def said(runtime: Runtime | None, run: Run) -> dict[str, str]:
    """Return what nodes of a run say of their progress, by their place in the graph.

    Of several the longest running speaks, so that the text does not jump between them.
    """
    latest: dict[str, str] = {}
    for state in runtime.vitals.running if runtime is not None else ():
        if state.progress is not None and state.run_id == run.run_id:
            latest.setdefault(state.identifier, one_line(str(state.progress)))
    return latest


class Lines:
    """One line now and then, and one whenever a place is done."""

    def __init__(self, runtime: Runtime | None, say: Callable[[str], None] = print_message) -> None:
        self.elapsed = 0.0
        self._runtime = runtime
        self._say = say
        self._run: Run | None = None
        self._said: dict[str, str] = {}
        self._started = 0.0
        self._last = -LINE_INTERVAL

    def __enter__(self) -> Lines:
        self._started = time.monotonic()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.elapsed = time.monotonic() - self._started

    def show(self, run: Run) -> None:
        self._run = run
        now = time.monotonic()
        if now - self._last < LINE_INTERVAL and run.pending_count:
            return
        self._last = now
        self._said = said(self._runtime, run)
        self.print_message("  ".join(_summary(node, self._said) for node in run.nodes if node.counts))

    def refresh(self) -> None:
        if self._run is not None and self._run.pending_count and said(self._runtime, self._run) != self._said:
            self.show(self._run)

    def print_message(self, text: str) -> None:
        self._say(text)

    def give_back(self) -> None:
        """There is nothing to give back."""


def _summary(node: NodeCounts, progress: Mapping[str, str]) -> str:
    done, failed, retried = count(node, SUCCESS), count(node, ERRORED), count(node, RETRIED)
    total = done + failed + count(node, WAITING + RUNNING)
    more = [f"{number} {word}" for number, word in ((failed, "failed"), (retried, "retried")) if number]
    more += [progress[node.identifier]] if node.identifier in progress else []
    return f"{one_line(node.identifier)} {done}/{total}" + (f" ({', '.join(more)})" if more else "")


class Bars:
    """A bar per place of the graph."""

    def __init__(self, runtime: Runtime | None) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        self.elapsed = 0.0
        self._runtime = runtime
        self._started = 0.0
        self._run: Run | None = None
        self._bars: dict[str, TaskID] = {}
        self._progress = Progress(
            # Not as markup: names, and what a node says, may look like it.
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=40),
            MofNCompleteColumn(),
            TextColumn("{task.fields[details]}", markup=False),
            TimeElapsedColumn(),
            console=Console(stderr=True),
        )

    def __enter__(self) -> Bars:
        self._started = time.monotonic()
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.elapsed = time.monotonic() - self._started
        with suppress(OSError):
            self._progress.stop()

    def show(self, run: Run) -> None:
        self._run = run
        progress = said(self._runtime, run)
        for node in run.nodes:
            done, failed, waiting = count(node, SUCCESS), count(node, ERRORED), count(node, WAITING + RUNNING)
            if node.identifier not in self._bars:
                self._bars[node.identifier] = self._progress.add_task(
                    one_line(node.identifier), total=None, details="", start=False
                )
            bar = self._bars[node.identifier]
            if node.counts:
                self._progress.start_task(bar)
                total = done + failed + waiting
                self._progress.update(
                    bar, completed=done + failed, total=total, details=_details(node, progress)
                )
                if not waiting:
                    self._progress.stop_task(bar)

    def refresh(self) -> None:
        if self._run is not None:
            self.show(self._run)

    def print_message(self, text: str) -> None:
        # A terminal that was closed must not end the run.
        with suppress(OSError):
            self._progress.console.print(harmless(text), highlight=False, markup=False, soft_wrap=True)

    def give_back(self) -> None:
        # Past the stream's buffer: the handler may have interrupted a write to it, which takes no other then.
        console = self._progress.console
        if not (console.is_dumb_terminal or console.legacy_windows):
            with suppress(OSError):
                os.write(console.file.fileno(), _SHOW_CURSOR)


def _details(node: NodeCounts, progress: Mapping[str, str]) -> str:
    parts = [
        (count(node, RUNNING), "claimed"),
        (count(node, ERRORED), "failed"),
        (count(node, RETRIED), "retried"),
    ]
    texts = [f"{number} {word}" for number, word in parts if number]
    text = progress.get(node.identifier, "")
    # A bar has one line, and few terminals are as wide as what a node may say.
    brief = text if len(text) <= MAX_PROGRESS_TEXT else f"{text[: MAX_PROGRESS_TEXT - 3]}..."
    return ", ".join(texts + ([brief] if brief else []))
