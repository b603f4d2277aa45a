"""Checkpoints: the last value that the node of a state set, for its next execution.

A state has at most one row in ``checkpoints``, and ``checkpoint_size`` in its own row says whether it has, so
a state without one costs no statement. A use case that changes a checkpoint has locked the state.

Callers check that a value comes from the holder of the state's last token. Its values have numbers: one that
arrives late, since a proxy delayed a heartbeat, is not stored. Numbers are compared only under one token.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from exotrio._wire.native import Checkpoint
from exotrio.manager.engine.states import State, size_of
from exotrio.manager.store.driver import Row
from exotrio.manager.store.transaction import Transaction
from exotrio.manager.store.view import View

Saved = tuple[int, str, Checkpoint]
"""The number of a state, the token under which it is held, and a value that its holder sent."""
_COLUMNS = ("state", "token", "number", "value", "at")
_REPLACED = f"(state) DO UPDATE SET {', '.join(f'{column} = excluded.{column}' for column in _COLUMNS[1:])}"


def read_checkpoints(view: View, seqs: Collection[int], columns: str = "number, value, at") -> dict[int, Row]:
    """Return the stored checkpoints of these states, by the number of the state."""
    if not seqs:
        return {}
    which = f"SELECT state, {columns} FROM checkpoints WHERE {view.any_of('state')}"
    return {row["state"]: row for row in view.execute(which, (view.items(sorted(seqs)),))}


class CheckpointChanges:
    """Changes of checkpoints: gathered first, and written by ``apply``."""

    def __init__(self, saved: Sequence[Saved] = ()) -> None:
        self._saved = list(saved)
        self._moved: list[tuple[State, int]] = []
        self._erased: list[int] = []

    def save(self, state: State, token: str, checkpoint: Checkpoint) -> None:
        """Store a value if it is newer than the stored one."""
        self._saved.append((state.seq, token, checkpoint))
        # So that ``move`` finds one.
        state.checkpoint_size = state.checkpoint_size or 0

    def move(self, state: State, attempt: int) -> None:
        """Give the checkpoint of a state, if it has one, to the new attempt that replaces it."""
        if state.checkpoint_size is not None:
            self._moved.append((state, attempt))

    def erase(self, state: State) -> None:
        """Erase the checkpoint of a state, if it has one."""
        if state.checkpoint_size is not None:
            self._erased.append(state.seq)

    def apply(self, tx: Transaction) -> dict[int, int]:
        """Write what was gathered; return the number of the checkpoint of each state that a value was for."""
        if not (self._saved or self._moved or self._erased):
            return {}
        sizes: dict[int, int | None] = {}
        stored = {
            seq: (row["token"], row["number"])
            for seq, row in read_checkpoints(tx, {each[0] for each in self._saved}, "token, number").items()
        }
        rows: dict[int, tuple[object, ...]] = {}
        for seq, token, checkpoint in self._saved:
            last_token, last_number = stored.get(seq, (token, 0))
            if token != last_token or checkpoint.number > last_number:
                stored[seq] = token, checkpoint.number
                rows[seq] = seq, token, checkpoint.number, checkpoint.value, tx.now_ms
                sizes[seq] = size_of(checkpoint.value)
        tx.insert("checkpoints", _COLUMNS, [row for _, row in sorted(rows.items())], _REPLACED)
        for state, attempt in self._moved:
            sizes[attempt] = sizes.get(state.seq, state.checkpoint_size)
            sizes[state.seq] = None
        moved = sorted((state.seq, attempt) for state, attempt in self._moved)
        tx.update("checkpoints", ("state",), ("state",), moved)
        if self._erased:
            which = tx.any_of("state")
            tx.execute(f"DELETE FROM checkpoints WHERE {which}", (tx.items(sorted(self._erased)),))
            sizes |= dict.fromkeys(self._erased)
        tx.update("states", ("seq",), ("checkpoint_size",), sorted(sizes.items()))
        for gathered in (self._saved, self._moved, self._erased):
            gathered.clear()
        return {seq: number for seq, (_, number) in stored.items()}
