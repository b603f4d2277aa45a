"""Conversion of values for PostgreSQL, so that it accepts and returns the same as SQLite.

Integers have 64 bits whatever their value, so that a statement is prepared once. Booleans are 0 and 1, and
exact sums are integers. PostgreSQL refuses the character NUL in text; it is replaced by its symbol.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from functools import lru_cache
from typing import Any

import psycopg
from psycopg.abc import Buffer
from psycopg.adapt import AdaptersMap, Dumper
from psycopg.pq import Format
from psycopg.types.bool import BoolBinaryLoader
from psycopg.types.numeric import Int8BinaryDumper, NumericBinaryLoader
from psycopg.types.string import StrBinaryDumper

NUL = "\N{SYMBOL FOR NULL}"


class Row(tuple[Any, ...]):
    """One row, by name or position of its columns."""

    __slots__ = ()
    _positions: dict[str, int] = {}

    def __getitem__(self, column: Any) -> Any:
        if type(column) is str:
            try:
                column = self._positions[column]
            except KeyError:
                raise IndexError(f"no column {column}") from None
        return tuple.__getitem__(self, column)

    def keys(self) -> list[str]:
        """Return the names of the columns."""
        return list(self._positions)


@lru_cache(maxsize=2_000)
def row_class(columns: tuple[bytes | None, ...]) -> type[Row]:
    """Return what makes rows of values."""
    names = [(column or b"").decode() for column in columns]
    # Of two columns with one name the first counts.
    positions = {name: position for position, name in reversed(list(enumerate(names)))}
    ordered = {name: positions[name] for name in names}
    return type("Row", (Row,), {"__slots__": (), "_positions": ordered})


class Array(str):
    """Values as PostgreSQL writes an array; the statement says of which type they are."""

    __slots__ = ()


def array(values: Sequence[Any]) -> Array:
    """Return values as an array. Much faster than to adapt each of them.

    Most arrays have values of one type, which are written all at once.
    """
    kinds = set(map(type, values))
    if kinds == {int}:
        return Array("{" + ",".join(map(str, values)) + "}")
    if kinds == {str}:
        text = "\0".join(values)
        if text.count("\0") < len(values):
            escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\0", '","')
            return Array('{"' + escaped + '"}')
    return Array("{" + ",".join([_element(value) for value in values]) + "}")


def _element(value: Any) -> str:
    if value is None:
        return "NULL"
    if isinstance(value, str):
        return '"' + value.replace("\0", NUL).replace("\\", "\\\\").replace('"', '\\"') + '"'
    if isinstance(value, int):
        return str(int(value))
    if isinstance(value, bytes | bytearray | memoryview):
        return '"\\\\x' + bytes(value).hex() + '"'
    return repr(value)


class _ArrayDumper(Dumper):
    oid = 0  # the server takes it from the statement

    def dump(self, obj: Array) -> Buffer:
        return obj.encode()


class _TextDumper(StrBinaryDumper):
    def dump(self, obj: str) -> Buffer:
        return (obj.replace("\0", NUL) if "\0" in obj else obj).encode()


class _BoolLoader(BoolBinaryLoader):
    def load(self, data: Buffer) -> int:  # type: ignore[override]
        return int(super().load(data))


class _NumericLoader(NumericBinaryLoader):
    def load(self, data: Buffer) -> int | float:  # type: ignore[override]
        value: Decimal = super().load(data)
        return int(value) if value == value.to_integral_value() else float(value)


def _adapters() -> AdaptersMap:
    adapters = AdaptersMap(psycopg.adapters)
    for kind, dumper in (
        (int, Int8BinaryDumper),
        (bool, Int8BinaryDumper),
        (str, _TextDumper),
        (Array, _ArrayDumper),
    ):
        adapters.register_dumper(kind, dumper)
    adapters.register_loader("bool", _BoolLoader)
    adapters.register_loader("numeric", _NumericLoader)
    assert _BoolLoader.format == _NumericLoader.format == Format.BINARY
    return adapters


ADAPTERS = _adapters()
