"""Do the tests notice when a safeguard is missing?

``table.txt`` has one entry for each promise that a line of exotrio keeps: the promise as a sentence, those
tests that fail without it, and the change of the code that breaks it::

    It binds 127.0.0.1 unless told otherwise.
      manager/test_access::test_a_server_binds_this_machine_only_unless_told_otherwise
      manager/serving.py
    -    host: str = "127.0.0.1",
    +    host: str = "0.0.0.0",

Tests are below ``tests``, files below ``exotrio``. After a file come the text that occurs there once and its
replacement; both may be parts of lines. An entry without a file is a promise that a library keeps.

``test_architecture`` checks that the tests exist and that the texts occur. ``python -m tests.mutations``
breaks one promise at a time, in a copy of the package, and shows that one of its tests fails.
"""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import exotrio

PACKAGE = Path(exotrio.__file__).parent
TABLE = Path(__file__).with_name("table.txt")


@dataclass
class Change:
    """A text of a file, and what replaces it."""

    file: str
    old: list[str] = field(default_factory=list)
    new: list[str] = field(default_factory=list)

    def apply(self, package: Path) -> str:
        """Return the text of the file in ``package`` with the change made."""
        source, old = (package / self.file).read_text("utf-8"), "\n".join(self.old)
        if (count := source.count(old)) != 1:
            raise ValueError(
                f"exotrio/{self.file} contains {count} times, not once, what table.txt names: {old!r}"
            )
        return source.replace(old, "\n".join(self.new))


@dataclass
class Mutation:
    """One entry of the table: a promise, ``folder/module::test`` of its tests, and how to break it."""

    promise: str
    tests: list[str] = field(default_factory=list)
    changes: list[Change] = field(default_factory=list)


def read_table() -> list[Mutation]:
    """Return the entries of the table."""
    mutations: list[Mutation] = []
    for block in re.split(r"\n\n+", TABLE.read_text("utf-8").strip()):
        if not block.startswith("#"):
            promise, *lines = block.split("\n")
            mutation = Mutation(promise)
            mutations.append(mutation)
            for line in lines:
                _read_line(mutation, line)
    return mutations


def _read_line(mutation: Mutation, line: str) -> None:
    if line.startswith("-"):
        mutation.changes[-1].old.append(line[1:])
    elif line.startswith("+"):
        mutation.changes[-1].new.append(line[1:])
    elif "::" in line:
        mutation.tests.append(line.strip())
    else:
        mutation.changes.append(Change(line.strip()))


def copy_mutated(mutation: Mutation, folder: Path) -> None:
    """Copy the package into ``folder`` and make the changes there."""
    copy = folder / "exotrio"
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    for change in mutation.changes:
        (copy / change.file).write_text(change.apply(copy), "utf-8")
