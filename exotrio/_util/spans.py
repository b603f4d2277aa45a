"""How spans of time and shares read, on a page and in a terminal. Pure."""

from __future__ import annotations


def duration(ms: float | None) -> str:
    """Return a span such as ``850 ms``, ``1.6 s``, ``4 min 10 s`` or ``3 d 2 h``."""
    if ms is None:
        return "—"
    ms = max(0.0, ms)
    if ms < 1_000:
        return f"{ms:.0f} ms"
    if ms < 59_950:
        return f"{ms / 1000:.1f} s"
    minutes, seconds = divmod(round(ms / 1000), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    named = [(days, "d"), (hours, "h"), (minutes, "min"), (seconds, "s")]
    while not named[0][0]:
        del named[0]
    return " ".join(f"{count} {unit}" for count, unit in named[:2] if count)


def coarse(ms: float) -> str:
    """Return a span by its largest unit only."""
    seconds = int(max(0.0, ms) / 1000)
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"


def percent(part: int, whole: int) -> str:
    """Return a share, never rounded to none or all when it is neither."""
    if not whole:
        return "—"
    share = 100 * part / whole
    if 0 < share < 0.1:
        return "< 0.1 %"
    if 99.9 < share < 100:
        return "> 99.9 %"
    return f"{share:.1f} %" if part and part != whole else f"{share:.0f} %"
