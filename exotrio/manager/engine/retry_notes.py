"""How far the retry of a run with many failed states is (``retries``): a row of ``meta`` for each such run.

Its first transaction decides which states are retried: those that failed by then. It retries the first
portion of them; each other portion has a separate transaction (``due_work``) of any state manager, which also
changes the row, so none is lost, and none is retried twice. Meanwhile the run is held (``Changes.hold``), so
it cannot end; and no node unites a group of which a state failed: it may be about to be retried (``unites``).
After the last portion the groups of all that failed are checked, in portions, too. Then the row is deleted,
and the run may end.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from pydantic_core import from_json, to_json

from exotrio.manager.engine.changes import Changes
from exotrio.manager.engine.states import RunRow
from exotrio.manager.store.driver import put_meta
from exotrio.manager.store.transaction import Transaction
from exotrio.manager.store.view import View

RETRY = "retry 1 "
"""What the key begins with while states are retried; the number of the run follows."""
SETTLE = "retry 2 "
"""And then, while groups are checked: as long, and the next one, so that one range has both."""
RETRIED = -1
"""What ``of_retried_runs`` has for the place."""


class RetryNote(NamedTuple):
    """A retry that goes on: its request, up to which number it has passed through the states that failed
    until a time (Unix ms), and about how many it has left."""

    request_id: str
    from_beginning: bool
    until: int
    last: int
    others: int


def begin(changes: Changes, row: RunRow, note: RetryNote) -> None:
    """Begin a retry of a run, which takes the place of another one that goes on."""
    if not drop(changes.tx, row.id):
        changes.hold(row.id)
    changes.reopen(row.id)
    changes.effects.deliveries = True
    keep(changes.tx, row.id, note)


def end(changes: Changes, row: RunRow) -> None:
    """End a retry of a run, if one goes on."""
    if drop(changes.tx, row.id):
        changes.hold(row.id, -1)


def keep(tx: Transaction, run: int, note: RetryNote, key: str = RETRY) -> None:
    put_meta(tx, f"{key}{run}", to_json(note).decode())


def note_of(view: View, run: int, key: str = RETRY) -> RetryNote | None:
    row = view.row("SELECT value FROM meta WHERE key = ?", (f"{key}{run}",))
    return None if row is None else RetryNote(*from_json(row["value"]))


def drop(tx: Transaction, run: int) -> int:
    """Delete the row of a run, and return 1; 0 if it has none."""
    return tx.execute("DELETE FROM meta WHERE key IN (?, ?)", (f"{RETRY}{run}", f"{SETTLE}{run}")).rowcount


def of_retried_runs(view: View) -> str:
    """Return a SELECT of those runs that have one of ``keys_of`` as a parameter, each with ``RETRIED``."""
    number = f"CAST(substr(key, {len(RETRY) + 1}) AS BIGINT)"
    return f"SELECT {number}, {RETRIED} FROM meta WHERE {view.any_of('key')}"


def keys_of(view: View, runs: Iterable[int]) -> Any:
    return view.items([f"{RETRY}{run}" for run in sorted(runs)])
