"""The outboxes of several processes, one file each; and those of processes that no longer run."""

from __future__ import annotations

import logging
import re
from pathlib import Path

from exotrio._runtime.options import outbox_of
from exotrio._runtime.outbox_store import read_totals
from exotrio.errors import ConfigurationError, DatabaseBusy

log = logging.getLogger("exotrio.outbox")


def left_by_absent(first: Path, count: int) -> list[int]:
    """Return the numbers of processes that no longer run, but whose outboxes hold outcomes.

    They ran with a larger ``--processes`` than ``count``. ``first`` is the outbox of the first process.
    """
    form = re.compile(rf"{re.escape(first.stem)}\.([1-9]\d*){re.escape(first.suffix)}")
    files = first.parent.iterdir() if first.parent.is_dir() else []
    numbers = [int(match[1]) for file in files if (match := form.fullmatch(file.name))]
    return [
        number for number in sorted(numbers) if number > count and _holds_outcomes(outbox_of(first, number))
    ]


def warn_of_absent(outbox: Path) -> None:
    """Log which outboxes of earlier processes hold outcomes, if this process runs without ``--processes``."""
    for number in left_by_absent(outbox, 1):
        log.error(
            "the outbox %s holds outcomes of --processes, which one process alone does not send; send them "
            "with: worker --processes 1",
            outbox_of(outbox, number),
        )


def _holds_outcomes(path: Path) -> bool:
    try:
        return read_totals(path).outcomes > 0
    except DatabaseBusy:
        return False  # a process uses it, and delivers them
    except ConfigurationError as error:
        log.error("the outbox %s of a process that does not run cannot be read: %s", path, error)
        return False
