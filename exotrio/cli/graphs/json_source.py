"""JSON text with the line of everything in it, so that problems can be shown where they are. Pure."""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

Place = tuple[str | int, ...]
"""Keys and indexes from the outside in: ``("nodes", 0, "inputs")``."""

DEEPEST = 100
_BLANK = " \t\r\n"


@dataclass(frozen=True, slots=True)
class Source:
    """A JSON text that was read.

    Attributes:
        value: Its value.
        lines: Place of each value to the line (from 1) on which it, or its key, begins.
        repeated: Keys that stand twice in their object; the last one counts.
    """

    value: Any
    lines: Mapping[Place, int]
    repeated: tuple[Place, ...]

    def line(self, place: Place) -> int | None:
        """Return the line of a place, or of what is around it if it is not there."""
        while place not in self.lines and place:
            place = place[:-1]
        return self.lines.get(place)


def read_json(text: str) -> Source:
    """Read a JSON text.

    Raises:
        json.JSONDecodeError: it is not JSON; it says in which line.
    """
    return _Scanner(text).read()


class _Scanner:
    """Walks objects and arrays itself, and leaves what is in them to the standard library."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._line_ends = [index for index, character in enumerate(text) if character == "\n"]
        self._lines: dict[Place, int] = {}
        self._repeated: list[Place] = []
        self._scalars = json.JSONDecoder(parse_constant=_no_constant)

    def read(self) -> Source:
        self._skip()
        self._lines[()] = self._line()
        value = self._value(())
        if self._at < len(self._text):
            self._fail("Extra data")
        return Source(value, self._lines, tuple(self._repeated))

    def _value(self, place: Place) -> Any:
        if len(place) > DEEPEST:
            self._fail("Nested too deeply")
        start = self._text[self._at : self._at + 1]
        value = (
            self._object(place) if start == "{" else self._array(place) if start == "[" else self._scalar()
        )
        self._skip()
        return value

    def _object(self, place: Place) -> dict[str, Any]:
        found: dict[str, Any] = {}
        self._advance()
        if self._takes("}"):
            return found
        while True:
            line = self._line()
            if not self._text.startswith('"', self._at):
                self._fail("Expecting a name in double quotes")
            key = self._scalar()
            inner = (*place, key)
            if key in found:
                self._repeated.append(inner)
            self._lines[inner] = line
            self._skip()
            if not self._takes(":"):
                self._fail("Expecting ':'")
            found[key] = self._value(inner)
            if self._takes("}"):
                return found
            if not self._takes(","):
                self._fail("Expecting ',' or '}'")

    def _array(self, place: Place) -> list[Any]:
        found: list[Any] = []
        self._advance()
        if self._takes("]"):
            return found
        while True:
            inner = (*place, len(found))
            self._lines[inner] = self._line()
            found.append(self._value(inner))
            if self._takes("]"):
                return found
            if not self._takes(","):
                self._fail("Expecting ',' or ']'")

    def _scalar(self) -> Any:
        start = self._at
        try:
            value, self._at = self._scalars.raw_decode(self._text, start)
            if isinstance(value, str):
                value.encode()
        except json.JSONDecodeError:
            raise
        except UnicodeEncodeError:
            self._at = start
            self._fail("Half of a surrogate pair is no text")
        except ValueError as error:  # NaN, and numbers of more digits than Python converts
            self._fail(str(error))
        return value

    def _advance(self) -> None:
        self._at += 1
        self._skip()

    def _takes(self, character: str) -> bool:
        if not self._text.startswith(character, self._at):
            return False
        self._at += 1
        # The end of an object is left to the value it ends: blanks after it are skipped there.
        if character in ",:":
            self._skip()
        return True

    def _skip(self) -> None:
        while self._at < len(self._text) and self._text[self._at] in _BLANK:
            self._at += 1

    def _line(self) -> int:
        return bisect_right(self._line_ends, self._at - 1) + 1

    def _fail(self, what: str) -> NoReturn:
        raise json.JSONDecodeError(what, self._text, self._at)


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")
