"""What runs that have ended give the states that wait for them: outputs, or an error (``children``)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import chain

from exotrio._util.words import shortened
from exotrio.graph.placeholders import OutputRef, StoreRef
from exotrio.manager.engine.inputs import resolve
from exotrio.manager.engine.sources import InputsError, Shared, Sources, read_outputs, read_stored
from exotrio.manager.engine.states import RunRow, size_of
from exotrio.manager.store.view import View

MAX_ERROR = 4_000
"""Characters of the error of a run that the state repeats."""


def results_of(view: View, runs: Sequence[RunRow]) -> dict[int, Mapping[str, str] | str]:
    """Return the outputs of runs that have ended, or the error of each that failed."""
    results: dict[int, Mapping[str, str] | str] = {run.id: {} for run in runs}
    succeeded = []
    for run in runs:
        name = f"run {run.run_id} of graph {run.graph_name!r}"
        if run.cancelled_at is not None:
            results[run.id] = f"{name} was cancelled"
        elif run.errored:
            results[run.id] = _first_error(view, run, name)
        elif run.scope(view).template.outputs:
            succeeded.append(run)
    if succeeded:
        states, shared = _read(view, succeeded)
        for run in succeeded:
            try:
                results[run.id] = _outputs(view, run, states[run.id], shared)
            except InputsError as problem:
                results[run.id] = f"run {run.run_id} of graph {run.graph_name!r} gave no {problem}"
    return results


Successes = Mapping[int, tuple[int, int]]
"""How many states of each place of a run succeeded, and the first of them."""


def _read(view: View, runs: Sequence[RunRow]) -> tuple[Mapping[int, Successes], Shared]:
    """Return what the outputs of runs are built from; each run stands for the state above its states."""
    states: defaultdict[int, dict[int, tuple[int, int]]] = defaultdict(dict)
    for run_id, place, count, seq in view.execute(
        f"SELECT run, place, count(*), min(seq) FROM states WHERE {view.any_of('run')}"
        " AND status = 'SUCCESS' GROUP BY run, place",
        (view.items([run.id for run in runs]),),
    ):
        states[run_id][place] = count, seq
    seqs: set[int] = set()
    keys: set[tuple[int, str]] = set()
    for run in runs:
        template = run.scope(view).template
        for piece in chain.from_iterable(chain.from_iterable(template.outputs.values())):
            if isinstance(piece, StoreRef):
                keys.add((run.id, piece.key))
            elif (
                isinstance(piece, OutputRef) and (place := template[piece.identifier].index) in states[run.id]
            ):
                seqs.add(states[run.id][template[piece.identifier].index][1])
    return states, Shared(
        ancestors={(run, place): seq for run, of_run in states.items() for place, (_, seq) in of_run.items()},
        outputs=read_outputs(view, sorted(seqs)),
        stored=read_stored(view, keys) if keys else {},
    )


def _first_error(view: View, run: RunRow, name: str) -> str:
    """Return where a run failed first, and its error; that of a run below it as it is."""
    state = view.one(
        "SELECT place, error FROM states WHERE run = ? AND status IN ('ERRORED', 'NEXT_CREATED_ERROR')"
        " ORDER BY finished_at, seq LIMIT 1",
        (run.id,),
    )
    place, error = run.scope(view).template.places[state["place"]], str(state["error"])
    if place.graph is not None and error.startswith("run "):
        return error
    return f"{name} failed: {place.identifier}: {shortened(error, MAX_ERROR)}"


def _outputs(view: View, run: RunRow, states: Successes, shared: Shared) -> dict[str, str]:
    """Return the outputs of a run that has succeeded; raise InputsError for one without a value."""
    template = run.scope(view).template
    sources = Sources(view, run.scope(view), run.id, shared)
    outputs: dict[str, str] = {}
    left = view.max_inputs
    for name, texts in template.outputs.items():
        for pieces in texts:
            places = {piece.identifier for piece in pieces if isinstance(piece, OutputRef)}
            counts = [states.get(template[each].index, (0, 0))[0] for each in sorted(places)]
            if all(counts):
                break
        else:
            raise InputsError(f"output {name!r}: no node that has it succeeded")
        if any(count > 1 for count in counts):
            raise InputsError(
                f"output {name!r}: the node that has it succeeded {max(counts)} times, unite it"
            )
        try:
            outputs[name] = "".join(resolve(piece, sources, "", {}) for piece in pieces)
        except InputsError as problem:
            raise InputsError(f"output {name!r}: {problem}") from None
        left -= size_of(outputs[name])
        if left < 0:
            raise InputsError(f"output {name!r}: all of them take more than {view.max_inputs:,} bytes")
    return outputs
