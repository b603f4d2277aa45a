"""What a database's driver gives: connections and rows. Only its own folder knows more of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Protocol


class Row(Protocol):
    """One row, by name or position of its columns; ``dict`` makes a dictionary of it."""

    def keys(self) -> list[str]: ...

    def __getitem__(self, column: str | int, /) -> Any: ...

    def __iter__(self) -> Iterator[Any]: ...


class Rows(Protocol):
    """What a statement found or changed."""

    @property
    def rowcount(self) -> int: ...

    def __iter__(self) -> Iterator[Any]: ...

    def fetchone(self) -> Any: ...

    def fetchall(self) -> list[Any]: ...

    def close(self) -> None: ...


class Connection(Protocol):
    """A connection whose transactions are begun and ended by statements."""

    @property
    def total_changes(self) -> int: ...

    def execute(self, sql: str, parameters: tuple[Any, ...] = ..., /) -> Rows: ...

    def executemany(self, sql: str, parameters: Iterable[tuple[Any, ...]], /) -> Rows: ...

    def serialize(self) -> bytes: ...
