"""How far a running node says it is: checked, and left where others look when they want to know."""

from __future__ import annotations

import math
from dataclasses import dataclass

from exotrio._util.redaction import NO_SECRETS, Redactor

MAX_TEXT = 200
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
        redactor: Masks the state's secrets in what is said.
    """

    __slots__ = ("last", "redactor")

    def __init__(self) -> None:
        self.last: Progress | None = None
        self.redactor = NO_SECRETS

    def say(self, fraction: object, text: object) -> None:
        """Leave it here, as ``checked_progress`` makes it."""
        self.last = checked_progress(fraction, text, self.redactor)


def checked_progress(fraction: object, text: object, redactor: Redactor = NO_SECRETS) -> Progress:
    """Return the progress that these say.

    Args:
        fraction: A number from 0 to 1, or None.
        text: What cannot be printed in it becomes a blank; what is beyond 200 characters is cut off.
        redactor: Masks secrets in it.

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
    # Shortened before it is cleaned, or a node that passes a whole document would pay for all of it.
    most = 100 * MAX_TEXT
    text = redactor.redact(text[:most], cut_after=len(text) > most)[: 2 * MAX_TEXT]
    printable = "".join(c if c.isprintable() else " " for c in text)
    return Progress(fraction, " ".join(printable.split())[:MAX_TEXT])


def _kind(value: object) -> str:
    return type(value).__name__
