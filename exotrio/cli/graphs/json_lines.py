"""JSON text with the line of each value in it. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NoReturn

JsonPath = tuple[str | int, ...]
"""Keys and indexes, the outermost first: ``("nodes", 0, "inputs")``."""

MAX_DEPTH = 100
_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[][{},:]|[^][{},:"\s]+')


@dataclass(frozen=True, slots=True)
class JsonText:
    """A JSON text that was read.

    Attributes:
        value: The value of the text.
        repeated: Keys that occur twice in their object; the last one counts.
        lines: The line of each value, from 1.
    """

    value: Any
    repeated: tuple[JsonPath, ...]
    lines: dict[JsonPath, int]

    def line(self, path: JsonPath) -> int:
        """Return the line of a value. If the path leads nowhere, the last value on it counts."""
        while path not in self.lines:
            path = path[:-1]
        return self.lines[path]


def read_json(text: str) -> JsonText:
    """Read a JSON text; ``json.JSONDecodeError`` says in which line it is not JSON."""
    depth = 0
    for match in _TOKEN.finditer(text):
        depth += (match[0] in "[{") - (match[0] in "]}")
        try:
            if depth > MAX_DEPTH:
                raise ValueError("Nested too deeply")
            value = None if match[0] in "[]{},:" else json.loads(match[0], parse_constant=_refuse_constant)
            if isinstance(value, str):
                value.encode()
        except json.JSONDecodeError:
            pass  # it is found again below, with its place in the whole text
        except UnicodeEncodeError:
            raise json.JSONDecodeError("Half of a surrogate pair is not text", text, match.start()) from None
        except ValueError as error:  # also numbers of more digits than Python converts
            raise json.JSONDecodeError(str(error), text, match.start()) from None
    value = json.loads(text)
    lines: dict[JsonPath, int] = {}
    repeated: dict[JsonPath, None] = {}
    line, counted = 1, 0
    tokens = _TOKEN.finditer(text)
    for path, token in _values(next(tokens), tokens, ()):
        line, counted = line + text.count("\n", counted, token.start()), token.start()
        if path in lines:
            repeated[path] = None
            lines = {other: at for other, at in lines.items() if other[: len(path)] != path}
        lines[path] = line
    return JsonText(value, tuple(repeated), lines)


def _values(
    token: re.Match[str], tokens: Iterator[re.Match[str]], path: JsonPath
) -> Iterator[tuple[JsonPath, re.Match[str]]]:
    """Yield the path and the first token of each value that begins with ``token``, in valid JSON."""
    yield path, token
    if token[0] not in "[{":
        return
    index = 0
    while (member := next(tokens))[0] not in "]}":
        if member[0] == ",":
            continue
        key: str | int = index
        if token[0] == "{":
            key, _, member = json.loads(member[0]), next(tokens), next(tokens)
        yield from _values(member, tokens, (*path, key))
        index += 1


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")
