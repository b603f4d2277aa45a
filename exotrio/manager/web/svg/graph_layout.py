"""Positions of the boxes of a graph: layers from left to right, with few crossings. Pure.

The usual three steps of layered drawing: each box goes one layer after the last box that leads to it; an
edge over several layers passes through a point in each layer between; within a layer, boxes and points are
ordered by the average position of their neighbours, in a few sweeps forward and back. Every step takes
linear time, so a graph of the largest size (1,000 boxes) is drawn in well under a second.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from graphlib import TopologicalSorter
from itertools import pairwise

SWEEPS = 6
MAX_POINTS = 20_000
"""Points of edges that are ordered; beyond that, long edges run straight."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Positions in units of one box: column (from 0) and row (from 0, may be a fraction).

    ``edges`` has the points that each edge, (from, to), passes; ``rows`` is the height of the tallest column.
    """

    boxes: dict[str, tuple[int, float]]
    edges: dict[tuple[str, str], list[tuple[int, float]]]
    columns: int
    rows: float


def lay_out(followers: Mapping[str, Sequence[str]]) -> Layout:
    """Return the layout of a graph without cycles: name to followers, in the order of declaration."""
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
    """Return the length of the longest path to each box."""
    layer = dict.fromkeys(followers, 0)
    # For the sorter the followers of a box are its predecessors, so it puts them first.
    for name in reversed([*TopologicalSorter(followers).static_order()]):
        for child in followers[name]:
            layer[child] = max(layer[child], layer[name] + 1)
    return layer


def _chains(
    followers: Mapping[str, Sequence[str]], layer: Mapping[str, int], columns: list[list[str]]
) -> dict[tuple[str, str], list[str]]:
    """Return each edge as the names that it passes, and add its points to the columns."""
    chains = {}
    points = 0
    for name in followers:
        for child in followers[name]:
            chain = [name]
            if points < MAX_POINTS:
                for column in range(layer[name] + 1, layer[child]):
                    points += 1
                    # A control character cannot occur in a name.
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
        forward = sweep % 2 == 0
        neighbours = before if forward else after
        for index in range(1, len(columns)) if forward else range(len(columns) - 2, -1, -1):
            neighbour_column = columns[index - 1 if forward else index + 1]
            rank, own = _ranks(neighbour_column), _ranks(columns[index])
            middles = {}
            for name in columns[index]:
                near = [rank[other] for other in neighbours.get(name, ()) if other in rank]
                middles[name] = sum(near) / len(near) if near else own[name]
            columns[index].sort(key=middles.__getitem__)


def _ranks(column: Sequence[str]) -> dict[str, float]:
    """Return the position of each name in its column, from 0 to 1."""
    return {name: row / max(1, len(column) - 1) for row, name in enumerate(column)}
