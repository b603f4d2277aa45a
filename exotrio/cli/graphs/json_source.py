"""JSON text with the line of everything in it, so that problems can be shown where they are. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

Place = tuple[str | int, ...]
"""Keys and indexes from the outside in: ``("nodes", 0, "inputs")``."""

MAX_DEPTH = 100
_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[][{},:]|[^][{},:"\s]+')


@dataclass(frozen=True, slots=True)
class Source:
    """A JSON text that was read."""

    value: Any
    lines: Mapping[Place, int]
    """Place of each value to the line (from 1) on which it, or its key, begins."""
    repeated: tuple[Place, ...]
    """Keys that stand twice in their object; the last one counts."""

    def line(self, place: Place) -> int | None:
        """Return the line of a place, or of what is around it if it is not there."""
        while place not in self.lines and place:
            place = place[:-1]
        return self.lines.get(place)


def read_json(text: str) -> Source:
    """Read a JSON text; ``json.JSONDecodeError`` says in which line it is not JSON."""
    try:
        # Whether it is JSON at all. Single values that are not are refused below, with their lines.
        json.loads(text, parse_constant=str, parse_int=str)
    except RecursionError:
        raise json.JSONDecodeError("Nested too deeply", text, 0) from None
    lines: dict[Place, int] = {}
    repeated: list[Place] = []
    place: list[str | int] = []
    keys: list[set[str]] = []  # of each object or array around
    expects_key = False
    line, counted = 1, 0
    for found in _TOKEN.finditer(text):
        token, start = found[0], found.start()
        line, counted = line + text.count("\n", counted, start), start
        if token == ":":
            continue
        if token == ",":
            last = place[-1]
            expects_key = isinstance(last, str)
            place[-1] = last if isinstance(last, str) else last + 1
        elif token in ("]", "}"):
            expects_key = False
            place.pop()
            keys.pop()
        elif expects_key:
            expects_key = False
            place[-1] = key = _scalar(token, text, start)
            if key in keys[-1]:
                repeated.append(tuple(place))
            keys[-1].add(key)
            lines[tuple(place)] = line
        else:
            if not place or isinstance(place[-1], int):
                lines[tuple(place)] = line
            if token in ("[", "{"):
                expects_key = token == "{"
                place.append("" if expects_key else 0)
                keys.append(set())
                if len(place) > MAX_DEPTH:
                    raise json.JSONDecodeError("Nested too deeply", text, start)
            else:
                _scalar(token, text, start)
    return Source(json.loads(text), lines, tuple(repeated))


def _scalar(token: str, text: str, start: int) -> Any:
    """Return the value of a string, number or word, or raise the error for its place."""
    if token.startswith('"') and "\\" not in token:
        return token[1:-1]
    try:
        value = json.loads(token, parse_constant=_refuse_constant)
        if isinstance(value, str):
            value.encode()
    except UnicodeEncodeError:
        raise json.JSONDecodeError("Half of a surrogate pair is not text", text, start) from None
    except ValueError as error:  # NaN, and numbers of more digits than Python converts
        raise json.JSONDecodeError(str(error), text, start) from None
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")
