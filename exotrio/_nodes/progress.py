"""The progress that a running node reports: checked, and kept where heartbeats and logs read it."""

from __future__ import annotations

import math
from dataclasses import dataclass

from exotrio._util.redaction import NO_SECRETS, Redactor

MAX_TEXT = 200
"""Characters kept of a text: it is shown in one line, and sent with every heartbeat."""


@dataclass(frozen=True, slots=True)
class Progress:
    """The last progress of a node: from 0 to 1, or None if it cannot tell; and a line of printable text."""

    fraction: float | None
    text: str = ""

    def __str__(self) -> str:
        # Whole percent, rounded down: 100 % is for what is done.
        percent = [] if self.fraction is None else [f"{int(self.fraction * 100 + 1e-9)} %"]
        return ": ".join([*percent, *filter(None, [self.text])])


@dataclass(eq=False, slots=True)
class ProgressView:
    """The progress of one execution. Any thread may write or read it: it is one attribute."""

    last: Progress | None = None
    redactor: Redactor = NO_SECRETS

    def say(self, fraction: object, text: object) -> None:
        """Keep a progress, checked by ``checked_progress``."""
        self.last = checked_progress(fraction, text, self.redactor)


def checked_progress(fraction: object, text: object, redactor: Redactor = NO_SECRETS) -> Progress:
    """Return these as a progress.

    In its text, characters that cannot be printed become blanks, and those beyond 200 are left out.

    Raises:
        ValueError: ``fraction`` is out of range.
        TypeError: one of them has another type.
    """
    if fraction is not None:
        if isinstance(fraction, bool) or not isinstance(fraction, int | float):
            raise TypeError(f"progress: the fraction must be a number or None, not {type(fraction).__name__}")
        if math.isnan(fraction) or not 0 <= fraction <= 1:
            raise ValueError(f"progress: the fraction is {fraction!r:.40}: it must be from 0 to 1, or None")
        fraction = float(fraction)
    if not isinstance(text, str):
        raise TypeError(f"progress: the text must be a str, not {type(text).__name__}")
    # Shortened before it is cleaned, or a node that passes a whole document would pay for all of it.
    limit = 100 * MAX_TEXT
    text = redactor.redact(text[:limit], cut_after=len(text) > limit)[: 2 * MAX_TEXT]
    printable = "".join(c if c.isprintable() else " " for c in text)
    return Progress(fraction, " ".join(printable.split())[:MAX_TEXT])
