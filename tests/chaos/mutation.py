"""A safeguard taken out of a copy of the package."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import exotrio

PACKAGE = Path(exotrio.__file__).parent


class Change(Protocol):
    """What is needed of a mutation to make it."""

    @property
    def file(self) -> str: ...
    @property
    def old(self) -> str: ...
    @property
    def new(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Mutation:
    """One safeguard, switched off.

    Attributes:
        file: In the package.
        old: Text that occurs there once.
        new: What stands there instead.
        cases: Names of what should notice, tried in this order until one fails.
        others: Further safeguards against the same, switched off together with it.
    """

    file: str
    old: str
    new: str
    cases: tuple[str, ...] = ()
    others: tuple[Mutation, ...] = ()

    @property
    def all(self) -> tuple[Mutation, ...]:
        return (self, *self.others)


def mutated(folder: Path, *mutations: Change) -> Path:
    """Copy the package into ``folder``, change it there in one or more files, and return the folder."""
    copy = folder / "exotrio"
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    for mutation in mutations:
        (copy / mutation.file).write_text(changed(mutation), "utf-8")
    return folder


def changed(mutation: Change) -> str:
    """Return the text of the file once ``mutation`` is made."""
    source = (PACKAGE / mutation.file).read_text("utf-8")
    if source.count(mutation.old) != 1:
        raise ValueError(f"{mutation.file} has {source.count(mutation.old)} places like {mutation.old!r}")
    return source.replace(mutation.old, mutation.new)
