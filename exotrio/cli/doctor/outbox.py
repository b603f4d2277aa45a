"""What an outbox holds."""

from __future__ import annotations

from pathlib import Path

from exotrio._runtime.outbox_store import read_totals
from exotrio._util.terminal_text import one_line
from exotrio._util.words import plural
from exotrio.cli.doctor.findings import Finding, info
from exotrio.errors import ConfigurationError, DatabaseBusy


def examine_outbox(path: Path) -> Finding:
    """Return what there is to say of an outbox. Nothing in it is sent or changed."""
    if not path.is_file():
        fix = "check the path: it is outbox=... of the Runtime, seen from the folder that was started in"
        return Finding(f"there is no outbox {path}", fix)
    try:
        found = read_totals(path)
    except DatabaseBusy as error:
        return info(error.what)
    except ConfigurationError as error:
        return Finding(error.what, error.fix)
    whose = f"namespace {one_line(found.namespace)} at {one_line(found.uri)}"
    if not found.outcomes:
        return info(f"the outbox {path}, for {whose}, is empty: nothing is left over")
    unknown = f", {found.begun} of which may have arrived" if found.begun else ""
    holds = f"holds {plural(found.outcomes, 'outcome')} for {whose}{unknown}"
    return Finding(
        f"the outbox {path} {holds}, and no runtime uses it",
        "start its runtime again: it sends them before it claims anything",
    )
