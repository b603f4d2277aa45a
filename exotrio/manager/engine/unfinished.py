"""Changes of a run that go on in portions, since it may have hundreds of thousands of states.

The first portion is in the transaction that decides on the change; each other one has a separate transaction
of any state manager (``portions``). A row of ``meta`` says how far the change is. It is written with each
portion, so none is lost, and none happens twice.

While a run is cancelled, or moves to another version, no claim takes its states (``IS_CLOSED``): the first
transaction decides that for all of them.

While failed states are retried, the run is held (``Changes.hold``), so it cannot end; and no node unites a
group of which a state failed: it may be about to be retried (``unites``). After the last portion the groups
of all that failed are checked, in portions, too. Then the run may end.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from pydantic_core import from_json, to_json

from exotrio.manager.engine.changes import Changes
from exotrio.manager.engine.states import RunRow
from exotrio.manager.store.driver import put_meta
from exotrio.manager.store.effects import Effects
from exotrio.manager.store.transaction import Transaction
from exotrio.manager.store.view import View

CHANGES = CANCEL, MOVE, RETRY, UNITE, REPIN = "cancel", "moving", "retry 1", "retry 2", "version"
"""Pending states are cancelled (``runs``); states get another priority (``moves``); failed states are
retried, and then their groups are checked; states get the nodes of another version (``moves``). The key of a
row is such a word and the number of the run."""
SHOWN = {
    CANCEL: "being cancelled",
    MOVE: "moving to another priority",
    RETRY: "being retried",
    UNITE: "being retried",
    REPIN: "moving to another version",
}
"""What is shown of a run while a change goes on."""
_CLOSED = "key >= 'cancel ' AND key < 'cancel!' OR key >= 'version ' AND key < 'version!'"
ARE_ROWS = f"({_CLOSED} OR key >= 'moving ' AND key < 'moving!' OR key >= 'retry ' AND key < 'retry!')"
RUN = f"CAST(substr(key, {len(RETRY) + 1}) AS BIGINT)"
"""The number of the run of such a row, possibly after a space."""
IS_CLOSED = f"run IN (SELECT {RUN} FROM meta WHERE {_CLOSED})"
"""Whether no claim may take a state, since its run is cancelled or moves. A statement reads the rows once."""
PORTION = 1_000
"""Maximum of states that one transaction cancels or moves."""
HOLDS = (
    "CASE WHEN runs.pending > 0 THEN (SELECT count(*) FROM meta"
    f" WHERE key IN ('{RETRY} ' || runs.id, '{UNITE} ' || runs.id)) ELSE 0 END"
)
"""How many of the pending states of a run are none: 1 if a retry that goes on holds it."""


class Retry(NamedTuple):
    """A retry that goes on: its request, up to which number it has passed through the states that failed
    until a time (Unix ms), and about how many it has left."""

    request_id: str
    from_beginning: bool
    until: int
    last: int
    others: int


def key_of(change: str, run: int) -> str:
    return f"{change} {run}"


def keep(tx: Transaction, effects: Effects, run: int, change: str, content: Iterable[object]) -> None:
    """Let a change go on, and keep how far it is: what its next portion takes."""
    put_meta(tx, key_of(change, run), to_json([*content]).decode())
    effects.deliveries = True


def kept(view: View, run: int) -> dict[str, list[Any]]:
    """Return what is kept of the changes of a run that go on, by their names."""
    keys = view.items([key_of(change, run) for change in CHANGES])
    rows = view.execute(f"SELECT key, value FROM meta WHERE {view.any_of('key')} ORDER BY key", (keys,))
    return {key.rpartition(" ")[0]: from_json(value) for key, value in rows}


def shown_changes(view: View, run: int) -> list[str]:
    """Return what is shown of the changes of a run that go on."""
    return [SHOWN[change] for change in kept(view, run)]


def drop(tx: Transaction, run: int, changes: Iterable[str] = CHANGES) -> int:
    """Let changes of a run go on no more; return how many did."""
    keys = tx.items([key_of(change, run) for change in changes])
    return tx.execute(f"DELETE FROM meta WHERE {tx.any_of('key')}", (keys,)).rowcount


def begin_retry(changes: Changes, row: RunRow, retry: Retry) -> None:
    """Let a retry of a run go on, in place of another one that does."""
    if not drop(changes.tx, row.id, (RETRY, UNITE)):
        changes.hold(row.id)
    changes.reopen(row.id)
    keep(changes.tx, changes.effects, row.id, RETRY, retry)


def end_retry(changes: Changes, row: RunRow) -> int:
    """End a retry of a run, if one goes on; return how many did."""
    ended = drop(changes.tx, row.id, (RETRY, UNITE))
    if ended:
        changes.hold(row.id, -1)
    return ended
