"""What ``doctor`` found, and what can be done about it. Pure."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing worth saying.

    Attributes:
        what: In one line.
        fix: What can be done about it.
        attention: It needs attention; else it is only good to know.
    """

    what: str
    fix: str = ""
    attention: bool = True


def note(what: str, fix: str = "") -> Finding:
    """Return something that is only good to know."""
    return Finding(what, fix, attention=False)


def first_of(names: list[str], most: int = 5) -> str:
    """Return names in a row, the first ones of many."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def are(count: int, *, past: bool = False) -> str:
    """Return the verb for so many things."""
    if past:
        return "was" if count == 1 else "were"
    return "is" if count == 1 else "are"


def bytes_text(count: int) -> str:
    """Return a number of bytes in the unit that fits."""
    size = float(count)
    for unit in ("bytes", "KB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "bytes" or size >= 100 else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:,.1f} GB"
