"""Calls: the runs that the node of a state asked for, and what came back for its next execution.

A state has a row in ``calls`` for each, and ``calls_size`` in its own row is the size of the results: None if
its node called nothing, so such a state costs no statement. The outcome of the node inserts the rows;
``children`` starts the runs and, at the end of each, writes its outputs or its error. So the results do not
depend on how long the runs are kept. When none is left without a result, the state is claimed again, and
the claim brings them.

An attempt that replaces a state inherits the calls that succeeded; the node calls the others again.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from pydantic_core import from_json, to_json

from exotrio._util.words import shortened
from exotrio._wire.children import CalledChild
from exotrio._wire.vocabulary import MAX_CALL_BYTES, MAX_CALLS
from exotrio.manager.engine.states import State, size_of
from exotrio.manager.store.transaction import Transaction
from exotrio.manager.store.view import View

MAX_SHORT = 200
"""Characters that are kept of an error if the results of a state have too many bytes without the rest."""
NO_RESULT = "outputs IS NULL AND error IS NULL"
_TOO_LARGE = f"its outputs have {{:,}} bytes; all children of a state may have {MAX_CALL_BYTES:,} together"


@dataclass(frozen=True, slots=True)
class Result:
    """What came of a call: ``outputs`` or ``error``; ``run`` is the id of its run, if it was started."""

    seq: int
    key: str
    run: str | None
    outputs: Mapping[str, str] | None = None
    error: str | None = None


class CallChanges:
    """Changes of calls: gathered first, and written by ``apply``."""

    def __init__(self) -> None:
        self._added: list[tuple[object, ...]] = []
        self._moved: list[tuple[int, int]] = []

    def add(self, state: State, calls: Sequence[CalledChild]) -> None:
        """Add the calls of a state; one that it has already stays."""
        self._added += (
            (state.seq, call.id, call.graph, to_json(dict(sorted(call.inputs.items()))).decode())
            for call in calls
        )

    def move(self, state: State, attempt: int) -> None:
        """Give those calls of a state that succeeded to the new attempt that replaces it."""
        if state.calls_size is not None:
            self._moved.append((state.seq, attempt))

    def apply(self, tx: Transaction) -> None:
        columns = ("state", "key", "graph", "inputs")
        tx.insert("calls", columns, sorted(self._added), "(state, key) DO NOTHING")
        for seq, attempt in sorted(self._moved):
            tx.execute("UPDATE calls SET state = ? WHERE state = ? AND outputs IS NOT NULL", (attempt, seq))
        self._added.clear()
        self._moved.clear()


def with_too_many(view: View, calling: Sequence[tuple[State, Sequence[CalledChild]]]) -> set[int]:
    """Return the numbers of those states that call more than they may, with these calls."""
    if not calling:
        return set()
    counts = {
        row["state"]: row["count"]
        for row in view.execute(
            f"SELECT state, count(*) AS count FROM calls WHERE {view.any_of('state')} GROUP BY state",
            (view.items(sorted({state.seq for state, _ in calling})),),
        )
    }
    return {state.seq for state, calls in calling if counts.get(state.seq, 0) + len(calls) > MAX_CALLS}


_UNSTARTED = (
    f"{NO_RESULT} AND NOT EXISTS (SELECT 1 FROM runs WHERE parent_state = calls.state AND call = calls.key)"
)


def unstarted(view: View, seqs: Collection[int], limit: int) -> tuple[dict[int, list[CalledChild]], set[int]]:
    """Return up to ``limit`` calls of these states that have no run, by the number of the state, and the
    states that may have more of them."""
    found: dict[int, list[CalledChild]] = {}
    if not seqs:
        return found, set()
    for seq, key, graph, inputs in view.execute(
        f"SELECT state, key, graph, inputs FROM calls WHERE {view.any_of('state')} AND {_UNSTARTED}"
        " ORDER BY state, key LIMIT ?",
        (view.items(sorted(seqs)), limit),
    ):
        call = CalledChild.model_construct(id=key, graph=graph, inputs=from_json(inputs))
        found.setdefault(seq, []).append(call)
    is_full = sum(map(len, found.values())) == limit
    return found, {seq for seq in seqs if is_full and seq >= max(found)}


def add_results(tx: Transaction, seqs: Collection[int], results: Sequence[Result]) -> set[int]:
    """Store what came of calls of these states, and return the numbers of those that have all results now.

    Outputs that make the results of a state too large are an error of that call.
    """
    if not seqs:
        return set()
    of_states = tx.any_of("seq")
    rows = tx.execute(
        f"SELECT seq, coalesce(calls_size, 0) FROM states WHERE {of_states}", (tx.items(sorted(seqs)),)
    )
    sizes: dict[int, int] = dict(map(tuple, rows))
    stored = []
    for result in results:
        text, error = None if result.outputs is None else to_json(result.outputs).decode(), result.error
        size = size_of(text or error or "")
        if sizes[result.seq] + size > MAX_CALL_BYTES:
            text, error = None, shortened(error, MAX_SHORT) if error else _TOO_LARGE.format(size)
            size = size_of(error)
        sizes[result.seq] += size
        stored.append((result.seq, result.key, result.run, text, error))
    tx.update("calls", ("state", "key"), ("run", "outputs", "error"), sorted(stored))
    tx.update("states", ("seq",), ("calls_size",), sorted(sizes.items()) if results else [])
    lacks = f"SELECT 1 FROM calls WHERE state = seq AND {NO_RESULT}"
    complete = f"SELECT seq FROM states WHERE {of_states} AND NOT EXISTS ({lacks})"
    return {row["seq"] for row in tx.execute(complete, (tx.items(sorted(seqs)),))}


def read_results(view: View, seqs: Collection[int]) -> dict[int, dict[str, dict[str, object]]]:
    """Return what came of the calls of these states, as ``EndedChild`` has it: by state, then by key."""
    found: dict[int, dict[str, dict[str, object]]] = {seq: {} for seq in seqs}
    if not found:
        return found
    for seq, key, run, outputs, error in view.execute(
        f"SELECT state, key, run, outputs, error FROM calls WHERE {view.any_of('state')}",
        (view.items(sorted(seqs)),),
    ):
        if outputs is not None or error is not None:
            found[seq][key] = {
                "run_id": run or "",
                "outputs": None if outputs is None else from_json(outputs),
                "error": error,
            }
    return found
