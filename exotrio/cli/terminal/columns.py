"""Tables that fit a width: names give way first, then columns that may be missing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.text import Text

GAP = 2
LEAST_FLEXIBLE = 12
"""Width that a name keeps as long as other columns can be left out."""


@dataclass(frozen=True, slots=True)
class Column:
    """One column.

    Attributes:
        right: Its cells stand at its right end.
        flexible: It is made narrower if the table is too wide. Else its cells are never cut.
        missing: It may be left out; of several the one with the highest number first.
    """

    head: str
    right: bool = True
    flexible: bool = False
    missing: int = 0


def table_lines(columns: Sequence[Column], rows: Sequence[Sequence[Text]], width: int) -> list[Text]:
    """Return a head and the rows, none wider than ``width``."""
    kept = list(range(len(columns)))
    natural = [
        max([len(column.head), *(row[index].cell_len for row in rows)])
        for index, column in enumerate(columns)
    ]

    def room() -> int:
        """Return what is left for the flexible columns."""
        fixed = sum(natural[index] for index in kept if not columns[index].flexible)
        return width - fixed - GAP * (len(kept) - 1)

    while room() < sum(
        min(natural[index], LEAST_FLEXIBLE) for index in kept if columns[index].flexible
    ) and any(columns[index].missing for index in kept):
        kept.remove(max(kept, key=lambda index: columns[index].missing))
    widths = dict(enumerate(natural))
    flexible = [index for index in kept if columns[index].flexible]
    left = room()
    # The narrow ones first: what they do not need is the others'.
    for count, index in enumerate(sorted(flexible, key=lambda index: natural[index])):
        widths[index] = max(1, min(natural[index], left // (len(flexible) - count)))
        left -= widths[index]
    heads = [Text(column.head, style="bold") for column in columns]
    return [_line(columns, cells, kept, widths) for cells in (heads, *rows)]


def _line(
    columns: Sequence[Column], cells: Sequence[Text], kept: Sequence[int], widths: dict[int, int]
) -> Text:
    line = Text(no_wrap=True)
    for position, index in enumerate(kept):
        cell = cells[index].copy()
        cell.truncate(widths[index], overflow="ellipsis")
        cell.align("right" if columns[index].right else "left", widths[index])
        line.append(" " * (GAP if position else 0))
        line.append_text(cell)
    line.rstrip()
    return line
