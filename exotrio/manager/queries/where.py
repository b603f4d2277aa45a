"""Parts of queries: conditions that are put together, and the end of a text."""

from __future__ import annotations

from typing import Any


class Where:
    """The conditions of a query."""

    def __init__(self) -> None:
        self._conditions: list[str] = []
        self.parameters: list[Any] = []

    def add(self, condition: str, *parameters: Any) -> None:
        self._conditions.append(condition)
        self.parameters += parameters

    def __str__(self) -> str:
        return " AND ".join(self._conditions) or "TRUE"


def end_of(column: str, characters: int) -> str:
    """Return the expression for the last characters of a text. The engines' own have nothing in common."""
    first = f"CASE WHEN length({column}) > {characters} THEN length({column}) - {characters - 1} ELSE 1 END"
    return f"substr({column}, {first})"
