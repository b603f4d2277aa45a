"""What is said of attempts that failed, and of outcomes that the state manager refuses.

Only the state manager knows whether a state is tried again, and when: it says so when it records the error.
"""

from __future__ import annotations

import logging
import re
from dataclasses import replace
from typing import TYPE_CHECKING

from exotrio._execution.error_text import bounded
from exotrio._execution.handle import claim_fields
from exotrio._nodes.outcome import Errored, Report
from exotrio._runtime.held_claim import HeldClaim
from exotrio._util.error_message import message_line
from exotrio._util.times import format_duration
from exotrio._wire.vocabulary import from_ms

if TYPE_CHECKING:
    from exotrio._wire.native import AfterError

log = logging.getLogger("exotrio.worker")

_FRAME = re.compile(r'^[ |]*File "(.+)", line (\d+), in (.+)$', re.MULTILINE)
"""One of the lines of a traceback, which end with the one that raised the error."""


def log_error(held: HeldClaim, errored: Errored, after: AfterError | None) -> None:
    """Log an error that is recorded: in one line if the state is tried again, else with its traceback.

    ``after`` is None if the state manager does not say what follows.
    """
    attempt = "" if held.claim.attempt is None else f": attempt {held.claim.attempt}"
    is_final, follows = True, ""
    if after is not None:
        attempt += f" of {after.attempts}" if attempt and after.attempts else ""
        is_final = not after.retried
        if after.delay_ms is not None:
            follows = f", again in {format_duration(from_ms(after.delay_ms))}"
        elif after.retried:
            follows = ", and is tried again"
        elif not errored.retry:
            follows = ", and is not tried again"
    line = message_line(errored.error)
    traceback = None if errored.error == line else errored.error
    level = logging.ERROR if is_final else logging.WARNING
    if log.isEnabledFor(level):
        extra = claim_fields(held.claim) | ({} if after is None else {"final": is_final})
        args = (held, held.run_and_graph, attempt, follows, line)
        path, number, function = _place(errored.error)
        record = log.makeRecord(
            log.name, level, path, number, "%s%s%s failed%s: %s", args, None, function, extra
        )
        if is_final:
            record.exc_text = traceback
        log.handle(record)
    if traceback and not is_final:
        log.debug("%s", traceback)


def _place(error: str) -> tuple[str, int, str]:
    """Return the file, the line and the function where the node raised an error, or else this place."""
    if frames := _FRAME.findall(error):
        path, number, function = frames[-1]
        return path, int(number), function
    return log.findCaller()[:3]


def log_unreported_error(held: HeldClaim, errored: Errored) -> None:
    """Log an error that could not be reported yet: this process may be killed before it is."""
    line = message_line(errored.error)
    log.warning("%s%s failed, which is not reported yet: %s", held, held.run_and_graph, line)


def in_place_of(report: Report | None, why: str) -> Errored:
    """Return the error that is reported in place of what the state manager refused."""
    if isinstance(report, Errored):
        error = f"{message_line(report.error)} (the state manager refused more of this error: {why})"
        return replace(report, error=bounded(error))
    return Errored(bounded(f"the state manager refused what the node returned: {why}"))
