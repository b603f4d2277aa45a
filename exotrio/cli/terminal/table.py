"""A table as lines of text that fit a width. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table
from rich.text import Text

GAP = 2
MIN_NAME = 12
"""Minimum width of a name; columns are left out before names become narrower."""


@dataclass(frozen=True, slots=True)
class Column:
    head: str
    right: bool = True
    """Its cells are aligned to the right."""
    flexible: bool = False
    """It is made narrower first if the table is too wide."""
    missing: int = 0
    """0, or it may be left out: the column with the highest number first."""


def table_lines(
    columns: Sequence[Column], rows: Sequence[Sequence[Text]], width: int, *, if_empty: str = ""
) -> list[Text]:
    """Return a head and the rows, or the text ``if_empty``, none wider than ``width``."""
    needed = []
    for index, column in enumerate(columns):
        natural = max(len(column.head), *(row[index].cell_len for row in rows), 0)
        needed.append(min(natural, MIN_NAME) if column.flexible else natural)
    kept = list(range(len(columns)))
    while sum(needed[index] + GAP for index in kept) - GAP > width:
        first = max(kept, key=lambda index: columns[index].missing)
        if not columns[first].missing:
            break
        kept.remove(first)
    table = Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0), header_style="bold")
    for column in (columns[index] for index in kept):
        table.add_column(
            column.head,
            justify="right" if column.right else "left",
            no_wrap=not column.flexible,  # in rich: of fixed width, if there is room
            overflow="ellipsis",
        )
    for row in rows:
        for cell in row:
            cell.no_wrap = True
        table.add_row(*(row[index] for index in kept))
    console = Console(width=width, legacy_windows=False)
    lines = [
        Text.assemble(*((part.text, part.style or "") for part in line))
        for line in console.render_lines(table, pad=False)
    ]
    return lines if rows or not if_empty else [*lines, Text(if_empty, style="dim")]
