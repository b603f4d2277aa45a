"""The progress of a run that is followed, on standard error: bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Self

from exotrio._execution.capture import capture_streams_again
from exotrio._util.words import harmless, one_line
from exotrio._wire.vocabulary import FAILED, RETRIED, SUCCESS
from exotrio.cli.terminal.output import print_message
from exotrio.client import NodeCounts, Run, StateStatus

if TYPE_CHECKING:
    from rich.progress import TaskID

    from exotrio import Runtime

log = logging.getLogger("exotrio.cli")

RUNNING = (StateStatus.QUEUED, StateStatus.EXECUTED)

_SHOW_CURSOR = b"\x1b[?25h"
MAX_PROGRESS_TEXT = 40
"""Characters of a node's progress next to its bar."""
LINE_INTERVAL = 2.0
"""Seconds between two plain lines about the same run."""


def count(node: NodeCounts, statuses: tuple[str, ...]) -> int:
    """Return how many states of a node have one of the statuses."""
    return sum(node.counts.get(status, 0) for status in statuses)


def progress_for(runtime: Runtime | None = None, *, verbose: bool = False, logged: bool = False) -> Progress:
    """Return bars for a terminal; lines elsewhere, and together with a log, which bars would interrupt.

    Args:
        verbose: There is a log, too.
        logged: Everything goes to the log.
    """
    if logged:
        return Progress(runtime, lambda text: log.info("%s", text))
    return Bars(runtime) if sys.stderr.isatty() and not verbose else Progress(runtime)


class Progress:
    """Shows a run as a line every few seconds, and one at the end. Enter it while the run is followed.

    Args:
        runtime: Has the progress that its nodes report; None if they run elsewhere.

    Attributes:
        elapsed: Seconds for which the run was followed, set at the end.
    """

    def __init__(self, runtime: Runtime | None, write: Callable[[str], None] = print_message) -> None:
        self.elapsed = 0.0
        self._runtime = runtime
        self._write = write
        self._run: Run | None = None
        self._started = 0.0
        self._last = -LINE_INTERVAL
        self._last_reported: dict[str, str] = {}

    def __enter__(self) -> Self:
        self._started = time.monotonic()
        return self

    def __exit__(self, *error: object) -> None:
        self.elapsed = time.monotonic() - self._started

    def show(self, run: Run) -> None:
        self._run = run
        now = time.monotonic()
        if now - self._last < LINE_INTERVAL and run.pending_count:
            return
        self._last = now
        self._last_reported = reported = self._reported(run)
        self.print_message("  ".join(_summary(node, reported) for node in run.nodes if node.counts))

    def refresh(self) -> None:
        """Show the progress that nodes have reported since."""
        run = self._run
        if run is not None and run.pending_count and self._reported(run) != self._last_reported:
            self.show(run)

    def print_message(self, text: str) -> None:
        """Print a line above the progress."""
        self._write(text)

    def restore_terminal(self) -> None:
        """Erase what is drawn, and restore the terminal. Called from the handler of the last signal."""

    def _reported(self, run: Run) -> dict[str, str]:
        """Return the progress that nodes of a run report, by identifier.

        Of several states of one node the oldest one counts, so that the text does not alternate.
        """
        reported: dict[str, str] = {}
        for state in self._runtime.vitals.running if self._runtime is not None else ():
            if state.progress is not None and state.run_id == run.run_id:
                reported.setdefault(state.identifier, one_line(str(state.progress)))
        return reported


def _summary(node: NodeCounts, reported: Mapping[str, str]) -> str:
    done = count(node, SUCCESS) - node.further
    total = _total(node)
    details = _details(node, reported.get(node.identifier, ""))
    return f"{one_line(node.identifier)} {done}/{total}" + (f" ({details})" if details else "")


def _total(node: NodeCounts) -> int:
    """Return how many executions there are, one for each that is or was retried."""
    return sum(node.counts.values()) - count(node, RETRIED) - node.further


def _details(node: NodeCounts, text: str, *, claimed: bool = False) -> str:
    """Return the counts that are not zero, the outputs of a fan-out, and the reported progress:
    ``2 failed, 1 replaced, 6 outputs, text``."""
    counts = [(RUNNING, "claimed")] * claimed + [
        ((StateStatus.WAITING,), "waiting for events or runs"),
        (FAILED, "failed"),
        (RETRIED, "replaced"),
    ]
    parts = [f"{number} {word}" for statuses, word in counts if (number := count(node, statuses))]
    if node.further:
        parts.append(f"{count(node, (StateStatus.SUCCESS,))} outputs")
    if node.paused_at is not None:
        parts.append("node paused")
    return ", ".join([*parts, text] if text else parts)


class Bars(Progress):
    """Shows a bar per node of the graph."""

    def __init__(self, runtime: Runtime | None) -> None:
        from rich import progress
        from rich.console import Console

        super().__init__(runtime)
        self._bars: dict[str, TaskID] = {}
        self._progress = progress.Progress(
            # Not as markup: names and reported progress may look like it.
            progress.TextColumn("{task.description}", markup=False),
            progress.BarColumn(bar_width=40),
            progress.MofNCompleteColumn(),
            progress.TextColumn("{task.fields[details]}", markup=False),
            progress.TimeElapsedColumn(),
            console=Console(stderr=True),
        )

    def __enter__(self) -> Self:
        self._progress.start()
        capture_streams_again()  # its bars capture printed text, where it could not be told from messages
        return super().__enter__()

    def __exit__(self, *error: object) -> None:
        super().__exit__(*error)
        # Bars of a run that goes on elsewhere, or later, would soon be wrong.
        self._progress.live.transient = self._run is None or bool(self._run.pending_count)
        with suppress(OSError):
            self._progress.stop()

    def show(self, run: Run) -> None:
        self._run = run
        reported = self._reported(run)
        for node in run.nodes:
            if node.identifier not in self._bars:
                self._bars[node.identifier] = self._progress.add_task(
                    one_line(node.identifier), total=None, details="", start=False
                )
            if not node.counts:
                continue
            bar, text = self._bars[node.identifier], reported.get(node.identifier, "")
            if len(text) > MAX_PROGRESS_TEXT:  # a bar has one line, and a terminal may be narrow
                text = f"{text[: MAX_PROGRESS_TEXT - 3]}..."
            total, ended = _total(node), count(node, SUCCESS + FAILED) - node.further
            self._progress.start_task(bar)
            self._progress.update(
                bar, completed=ended, total=total, details=_details(node, text, claimed=True)
            )
            if ended == total:
                self._progress.stop_task(bar)

    def refresh(self) -> None:
        if self._run is not None:
            self.show(self._run)

    def print_message(self, text: str) -> None:
        # A terminal that was closed must not end the run.
        with suppress(OSError):
            self._progress.console.print(harmless(text), highlight=False, markup=False, soft_wrap=True)

    def restore_terminal(self) -> None:
        # Not through the stream's buffer, nor by rich's stop: the handler may have interrupted a write to it.
        console = self._progress.console
        if not console.is_dumb_terminal:
            erasure = str(self._progress.live._live_render.position_cursor())
            with suppress(OSError):
                os.write(console.file.fileno(), erasure.encode() + _SHOW_CURSOR)
