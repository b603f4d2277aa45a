"""Texts and values as pages and exports show them: shortened, without control characters, and in exports
without secrets (``_util.redaction``)."""

from __future__ import annotations

from collections.abc import Iterable

from pydantic_core import from_json

from exotrio._util.redaction import redactor_of
from exotrio._util.words import harmless
from exotrio.manager.web.format import shorten, text_of

MAX_VALUE = 2_000
"""Characters of one value."""
MAX_VALUES = 50
"""Values of one state, or entries of the store."""

Pair = tuple[str, str]


class ShownTexts:
    """Masks, cleans and shortens the texts of one page or export, and counts their characters in ``spent``.

    Of ``secrets`` those with six characters or more are masked wherever they occur.
    """

    def __init__(self, secrets: Iterable[str]) -> None:
        self._redactor = redactor_of(secrets)
        self.spent = 0

    def masked(self, text: str, *, cut_before: bool = False, cut_after: bool = False) -> str:
        """Return a text, or a part of a longer one, with its secrets masked.

        Where it was cut, some more characters are dropped, since they may be a part of a secret.
        """
        # Masked before it is shortened, since half a secret is not recognized.
        text = self._redactor.redact(text, cut_before=cut_before, cut_after=cut_after)
        return harmless(text.encode("utf-8", "backslashreplace").decode())

    def begin(self, text: str, limit: int = MAX_VALUE, *, cut_after: bool = False) -> str:
        """Return a text, or its beginning and how much is left out. With ``cut_after`` more followed."""
        text = shorten(self.masked(text, cut_after=cut_after), limit)
        self.spent += len(text)
        return text

    def end(self, text: str, limit: int, *, before: int = 0) -> str:
        """Return a text, or its end, which says most of an error, and how much is left out.

        ``before`` counts characters that are left out already.
        """
        size = len(text)
        text = self.masked(text, cut_before=before > 0)
        if before:
            before += max(0, size - len(text))
        before += max(0, len(text) - limit)
        if before:
            text = f"({before:,} characters before) …{text[-limit:]}"
        self.spent += len(text)
        return text

    def values(self, text: str, size: int) -> list[Pair]:
        """Return name and text of each value in a JSON object of ``size`` characters; ``text`` may be cut."""
        if size > len(text):
            shown = self.begin(text, cut_after=True)
            return [("", f"{shown} ({size:,} characters of JSON in all)")]
        return self.pairs(from_json(text).items())

    def pairs(self, items: Iterable[tuple[str, object]]) -> list[Pair]:
        """Return name and text of each value."""
        values = list(items)
        shown = [(self.begin(name), self.begin(text_of(value))) for name, value in values[:MAX_VALUES]]
        if len(values) > MAX_VALUES:
            shown.append(("", f"… and {len(values) - MAX_VALUES:,} more"))
        return shown
