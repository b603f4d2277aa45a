"""How counts, shares and what pydantic found wrong read in a sentence. Pure."""

from __future__ import annotations

from pydantic import ValidationError


def plural(count: int, noun: str) -> str:
    """Return ``1 state``, ``2 states``, ``1,000 states``."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


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


def readable_errors(error: ValidationError) -> list[str]:
    """Return each problem in one line, ``field.0: what is wrong``.

    Never ``str(error)`` instead: that quotes the values, which may be secret.
    """
    found = error.errors(include_url=False, include_input=False, include_context=False)
    return [
        ": ".join(filter(None, (".".join(map(str, each["loc"])), each["msg"].removeprefix("Value error, "))))
        for each in found
    ]
