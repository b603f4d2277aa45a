"""How far a running node says it is: checked, and left where others look when they want to know."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from exotrio._error_text import redact

LONGEST_TEXT = 200
"""Characters kept of a text: it goes on one line, and travels with every heartbeat."""


@dataclass(frozen=True, slots=True)
class Progress:
    """What a node said last.

    Attributes:
        fraction: From 0 to 1; None if the node cannot tell.
        text: One line of printable characters, perhaps empty.
    """

    fraction: float | None
    text: str = ""

    def __str__(self) -> str:
        return " ".join(([] if self.fraction is None else [f"{self.fraction:.3g}"]) + [self.text]).strip()


class ProgressView:
    """Where one execution leaves its progress. Any thread may write or read it: it is one attribute.

    Attributes:
        last: What was said last.
        secrets: Values that are masked in what is said.
    """

    __slots__ = ("last", "secrets")

    def __init__(self) -> None:
        self.last: Progress | None = None
        self.secrets: tuple[str, ...] = ()

    def say(self, fraction: object, text: object) -> None:
        """Leave it here, as ``checked_progress`` makes it."""
        self.last = checked_progress(fraction, text, self.secrets)


def checked_progress(fraction: object, text: object, secrets: Iterable[str] = ()) -> Progress:
    """Return the progress that these say.

    Args:
        fraction: A number from 0 to 1, or None.
        text: What cannot be printed in it becomes a blank; what is beyond 200 characters is cut off.
        secrets: Values that are masked in it.

    Raises:
        ValueError: ``fraction`` is out of range.
        TypeError: one of them is of another kind.
    """
    if fraction is not None:
        if isinstance(fraction, bool) or not isinstance(fraction, int | float):
            raise TypeError(f"progress: the fraction must be a number or None, not {_kind(fraction)}")
        if math.isnan(fraction) or not 0 <= fraction <= 1:
            raise ValueError(f"progress: the fraction is {fraction!r:.40}: it must be from 0 to 1, or None")
        fraction = float(fraction)
    if not isinstance(text, str):
        raise TypeError(f"progress: the text must be a str, not {_kind(text)}")
    # Cut before it is cleaned, or a node that passes a whole document would pay for all of it; but not
    # where the first half of a secret would be left.
    text = redact(text[: 100 * LONGEST_TEXT], secrets)[: 2 * LONGEST_TEXT]
    printable = "".join(c if c.isprintable() else " " for c in text)
    return Progress(fraction, " ".join(printable.split())[:LONGEST_TEXT])


def _kind(value: object) -> str:
    return type(value).__name__
