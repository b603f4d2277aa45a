"""Watches the files that the user's code was loaded from.

Twice a second it compares three snapshots of the files: from before the code was loaded (*base*), from the
last comparison, and from now. A change is reported once, as soon as no further change follows. The comparison
with the base finds every file that differs from the one that was loaded, even if it changed during loading.

Watchfiles is not used: it loses a folder that is replaced (by ``git checkout``), and gets no events from
network disks and mounts of containers; and these snapshots would still be needed.
"""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Iterable
from pathlib import Path

import trio

INTERVAL = 0.5
SETTLES = 0.2
"""Seconds without a further change before one is reported: editors save in several steps."""
MAX_UNREST = 3.0
"""Seconds of continuous changes after which one is reported in any case."""

Stamp = tuple[int, int, int]
"""Time of the last change, size, and number of the file."""
Snapshot = dict[str, Stamp | None]
"""File to its stamp; None if there is no such file."""

_UNKNOWN: Stamp = (-1, -1, -1)
"""Stamp in the base of a file that changed after loading began: it may differ from what was loaded."""


class Watch:
    """Watches files; ``folder`` is where modules are looked up."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._base: Snapshot = {}
        self._seen: Snapshot = {}
        self._began = 0
        self._watch_new_files = False
        self._changed_by_loading: set[str] = set()

    def begin(self) -> None:
        """Record the files as they are before the code is loaded."""
        self._base = _snapshot(self._base)
        self._seen = dict(self._base)
        self._began = time.time_ns()
        self._watch_new_files = False

    def loaded(self, files: Iterable[str]) -> None:
        """Record that the code was loaded, from these files and no others."""
        present = set(files)
        self._base = {file: stamp for file, stamp in self._base.items() if file in present}
        self._take(present)

    def failed(self, files: Iterable[str]) -> None:
        """Record that the code could not be loaded from these files; others may be missing."""
        self._watch_new_files = True
        self._take([*files, *self._around([*files, *self._base])])

    def add(self, files: Iterable[str]) -> None:
        """Record that the code was loaded from these files, too."""
        for file in files:
            if file not in self._base:
                stamp = _stamp(file)
                young = stamp is not None and stamp[0] > self._began
                self._base[file] = self._seen[file] = _UNKNOWN if young else stamp

    def _take(self, files: Iterable[str]) -> None:
        self.add(files)
        now = _snapshot(self._base)
        early = {file for file in now if now[file] != self._base[file]}
        if early <= self._changed_by_loading:
            # Loading the code changes these files: if they counted, reloads would never end.
            self._base.update({file: now[file] for file in early})
        self._changed_by_loading = early
        self._seen = dict(self._base)

    async def change(self) -> list[str]:
        """Wait for a change; return all files that differ from what was loaded.

        Cancellation:
            Safe.
        """
        while True:
            now = await self._take_snapshot()
            if now != self._seen:
                with trio.move_on_after(MAX_UNREST):
                    while True:
                        before = now
                        await trio.sleep(SETTLES)
                        now = await self._take_snapshot()
                        if now == before:
                            break
                self._seen = now
                changed = [file for file in now if now[file] != self._base.get(file)]
                if changed:
                    return sorted(changed)
            await trio.sleep(INTERVAL)

    async def _take_snapshot(self) -> Snapshot:
        files = list(self._base)
        # In a thread: a slow disk must not block the state manager.
        return await trio.to_thread.run_sync(
            lambda: _snapshot([*files, *(self._around(files) if self._watch_new_files else ())]),
            abandon_on_cancel=True,
        )

    def _around(self, files: Iterable[str]) -> list[str]:
        """Return files in the same folders: a missing module may have been added."""
        folders = {self._folder, *(Path(file).parent for file in files)}
        paths = [path for folder in folders for path in folder.glob("*.py")]
        paths += self._folder.glob("*/__init__.py")
        return [str(path) for path in paths if not path.name.startswith(".")]


def _snapshot(files: Iterable[str]) -> Snapshot:
    return {file: _stamp(file) for file in files}


def _stamp(file: str) -> Stamp | None:
    try:
        status = os.stat(file)
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino


def syntax_problem(file: str) -> str | None:
    """Return why a Python file cannot be compiled, and where; None if it can, or is not one."""
    if not file.endswith(".py"):
        return None
    try:
        with open(file, "rb") as stream:
            source = stream.read()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the file; as errors they would look like mistakes
            compile(source, file, "exec", dont_inherit=True)
    except SyntaxError as error:
        return f"{type(error).__name__}: {error.msg}, in line {error.lineno}"
    except ValueError as error:  # older Pythons raise it for a null byte
        return str(error)
    except OSError:
        pass  # it was removed; if it is needed, loading will fail
    return None
