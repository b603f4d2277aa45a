"""The benchmark of this tree and that of another commit, in alternate rounds.

Only ratios within a round can be trusted on a machine that others use, too. The other commit is installed
from a worktree into a separate environment, since what it needs may differ.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.bench.figures import Comparison
from tests.bench.places import ROOT
from tests.support.environments import make_environment


@dataclass
class Tree:
    """A tree and the Python that has what it needs."""

    folder: Path
    python: Path
    values: dict[tuple[str, str], list[float]] = field(default_factory=lambda: defaultdict(list))
    """By name and unit of a figure: one value for each round."""

    def measure(self, arguments: list[str]) -> None:
        """Run one round."""
        command = [str(self.python), "-m", "tests.bench", "--runs", "1", "--output", "json", *arguments]
        done = subprocess.run(command, cwd=self.folder, check=True, stdout=subprocess.PIPE, text=True)
        figures: list[dict[str, Any]] = json.loads(done.stdout)
        for figure in figures:
            self.values[figure["name"], figure["unit"]].append(figure["median"])


@contextmanager
def checked_out(revision: str, folder: Path) -> Iterator[Tree]:
    """A worktree of another commit, with a separate environment."""
    tree, environment = folder / "tree", folder / "environment"
    _run("git", "-C", ROOT, "worktree", "add", "--quiet", "--detach", tree, revision)
    try:
        yield Tree(tree, Path(make_environment(environment, "--editable", f"{tree}[test]")))
    finally:
        _run("git", "-C", ROOT, "worktree", "remove", "--force", tree)


def compare(revision: str, arguments: list[str], runs: int, folder: Path) -> list[Comparison]:
    """Return how the figures that both trees have compare, in the order of this tree."""
    ours = Tree(ROOT, Path(sys.executable))
    with checked_out(revision, folder) as theirs:
        for number in range(runs):
            # The second one has warmer caches, so they take turns.
            for tree in (theirs, ours) if number % 2 else (ours, theirs):
                print(f"round {number + 1} of {runs}: {tree.folder.name}", file=sys.stderr, flush=True)
                tree.measure(arguments)
    return [
        Comparison(name, unit, tuple(theirs.values[name, unit]), tuple(values))
        for (name, unit), values in ours.values.items()
        if (name, unit) in theirs.values
    ]


def _run(*command: str | Path) -> None:
    subprocess.run(command, check=True)
