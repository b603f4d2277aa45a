"""Where the boxes of a graph go: layers from left to right, few crossings. Pure.

The usual three steps: each box goes one layer behind the last one that leads to it; an edge over several
layers passes through a point in each between; within a layer, boxes and points are ordered by the
average place of their neighbours, forth and back a few times. Every step is linear in what it looks at,
so a graph of the largest size (1,000 boxes) is drawn in well under a second.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

SWEEPS = 6
MAX_POINTS = 20_000
"""Points of edges that are ordered; beyond them long edges run straight."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Places in the units of one box: column (from 0) and row (from 0, in halves and thirds too).

    Attributes:
        boxes: Name to (column, row).
        edges: (from, to) to the points (column, row) it passes between the two.
        columns: How many.
        rows: Height of the highest column.
    """

    boxes: dict[str, tuple[int, float]]
    edges: dict[tuple[str, str], list[tuple[int, float]]]
    columns: int
    rows: float


def lay_out(followers: Mapping[str, Sequence[str]]) -> Layout:
    """Return where to draw a graph without cycles.

    Args:
        followers: Name to what follows it, in the order of their declaration.
    """
    layer = _layers(followers)
    columns: list[list[str]] = [[] for _ in range(max(layer.values(), default=-1) + 1)]
    for name in followers:
        columns[layer[name]].append(name)
    chains = _chains(followers, layer, columns)
    _order(columns, chains)
    rows = max((len(column) for column in columns), default=0)
    place = {
        name: (index, row + (rows - len(column)) / 2)
        for index, column in enumerate(columns)
        for row, name in enumerate(column)
    }
    return Layout(
        boxes={name: place[name] for name in followers},
        edges={ends: [place[point] for point in chain[1:-1]] for ends, chain in chains.items()},
        columns=len(columns),
        rows=rows,
    )


def _layers(followers: Mapping[str, Sequence[str]]) -> dict[str, int]:
    """Return the length of the longest way to each box."""
    leading = dict.fromkeys(followers, 0)
    for name in followers:
        for child in followers[name]:
            leading[child] += 1
    ready = [name for name, count in leading.items() if not count]
    layer = dict.fromkeys(followers, 0)
    for name in ready:
        for child in followers[name]:
            layer[child] = max(layer[child], layer[name] + 1)
            leading[child] -= 1
            if not leading[child]:
                ready.append(child)
    return layer


def _chains(
    followers: Mapping[str, Sequence[str]], layer: Mapping[str, int], columns: list[list[str]]
) -> dict[tuple[str, str], list[str]]:
    """Return each edge as the names it runs through, and enter points of its own into the columns."""
    chains = {}
    points = 0
    for name in followers:
        for child in followers[name]:
            chain = [name]
            if points < MAX_POINTS:
                for column in range(layer[name] + 1, layer[child]):
                    points += 1
                    # No name of a node holds a control character.
                    chain.append(f"\0{points}")
                    columns[column].append(chain[-1])
            chains[name, child] = [*chain, child]
    return chains


def _order(columns: list[list[str]], chains: Mapping[tuple[str, str], list[str]]) -> None:
    before: dict[str, list[str]] = {}
    after: dict[str, list[str]] = {}
    for chain in chains.values():
        for left, right in pairwise(chain):
            after.setdefault(left, []).append(right)
            before.setdefault(right, []).append(left)
    for sweep in range(SWEEPS):
        forth = sweep % 2 == 0
        neighbours = before if forth else after
        for index in range(1, len(columns)) if forth else range(len(columns) - 2, -1, -1):
            beside = columns[index - 1 if forth else index + 1]
            rank, own = _ranks(beside), _ranks(columns[index])
            middles = {}
            for name in columns[index]:
                near = [rank[other] for other in neighbours.get(name, ()) if other in rank]
                middles[name] = sum(near) / len(near) if near else own[name]
            columns[index].sort(key=middles.__getitem__)


def _ranks(column: Sequence[str]) -> dict[str, float]:
    """Return where each name stands in its column, from 0 to 1."""
    return {name: row / max(1, len(column) - 1) for row, name in enumerate(column)}
