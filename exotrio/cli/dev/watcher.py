"""What the user's code was loaded from, and whether that has changed since. Looked at twice a second.

Three pictures of the files are compared: as they were before the code was loaded (*base*), as they
were last seen, and as they are. A change is told once, when it has settled; the base tells what the
code that runs does not know of, whenever it came.
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
"""Seconds without a further change after which one has settled: editors save in several steps."""
MAX_UNREST = 3.0

Stamp = tuple[int, int, int]
"""Time of the last change, size, and number of the file."""
Picture = dict[str, Stamp | None]
"""File to its stamp; None if there is no such file."""

_YOUNGER: Stamp = (-1, -1, -1)
"""Stands in a base for a file that is younger than the process that loaded it, perhaps as it was before."""


class Watch:
    """Watches files.

    Args:
        folder: Where modules are looked up.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._base: Picture = {}
        self._seen: Picture = {}
        self._began = 0
        self._looks_around = False
        self._early: set[str] = set()

    def begin(self) -> None:
        """Call this before the code is loaded: what it reads from now on may be what is there now."""
        self._base = _picture(self._base)
        self._seen = dict(self._base)
        self._began = time.time_ns()
        self._looks_around = False

    def loaded(self, files: Iterable[str]) -> None:
        """The code was loaded, from these files and no others."""
        present = set(files)
        self._base = {file: stamp for file, stamp in self._base.items() if file in present}
        self._take(present)

    def failed(self, files: Iterable[str]) -> None:
        """The code could not be loaded from these files; perhaps it lacks some that are not there."""
        self._looks_around = True
        self._take([*files, *self._around([*files, *self._base])])

    def add(self, files: Iterable[str]) -> None:
        """The code was loaded from these files too."""
        for file in files:
            if file not in self._base:
                stamp = _stamp(file)
                young = stamp is not None and stamp[0] > self._began
                self._base[file] = self._seen[file] = _YOUNGER if young else stamp

    def _take(self, files: Iterable[str]) -> None:
        self.add(files)
        now = _picture(self._base)
        early = {file for file in now if now[file] != self._base[file]}
        if early <= self._early:
            # It is the loading that changes them: to load them once more would never end.
            self._base.update({file: now[file] for file in early})
        self._early = early
        self._seen = dict(self._base)

    async def change(self) -> list[str]:
        """Wait for a change that has settled; return all files that are not as they were loaded.

        Cancellation:
            Safe.
        """
        while True:
            now = await self._look()
            if now != self._seen:
                with trio.move_on_after(MAX_UNREST):
                    while True:
                        before = now
                        await trio.sleep(SETTLES)
                        now = await self._look()
                        if now == before:
                            break
                self._seen = now
                changed = [file for file in now if now[file] != self._base.get(file)]
                if changed:
                    return sorted(changed)
            await trio.sleep(INTERVAL)

    async def _look(self) -> Picture:
        files = list(self._base)
        # In a thread, for a disk that answers slowly must not hold up the state manager.
        return await trio.to_thread.run_sync(
            lambda: _picture([*files, *(self._around(files) if self._looks_around else ())]),
            abandon_on_cancel=True,
        )

    def _around(self, files: Iterable[str]) -> list[str]:
        """Return where a module could be that was not there: files beside those of the code."""
        folders = {self._folder, *(Path(file).parent for file in files)}
        found = [path for folder in folders for path in folder.glob("*.py")]
        found += self._folder.glob("*/__init__.py")
        return [str(path) for path in found if not path.name.startswith(".")]


def _picture(files: Iterable[str]) -> Picture:
    return {file: _stamp(file) for file in files}


def _stamp(file: str) -> Stamp | None:
    try:
        found = os.stat(file)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


def syntax_problem(file: str) -> str | None:
    """Return why a Python file cannot be compiled, and where; None if it can, or is none."""
    if not file.endswith(".py"):
        return None
    try:
        with open(file, "rb") as stream:
            source = stream.read()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # those of the file; as errors they would look like mistakes
            compile(source, file, "exec", dont_inherit=True)
    except SyntaxError as error:
        return f"{type(error).__name__}: {error.msg}, in line {error.lineno}"
    except ValueError as error:  # older Pythons, of a null byte
        return str(error)
    except OSError:
        pass  # it was removed; if anybody misses it, they will say so
    return None
