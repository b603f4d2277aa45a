"""The runs that end in one use case: announced, and counted for charts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from exotrio._wire.vocabulary import StateStatus
from exotrio.manager.store.effects import Effects
from exotrio.manager.store.tallies import RUN, Key, bucket_of
from exotrio.manager.store.transaction import Transaction

SUCCESS, ERRORED = StateStatus.SUCCESS.value, StateStatus.ERRORED.value


class EndedRuns:
    """Counts each run once, as it is when the use case is over.

    Within it a run may end for a moment: the last state of a group ends before the united node that follows
    is created, or fails since its inputs cannot be built.
    """

    def __init__(self, tx: Transaction, effects: Effects) -> None:
        self._tx = tx
        self._effects = effects
        self._counted: dict[int, Key] = {}

    def find(self, runs: Iterable[int]) -> None:
        """Count and announce those of these runs that have nothing pending, with the time that each took."""
        tx, numbers = self._tx, sorted(runs)
        if not numbers:
            return
        for run, run_id, graph, created_at, status in tx.execute(
            "SELECT id, run_id, graph, created_at, CASE WHEN cancelled_at IS NOT NULL THEN 'CANCELLED'"
            f" WHEN errored > 0 THEN 'ERRORED' ELSE 'SUCCESS' END FROM runs WHERE {tx.any_of('id')}"
            " AND pending = 0",
            (tx.items(numbers),),
        ):
            self._effects.announced.add(run_id)
            self._count(run, (graph, RUN, status, bucket_of(tx.now_ms - created_at)))

    def change(self, run: int, *, pending: int, errored: int) -> None:
        """Count a run no more that goes on, or as failed if states of it failed after it had ended."""
        if run not in self._counted:
            return
        graph, _, status, bucket = key = self._counted[run]
        if pending > 0:
            del self._counted[run]
            self._effects.tally -= Counter([key])
        elif errored > 0 and status == SUCCESS:
            self._effects.tally -= Counter([key])
            self._count(run, (graph, RUN, ERRORED, bucket))

    def _count(self, run: int, key: Key) -> None:
        self._counted[run] = key
        self._effects.tally[key] += 1
