"""The known name that is closest to a mistyped one, and lists of names, for messages. Pure."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def closest(name: str, known: Iterable[str], *, cutoff: float = 0.6) -> str | None:
    """Return the known name that ``name`` most resembles, or None if none is close.

    Args:
        cutoff: How similar they must be; 1 is equal. Use more for ids, which are similar by chance.
    """
    spellings: dict[str, str] = {}
    for each in known:
        # Wrong capitals are the most frequent mistake in names, and difflib counts each as a difference.
        spellings.setdefault(each.casefold(), each)
    close = difflib.get_close_matches(name.casefold(), spellings, n=1, cutoff=cutoff)
    return spellings[close[0]] if close else None


def meant(name: str, known: Iterable[str]) -> str:
    """Return ``; did you mean 'x'?`` for the end of a message, or nothing."""
    close = closest(name, known)
    return "" if close is None else f"; did you mean {close!r}?"
