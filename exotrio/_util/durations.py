"""Durations as people write them: ``30d``, ``12h``, ``90m``, ``45s``. Pure."""

from __future__ import annotations

import re

_SECONDS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
_FORM = re.compile(r"([0-9]{1,9})([smhd])")
LONGEST = 100 * 365 * 86_400.0
"""Seconds; no calendar holds what lies much further away."""


def parse_duration(text: str) -> float:
    """Return the seconds in a duration: a whole number above zero and ``s``, ``m``, ``h`` or ``d``.

    Raises:
        ValueError: it is none, or longer than 100 years.
    """
    found = _FORM.fullmatch(text.strip())
    if found is None:
        raise ValueError(f"{text!r} is no duration: write a whole number and s, m, h or d, as in 30d or 12h")
    seconds = float(int(found[1]) * _SECONDS[found[2]])
    if not 0 < seconds <= LONGEST:
        raise ValueError(f"{text!r} is out of range: a duration is above zero and at most 100 years")
    return seconds
