"""Texts of a run as they may be passed on: without the secrets of its graph, without control characters,
and not too long."""

from __future__ import annotations

import re
from collections.abc import Iterable

from pydantic_core import from_json, to_json

from exotrio._error_text import redact

LONGEST_VALUE = 2_000
"""Characters of one value."""
MOST_VALUES = 50
"""Values of one state, or entries of the store."""
LONGEST_PARSED = 65_536
"""Characters of JSON that are taken apart; of more the beginning is shown as it is."""

# What a terminal may obey instead of show: a report may be printed to one.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")

Pair = tuple[str, str]


class Shareable:
    """Makes texts fit to be passed on.

    Args:
        secrets: Values that are masked wherever they occur, if they have six characters or more.

    Attributes:
        spent: Characters of all texts so far.
    """

    def __init__(self, secrets: Iterable[str]) -> None:
        self._secrets = [form for value in secrets for form in (value, to_json(value).decode()[1:-1])]
        self.spent = 0

    def begin(self, text: str, longest: int = LONGEST_VALUE) -> str:
        """Return a text, or its beginning and how much is left out."""
        text = self._clean(text)
        if len(text) > longest:
            text = f"{text[:longest]}… ({len(text) - longest:,} more characters)"
        self.spent += len(text)
        return text

    def end(self, text: str, longest: int, *, before: int = 0) -> str:
        """Return a text, or its end, where an error says most, and how much is left out.

        Args:
            before: Characters that stood before and are left out already.
        """
        text = self._clean(text)
        before += max(0, len(text) - longest)
        if before:
            text = f"({before:,} characters before) …{text[-longest:]}"
        self.spent += len(text)
        return text

    def values(self, text: str, size: int) -> list[Pair]:
        """Return name and text of each value in a JSON object.

        Args:
            text: The JSON, or its beginning.
            size: Characters of all of it.
        """
        if size > len(text):
            shown = self.begin(text)
            return [("", f"{shown} ({size:,} characters of JSON in all)")]
        return self.pairs(from_json(text).items())

    def pairs(self, items: Iterable[tuple[str, object]]) -> list[Pair]:
        """Return name and text of each value."""
        given = list(items)
        shown = [
            (
                self.begin(name),
                self.begin(
                    value
                    if isinstance(value, str)
                    else to_json(value, indent=2, inf_nan_mode="constants").decode()
                ),
            )
            for name, value in given[:MOST_VALUES]
        ]
        if len(given) > MOST_VALUES:
            shown.append(("", f"… and {len(given) - MOST_VALUES:,} more"))
        return shown

    def _clean(self, text: str) -> str:
        # Before anything is cut: half a secret is not recognized.
        text = redact(text, self._secrets)
        text = text.encode("utf-8", "backslashreplace").decode()
        return _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", text)
