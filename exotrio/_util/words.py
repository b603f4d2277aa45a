"""Counts, sizes, lists, signals, mistyped names and validation errors as text; and text of any origin made
safe for a terminal, a log or a page. Pure."""

from __future__ import annotations

import difflib
import heapq
import re
import signal
from collections.abc import Iterable

# C0, C1 and DEL; characters that change the direction of text; those that some programs treat as line ends.
# Tabs and line ends are kept; one_line escapes them, too.
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")


MAX_COMPARED = 64
"""Characters of a name that is compared with others. To compare two may take the cube of their length."""
MAX_CANDIDATES = 3
"""Names with which one is compared in full: those with the most characters in common."""


def plural(count: int, noun: str) -> str:
    """Return ``1 line``, ``2 lines``, ``1,000 lines``."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def listed(names: Iterable[str], limit: int = 10, separator: str = ", ") -> str:
    """Return names in one line, only the first ones of many: ``a, b and 3 more``; ``none`` without any."""
    known = list(names)
    more = f" and {len(known) - limit:,} more" if len(known) > limit else ""
    return (separator.join(known[:limit]) + more) or "none"


def shortened(text: str, limit: int) -> str:
    """Return ``text``, or its beginning followed by ``...``: at most ``limit`` characters."""
    return text if len(text) <= limit else f"{text[: limit - 3]}..."


def closest(name: str, known: Iterable[str], *, cutoff: float = 0.6) -> str | None:
    """Return the known name that ``name`` most resembles, or None if none is close.

    Args:
        cutoff: How similar they must be; 1 is equal. Use more for ids, which are similar by chance.
    """
    folded, spellings = name.casefold(), dict[str, str]()
    for each in known:
        # Wrong capitals are the most frequent mistake in names; difflib would count each as a difference.
        spellings.setdefault(each.casefold(), each)
    matcher = difflib.SequenceMatcher(b=folded[:MAX_COMPARED])
    likely: list[tuple[float, str]] = []
    for each in spellings:
        if max(len(folded), len(each)) <= MAX_COMPARED:
            matcher.set_seq1(each)
            likely.append((matcher.quick_ratio(), each))
    candidates = [each for _, each in heapq.nlargest(MAX_CANDIDATES, likely)]
    close = difflib.get_close_matches(folded, candidates, n=1, cutoff=cutoff)
    return spellings[close[0]] if close else None


def suggestion(name: str, known: Iterable[str]) -> str:
    """Return ``; did you mean 'x'?`` for the end of a message, or nothing."""
    close = closest(name, known)
    return "" if close is None else f"; did you mean {close!r}?"


def percent(part: int, whole: int) -> str:
    """Return a share such as ``33.3 %``, never rounded to none or all when it is neither."""
    if not whole:
        return "—"
    share = 100 * part / whole
    if 0 < share < 0.1:
        return "< 0.1 %"
    if 99.9 < share < 100:
        return "> 99.9 %"
    return f"{share:.1f} %" if part and part != whole else f"{share:.0f} %"


def signal_name(code: int) -> str:
    """Return the name of the signal that killed a process, from its exit code below zero."""
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"


def readable_errors(error: Exception) -> list[str]:
    """Return each problem of a ValidationError in one line, ``field.0: what is wrong``; of any other
    error its text.

    Never ``str`` of a ValidationError instead: that quotes the values, which may be secret.
    """
    from pydantic import ValidationError  # here, since most of what imports this module needs no pydantic

    if not isinstance(error, ValidationError):
        return [str(error)]
    details = error.errors(include_url=False, include_input=False, include_context=False)
    return [
        ": ".join(filter(None, (".".join(map(str, each["loc"])), each["msg"].removeprefix("Value error, "))))
        for each in details
    ]


def bytes_text(count: int) -> str:
    """Return a number of bytes such as ``1.5 MB``."""
    size = float(count)
    for unit in ("bytes", "KB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "bytes" or size >= 100 else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:,.1f} GB"


def harmless(text: str) -> str:
    """Return ``text`` with each control character that a terminal would obey as ``\\xNN`` or ``\\uNNNN``."""
    return _CONTROLS.sub(_escape, text)


def one_line(text: str) -> str:
    """Return ``text`` as ``harmless`` does, with its line ends and tabs as ``\\n`` and ``\\t``."""
    return harmless(text.replace("\n", "\\n").replace("\t", "\\t"))


def harmless_json(text: str) -> str:
    """Return equivalent JSON, with each control character that a terminal would obey as ``\\uNNNN``."""
    return _CONTROLS.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def _escape(match: re.Match[str]) -> str:
    code = ord(match[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
