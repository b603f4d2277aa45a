"""Texts of a run as they may be passed on: without the secrets of its graph, without control characters,
and not too long."""

from __future__ import annotations

from collections.abc import Iterable

from pydantic_core import from_json, to_json

from exotrio._util.redaction import Redactor
from exotrio._util.terminal_text import harmless

LONGEST_VALUE = 2_000
"""Characters of one value."""
MOST_VALUES = 50
"""Values of one state, or entries of the store."""
LONGEST_PARSED = 65_536
"""Characters of JSON that are taken apart; of more the beginning is shown as it is."""

Pair = tuple[str, str]


class Shareable:
    """Makes texts fit to be passed on.

    Args:
        secrets: Values that are masked wherever they occur, if they have six characters or more.

    Attributes:
        spent: Characters of all texts so far.
    """

    def __init__(self, secrets: Iterable[str]) -> None:
        self._redactor = Redactor(secrets)
        self.spent = 0

    def masked(self, text: str, *, cut_before: bool = False, cut_after: bool = False) -> str:
        """Return a text, or a part of a longer one, with what must not be passed on masked.

        Args:
            cut_before: It began earlier. Some of its begin is dropped: it may be the rest of a secret.
            cut_after: It goes on, and loses as much at its end.
        """
        # Before anything else is shortened: half a secret is not recognized.
        text = self._redactor.redact(text, cut_before=cut_before, cut_after=cut_after)
        return harmless(text.encode("utf-8", "backslashreplace").decode())

    def begin(self, text: str, longest: int = LONGEST_VALUE, *, cut_after: bool = False) -> str:
        """Return a text, or its beginning and how much is left out.

        Args:
            cut_after: It goes on behind what is given.
        """
        text = self.masked(text, cut_after=cut_after)
        if len(text) > longest:
            text = f"{text[:longest]}… ({len(text) - longest:,} more characters)"
        self.spent += len(text)
        return text

    def end(self, text: str, longest: int, *, before: int = 0) -> str:
        """Return a text, or its end, where an error says most, and how much is left out.

        Args:
            before: Characters that stood before and are left out already.
        """
        given = len(text)
        text = self.masked(text, cut_before=before > 0)
        if before:
            before += max(0, given - len(text))
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
            shown = self.begin(text, cut_after=True)
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
