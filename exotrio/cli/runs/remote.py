"""Starts a run that runtimes elsewhere execute, and follows it until it ends or the user interrupts."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from http import HTTPStatus
from itertools import islice
from typing import Any

import trio

from exotrio._fields.declared import quoted
from exotrio._util.times import format_duration
from exotrio._util.words import plural
from exotrio._wire.vocabulary import to_ms
from exotrio.cli.connection import Connection
from exotrio.cli.exit_codes import FAILED, INTERRUPTED, SUCCESS
from exotrio.cli.lookup import find_graph
from exotrio.cli.program import command_line, run_until_stopped
from exotrio.cli.runs.result import print_result
from exotrio.cli.terminal.output import print_message
from exotrio.cli.terminal.progress import progress_for
from exotrio.cli.values import PrivateText
from exotrio.client import Run, RunStatus, StateManager, ValidationStatus
from exotrio.errors import ConfigurationError, ExotrioError, GraphInvalid, KeyRefused, ManagerUnavailable
from exotrio.graph import GraphNodeModel, StoreConfigModel
from exotrio.graph.values import check_of

Start = Callable[[StateManager], Awaitable[str]]

MAX_NAMED = 10
"""Values of one run that an error names."""
MAX_POLL_INTERVAL = 1.0
"""Seconds between two polls of the run."""


def follow(connection: Connection, start: Start, timeout: float | None = None) -> int:
    """Show a run's progress until it ends, then its result; return the exit code.

    SIGINT, SIGTERM and the end of ``timeout`` end this command, not the run; so does a state manager that
    gives no usable answer for a minute. ``start`` returns the id of the run; it may start it, so it is not
    repeated here.
    """
    progress, following = progress_for(), trio.CancelScope()
    run_id: str | None = None

    def print_how_to_follow(what: str) -> None:
        command = command_line(["runs", "watch", str(run_id), *connection.arguments])
        progress.print_message(f"{what}. Follow it again with:\n  {command}")

    async def main() -> int:
        nonlocal run_id
        run: Run | None = None
        with connection.readable_errors():
            async with connection.open() as manager:
                with following:
                    run_id = await start(manager)
                    if connection.is_alone and (await manager.status(run_id)).status is RunStatus.PENDING:
                        what = f"run {run_id} has not ended, and nothing executes it"
                        raise ExotrioError(what, fix=connection.how_to_execute(run_id))
                    with progress, suppress(trio.TooSlowError):
                        run = await manager.wait(
                            run_id,
                            timeout=timeout,
                            poll_interval=MAX_POLL_INTERVAL,
                            on_progress=progress.show,
                        )
                    if run is not None:
                        result = partial(print_result, manager, run, connection.form, progress.elapsed)
                        await manager._through_outages(result)
        if run is not None and not following.cancelled_caught:
            # The run ended before a signal came; otherwise the signal was first, perhaps before the start.
            return SUCCESS if run.status is RunStatus.SUCCESS else FAILED
        if run_id is None:
            progress.print_message("interrupted; a run may have been started: see `runs ls`")
        else:
            what = "no longer following; the run continues"
            if not following.cancelled_caught:
                what = f"the run has not ended within {format_duration(timeout)}, and continues"
            print_how_to_follow(what)
        return INTERRUPTED

    try:
        return run_until_stopped(main, lambda grace, why: following.cancel(), exiting=lambda: "runs continue")
    except ManagerUnavailable:
        if run_id is not None:
            print_how_to_follow("no longer following; the run continues")
        raise


async def start_run(
    manager: StateManager,
    graph: str,
    inputs: Mapping[str, str],
    store: Mapping[str, str],
    *,
    start_delay: float = 0.0,
    key: str | None = None,
    **in_order: Any,
) -> dict[str, Any]:
    """Check that the values fit the graph, start a run, and return the reply. Print if the run existed.

    ``in_order`` is what ``StateManager.trigger`` accepts about the order of states.
    """
    (await find_valid_graph(manager, graph))(inputs, store)
    reply = await manager.trigger(
        graph, inputs=dict(inputs), store=dict(store), start_delay=to_ms(start_delay), key=key, **in_order
    )
    # Without a key, a run that existed was started by an earlier attempt of the same request.
    if key is not None and not is_new(reply):
        print_message(f"the run with the key {key!r} existed already: nothing was started")
    return reply


def is_new(reply: Mapping[str, Any]) -> bool:
    """Whether a trigger started a run, since none with its key existed."""
    created: bool = reply.get("created", True)  # a server that speaks only v0 leaves it out
    return created


Check = Callable[[Mapping[str, str], Mapping[str, str]], None]


async def find_valid_graph(manager: StateManager, graph: str) -> Check:
    """Check that a graph can be triggered, and return the check of the inputs and the store of its runs.

    If the key may start runs and not read the graph, the state manager alone checks them.
    """
    try:
        reply = await find_graph(manager, graph)
        nodes = await manager.nodes()
    except KeyRefused as refusal:
        if refusal.status != HTTPStatus.FORBIDDEN:
            raise
        return lambda inputs, store: None
    if reply.validation_status is ValidationStatus.INVALID:
        raise GraphInvalid(
            f"graph {graph!r} is invalid, so it cannot be triggered",
            reply.validation_errors,
            fix="fix it, or start the runtime that has its nodes; then apply it again",
        )
    schemas = {(node.namespace, node.name): node.inputs_schema for node in nodes}
    return check_of_values(graph, reply.nodes, reply.store_config, schemas)


def check_of_values(
    graph: str,
    nodes: Sequence[GraphNodeModel],
    store_config: StoreConfigModel,
    schemas: Mapping[tuple[str, str], Mapping[str, Any]],
) -> Check:
    """Return a check that refuses inputs and store keys that the graph lacks, requires its required keys, and
    refuses values that do not fit the schemas of inputs, by (namespace, node).

    It raises ConfigurationError.
    """
    values = check_of(graph, nodes, store_config, schemas, _quoted)

    def check(inputs: Mapping[str, str], store: Mapping[str, str]) -> None:
        if values is not None and (problems := list(islice(values.problems(inputs, store), MAX_NAMED))):
            raise ConfigurationError("; ".join(problems))
        missing = [key for key in store_config.required_keys if key not in store]
        if missing:
            fix = " ".join(f"--store {key}=VALUE" for key in missing)
            raise ConfigurationError(f"graph {graph!r} needs more of its store: give {fix}")

    return check


def _quoted(text: str) -> str:
    return f"a text of {plural(len(text), 'character')}" if isinstance(text, PrivateText) else quoted(text)
