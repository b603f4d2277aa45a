"""The result of a run: the outputs of its last nodes, and what failed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from exotrio._util.error_message import message_line
from exotrio._util.words import plural
from exotrio._wire.graphs import GraphReply
from exotrio._wire.vocabulary import ERRORED
from exotrio.cli.terminal.output import error_message, pairs, print_as
from exotrio.client import Run, StateManager, StateStatus

MAX_SHOWN = 20
"""States whose outputs or errors are printed; of more states only the number is."""
MAX_TRACEBACK = 30
"""Lines of a traceback that are printed."""


@dataclass(frozen=True, slots=True)
class Result:
    """What is printed of a finished run.

    Attributes:
        outputs: (identifier, outputs) of the first successes of nodes without next nodes.
        outputs_left: How many more there are.
        errors: (identifier, state id, error) of the first failed states.
        errors_left: How many more there are.
    """

    run: Run
    outputs: list[tuple[str, dict[str, Any]]]
    outputs_left: int
    errors: list[tuple[str, str, str]]
    errors_left: int


async def collect(client: StateManager, run: Run) -> Result:
    """Read what is printed of a run."""
    graph = await client.run(run.run_id)
    template = GraphReply.model_validate(await client.get_graph(run.graph_name))
    last = {node.identifier for node in template.nodes if not node.next_nodes}
    ends = [node for node in graph.nodes if node.status is StateStatus.SUCCESS and node.identifier in last]
    failed = [node for node in graph.nodes if node.status in ERRORED]
    outputs = []
    for node in ends[:MAX_SHOWN]:
        state = await client.state(run.graph_name, run.run_id, node.id)
        if state.outputs:
            outputs.append((node.identifier, state.outputs))
    return Result(
        run=run,
        outputs=outputs,
        outputs_left=max(0, len(ends) - MAX_SHOWN),
        errors=[(node.identifier, node.id, node.error or "") for node in failed[:MAX_SHOWN]],
        errors_left=max(0, len(failed) - MAX_SHOWN),
    )


def print_result(result: Result, form: str, elapsed: float) -> None:
    """Print the result to standard output.

    Args:
        form: ``table`` or ``json``.
        elapsed: Seconds this command followed the run.

    Raises:
        ExotrioError: it cannot be written.
    """
    fix = "the run itself is kept: `run --resume RUN`, or `runs watch RUN`, prints its result again"
    print_as(form, _as_json(result, elapsed), _as_lines(result, elapsed), fix=fix)


def _traceback_lines(error: str) -> list[str]:
    """Return the lines of an error beside its message: the first and last ones of a long traceback."""
    lines = error.strip().splitlines()
    if lines and lines[-1] == message_line(error):
        lines.pop()
    left = len(lines) - MAX_TRACEBACK
    half = MAX_TRACEBACK // 2
    return lines if left <= 0 else [*lines[:half], f"... {left} lines", *lines[half - MAX_TRACEBACK :]]


def _as_json(result: Result, elapsed: float) -> dict[str, Any]:
    run = result.run
    return {
        "run_id": run.run_id,
        "graph": run.graph_name,
        "status": run.status.value,
        "seconds": round(elapsed, 3),
        "nodes": {node.identifier: node.counts for node in run.nodes},
        "outputs": [{"identifier": name, "outputs": values} for name, values in result.outputs],
        "outputs_left": result.outputs_left,
        "errors": [
            {"identifier": name, "state_id": state, "error": text} for name, state, text in result.errors
        ],
        "errors_left": result.errors_left,
    }


def _as_lines(result: Result, elapsed: float) -> list[str]:
    run = result.run
    states = plural(run.total_count, "state")
    lines = [f"{run.status.value}: {states} in {elapsed:.1f} s (run {run.run_id})"]
    for name, values in result.outputs:
        lines += [f"{name}:", *pairs(values, "  ", ": ")]
    if result.outputs_left:
        lines.append(f"... and outputs of {result.outputs_left} more states")
    for number, (name, state, text) in enumerate(result.errors):
        lines.append(f"failed: {name} ({state}): {error_message(text)}")
        if number == 0:
            # One traceback only: where many states failed, most failed in the same way.
            lines += [f"  {line}" for line in _traceback_lines(text)]
    if result.errors_left:
        lines.append(f"... and {result.errors_left} more failed states")
    return lines
