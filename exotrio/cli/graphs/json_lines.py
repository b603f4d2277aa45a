"""JSON text with the line of each value in it. Pure."""

from __future__ import annotations

import json
import re
from bisect import bisect
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from json.decoder import JSONArray, JSONObject  # type: ignore[attr-defined]  # pure Python, without stubs
from json.scanner import py_make_scanner  # type: ignore[attr-defined]
from typing import Any, NoReturn

JsonPath = tuple[str | int, ...]
"""Keys and indexes, the outermost first: ``("nodes", 0, "inputs")``."""

MAX_DEPTH = 100

_Scan = Callable[[str, int], tuple[Any, int]]


@dataclass(frozen=True, slots=True)
class JsonText:
    """A JSON text that was read.

    Attributes:
        value: The value of the text.
        repeated: Keys that occur twice in their object; the last one counts.
    """

    value: Any
    repeated: tuple[JsonPath, ...]
    _positions: dict[int, dict[str | int, int]]
    _line_ends: list[int]
    _begin: int

    def line(self, path: JsonPath) -> int:
        """Return the line of a value, from 1. If the path leads nowhere, the last value on it counts."""
        value, position = self.value, self._begin
        for step in path:
            members = self._positions.get(id(value), {}) if isinstance(value, dict | list) else {}
            if step not in members:
                break
            value, position = value[step], members[step]
        return bisect(self._line_ends, position) + 1


def read_json(text: str) -> JsonText:
    """Read a JSON text; ``json.JSONDecodeError`` says in which line it is not JSON."""
    decoder = _Decoder()
    value = decoder.decode(text)
    line_ends = [match.start() for match in re.finditer("\n", text)]
    return JsonText(value, tuple(decoder.repeated(value)), decoder.positions, line_ends, decoder.begin[0])


class _Decoder(json.JSONDecoder):
    """The decoder of the standard library in pure Python, which records where each value begins."""

    def __init__(self) -> None:
        super().__init__(parse_constant=_refuse_constant)
        self.positions: dict[int, dict[str | int, int]] = {}
        """Id of each object and array to the positions of its members."""
        self.begin: list[int] = []
        """Position of the outermost value."""
        self._repeated: dict[int, list[str]] = {}
        self._depth = 0
        self.parse_object = self._parse_object
        self.parse_array = self._parse_array
        self.scan_once = self._recording(py_make_scanner(self), self.begin)

    def repeated(self, value: Any, path: JsonPath = ()) -> Iterator[JsonPath]:
        """Yield the repeated keys within a value that was read."""
        if not isinstance(value, dict | list):
            return
        yield from ((*path, key) for key in self._repeated.get(id(value), ()))
        for key, member in value.items() if isinstance(value, dict) else enumerate(value):
            yield from self.repeated(member, (*path, key))

    def _parse_object(self, begin: tuple[str, int], strict: bool, scan: _Scan, *_: Any) -> tuple[Any, int]:
        starts: list[int] = []
        pairs, end = JSONObject(begin, strict, self._recording(scan, starts), None, list)
        keys = [key for key, _ in pairs]
        _require_text("".join(keys), *begin)
        value = dict(pairs)
        self.positions[id(value)] = dict(zip(keys, starts, strict=True))
        self._repeated[id(value)] = [key for key, uses in Counter(keys).items() if uses > 1]
        return value, end

    def _parse_array(self, begin: tuple[str, int], scan: _Scan) -> tuple[Any, int]:
        starts: list[int] = []
        value, end = JSONArray(begin, self._recording(scan, starts))
        self.positions[id(value)] = dict(enumerate(starts))
        return value, end

    def _recording(self, scan: _Scan, starts: list[int]) -> _Scan:
        """Return a function that reads a value with ``scan`` and appends where the value begins."""

        def read(text: str, index: int) -> tuple[Any, int]:
            starts.append(index)
            if self._depth > MAX_DEPTH:
                raise json.JSONDecodeError("Nested too deeply", text, index)
            self._depth += 1
            try:
                value, end = scan(text, index)
            except json.JSONDecodeError:
                raise
            except ValueError as error:  # NaN, and numbers of more digits than Python converts
                raise json.JSONDecodeError(str(error), text, index) from None
            self._depth -= 1
            if isinstance(value, str):
                _require_text(value, text, index)
            return value, end

        return read


def _require_text(value: str, text: str, index: int) -> None:
    try:
        value.encode()
    except UnicodeEncodeError:
        raise json.JSONDecodeError("Half of a surrogate pair is not text", text, index) from None


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")
