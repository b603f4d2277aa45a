"""Parts of queries: conditions that are put together, the page of a list, and the end of a text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

T = TypeVar("T")

_LAST = "\U0010ffff"
"""Sorts after every text with the same beginning."""


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """One page of a search.

    Attributes:
        rows: What it found, in the order of the search.
        next: The cursor of the next page, if there may be one.
        searched: How many entries were searched, if the search stopped before the page was full.
    """

    rows: Sequence[T] = ()
    next: str | None = None
    searched: int | None = None


class Where:
    """The conditions of a query."""

    def __init__(self) -> None:
        self._conditions: list[str] = []
        self.parameters: list[Any] = []

    def add(self, condition: str, *parameters: Any) -> None:
        self._conditions.append(condition)
        self.parameters += parameters

    def add_one_of(self, column: str, values: Sequence[str]) -> None:
        """Require one of the values; any matches if there are none."""
        if values:
            self.add(f"{column} IN ({', '.join('?' * len(values))})", *values)

    def with_condition(self, condition: str) -> Where:
        where = Where()
        where.add(str(self), *self.parameters)
        where.add(condition)
        return where

    def __str__(self) -> str:
        return " AND ".join(self._conditions) or "TRUE"


def begins(column: str, text: str) -> tuple[str, str, str]:
    """Return the condition that a column begins with a text, by its index, and the parameters of that."""
    return f"{column} >= ? AND {column} < ?", text, text + _LAST


def end_of(column: str, characters: int) -> str:
    """Return the expression for the last characters of a text. SQLite and PostgreSQL share no shorter one."""
    first = f"CASE WHEN length({column}) > {characters} THEN length({column}) - {characters - 1} ELSE 1 END"
    return f"substr({column}, {first})"
