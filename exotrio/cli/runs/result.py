"""The result of a run: the outputs of its last nodes, and what failed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from exotrio._util.error_message import lines_beyond_message
from exotrio._util.times import format_duration
from exotrio._util.words import listed, plural
from exotrio._wire.vocabulary import FAILED
from exotrio.cli.terminal.output import error_message, pairs, print_as
from exotrio.client import Run, StateManager, StateNode, StateStatus, StateSummary

MAX_SHOWN = 20
"""States whose outputs are printed, and failures; others are only counted."""
MAX_ALIKE = 3
"""States that are named of those that failed alike."""
MIN_TIMED = 1.0
"""Seconds that a run took from which on it is printed how its states spent them."""
MAX_TRACEBACK = 30
"""Lines of a traceback that are printed."""


async def print_result(client: StateManager, run: Run, form: str, elapsed: float) -> None:
    """Print the result to standard output, with at most ``MAX_SHOWN`` outputs and as many failures.

    Args:
        elapsed: Seconds for which this command followed the run. If the run took much longer, perhaps nothing
            executed it for a while, so the result says when it ended, not how long it took.
    """
    seconds = elapsed if run.duration is None else run.duration
    graph = await client.run(run.run_id)
    last = {node.identifier for node in run.nodes if node.is_last}
    ends = [node for node in graph.nodes if node.status is StateStatus.SUCCESS and node.identifier in last]
    failed = [node for node in graph.nodes if node.status in FAILED]
    outputs = []
    for node in ends[:MAX_SHOWN]:
        state = await client.state(run.graph_name, run.run_id, node.id)
        if state.outputs:
            outputs.append({"identifier": node.identifier, "outputs": state.outputs})
    body = {
        "run_id": run.run_id,
        "graph": run.graph_name,
        "key": run.key,
        "status": run.status.value,
        "seconds": round(seconds, 3),
        "waited": run.waited,
        "buffered": run.buffered,
        "ran": run.ran,
        "nodes": {node.identifier: node.counts for node in run.nodes},
        "missing": run.missing,
        "outputs": outputs,
        "outputs_left": max(0, len(ends) - MAX_SHOWN),
        "errors": [
            {"identifier": node.identifier, "state_id": node.id, "error": node.error or ""}
            for node in failed[:MAX_SHOWN]
        ],
        "errors_left": max(0, len(failed) - MAX_SHOWN),
    }
    fix = "the run itself is kept: `run --resume RUN`, or `runs watch RUN`, prints its result again"
    print_as(form, body, _as_lines(run, body, failed, elapsed), fix=fix)


def failure_lines(run: Run, failed: Sequence[StateNode | StateSummary]) -> list[str]:
    """Return a line for each way in which states of a node failed, and how many others there are."""
    alike: dict[tuple[str, str], list[str]] = {}
    for state in failed:
        alike.setdefault((state.identifier, error_message(state.error)), []).append(state.id)
    lines, left = list[str](), run.errored_count
    for (identifier, message), ids in list(alike.items())[:MAX_SHOWN]:
        states = f", {plural(len(ids), 'state')}" if len(ids) > 1 else ""
        lines.append(f"failed: {identifier}{states} ({listed(ids, MAX_ALIKE)}): {message}")
        left -= len(ids)
    if left > 0:
        lines.append(f"... and {left:,} more: states ls --run {run.run_id} --status ERRORED")
    return lines


def _as_lines(run: Run, body: dict[str, Any], failed: Sequence[StateNode], elapsed: float) -> list[str]:
    states = plural(run.total_count, "state")
    time = f" in {body['seconds']:.1f} s"
    if body["seconds"] > elapsed + MIN_TIMED:
        time = f", ended {format_duration(body['seconds'] + run.idle)} after its start"
    by_key = f", key {run.key}" if run.key else ""
    lines = [f"{run.status.value}: {states}{time} (run {run.run_id}{by_key})"]
    if run.waited is not None and body["seconds"] >= MIN_TIMED:
        lines.append(f"on average a state {run.times_text(ended=True)}")
    if body["outputs"] and run.missing:
        lines.append(f"this result is partial: {'; '.join(run.missing)}")
    for end in body["outputs"]:
        lines += [f"{end['identifier']}:", *pairs(end["outputs"], "  ", ": ")]
    if body["outputs_left"]:
        lines.append(f"... and outputs of {body['outputs_left']} more states")
    if failed:
        first, *others = failure_lines(run, failed)
        # One traceback only: where many states failed, most failed in the same way.
        lines += [first, *(f"  {line}" for line in _traceback_lines(failed[0].error or "")), *others]
    return lines


def _traceback_lines(error: str) -> list[str]:
    """Return the lines of an error except its message; of a long traceback the first and last ones."""
    lines = lines_beyond_message(error)
    left = len(lines) - MAX_TRACEBACK
    half = MAX_TRACEBACK // 2
    return lines if left <= 0 else [*lines[:half], f"... {left} lines", *lines[half - MAX_TRACEBACK :]]
