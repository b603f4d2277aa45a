"""``python -m exotrio states``: list and show states; retry one."""

from __future__ import annotations

from itertools import chain

import click

from exotrio._util.times import iso_time
from exotrio._util.words import plural
from exotrio.cli import options
from exotrio.cli.connection import Connection, connection
from exotrio.cli.exit_codes import SUCCESS
from exotrio.cli.groups import Commands
from exotrio.cli.lookup.lists import list_states
from exotrio.cli.lookup.resources import find_run, is_v0_only, no_graph, no_node, no_state, require_place
from exotrio.cli.runs.state_view import state_as_lines
from exotrio.cli.terminal.output import error_message, print_as, table
from exotrio.client import StateDetail, StateManager, StateStatus, StateSummary
from exotrio.errors import NotFound, RequestRefused


@click.group(name="states", cls=Commands)
def command() -> None:
    """List and show states, which are the executions of nodes in runs; retry one.

    STATE is the whole id of a state, as `states ls` and `runs show` print it.
    """


@command.command(name="ls")
@click.option("--run", "run_id", metavar="RUN", help="Only states of this run; 6 characters are enough.")
@click.option("--graph", metavar="NAME", help="Only states of this graph.")
@click.option("--node", metavar="NAME", help="Only states of this node class.")
@click.option(
    "--place",
    metavar="NAME",
    help="Only states of the node with this identifier; needs --run or --graph.",
)
@click.option(
    "--status",
    "statuses",
    multiple=True,
    metavar="STATUS",
    type=click.Choice([status.value for status in StateStatus], case_sensitive=False),
    help=f"Only states with this status, one of {', '.join(StateStatus)}; repeatable.",
)
@options.limit(50, "Most states to list.")
@options.output
@connection
def ls(
    run_id: str | None,
    graph: str | None,
    node: str | None,
    place: str | None,
    statuses: tuple[str, ...],
    limit: int,
    output: str,
    connection: Connection,
) -> int:
    """List states, newest first.

    A state manager that speaks only v0 needs --run.

    JSON: namespace, states (id, identifier, node_name, graph_name, run_id, status, error, retry_count,
    created_at, finished_at, worker), more (whether there are).
    """
    if place is not None and run_id is None and graph is None:
        raise click.UsageError("--place needs --run or --graph: identifiers are those of one graph")

    async def ask(manager: StateManager) -> tuple[list[StateSummary], bool]:
        run = None if run_id is None else (await find_run(manager, run_id)).run_id
        wanted = [StateStatus(status) for status in statuses]
        try:
            found = await list_states(
                manager, limit, run=run, graph=graph, node=node, identifier=place, status=wanted
            )
        except NotFound as error:
            raise await _not_found(manager, graph, node, error) from error
        except RequestRefused as refusal:
            if run is None and is_v0_only(refusal):
                raise _needs_run(refusal) from refusal
            raise
        if not found[0] and place is not None:
            await require_place(manager, place, run, graph)
        return found

    states, more = connection.ask(ask)
    shown = [state.model_dump(mode="json") for state in states]
    heads = ("state", "place", "node", "status", "retries", "created", "error")
    count = plural(len(states), "state") + ("; more with --limit" if more else "")
    body = {"namespace": connection.namespace, "states": shown, "more": more}
    print_as(output, body, chain(table(heads, map(_row, states)), [count]))
    return SUCCESS


@command.command(name="show")
@click.argument("state_id", metavar="STATE")
@click.option("--run", "run_id", metavar="RUN", help="Its run; needed where only v0 is spoken.")
@options.output
@connection
def show(state_id: str, run_id: str | None, output: str, connection: Connection) -> int:
    """Show a state: inputs, outputs, its error with the traceback, attempts and events.

    JSON: what is shown; with --run at a state manager that speaks only v0, without attempts and events.
    """
    state = connection.ask(lambda manager: _find(manager, state_id, run_id))
    print_as(output, state.model_dump(mode="json"), state_as_lines(state))
    return SUCCESS


@command.command(name="retry")
@click.argument("state_id", metavar="STATE")
@click.option(
    "--fanout-id",
    metavar="ID",
    help="Makes a repeated request the same one.  [default: a new id]",
)
@options.output
@connection
def retry(state_id: str, fanout_id: str | None, output: str, connection: Connection) -> int:
    """Run a failed or pruned state once more, as a new state, and print its id.

    JSON: state_id, new_state_id, status.
    """

    async def ask(manager: StateManager) -> tuple[str, str]:
        try:
            reply = await manager.manual_retry(state_id, fanout_id)
        except NotFound as error:
            raise no_state(state_id, error) from error
        return reply.id, reply.status.value

    new, status = connection.ask(ask)
    print_as(output, {"state_id": state_id, "new_state_id": new, "status": status}, [new])
    return SUCCESS


async def _find(manager: StateManager, state_id: str, run_id: str | None) -> StateDetail:
    try:
        return await manager.history(state_id)
    except NotFound as error:
        raise no_state(state_id, error) from error
    except RequestRefused as refusal:
        if not is_v0_only(refusal):
            raise
        if run_id is None:
            raise _needs_run(refusal) from refusal
    run = await find_run(manager, run_id)
    try:
        return await manager.state(run.graph_name, run.run_id, state_id)
    except NotFound as error:
        raise no_state(state_id, error) from error


def _needs_run(refusal: RequestRefused) -> RequestRefused:
    return RequestRefused(refusal.what, fix="give the run too: --run RUN")


async def _not_found(manager: StateManager, graph: str | None, node: str | None, error: NotFound) -> NotFound:
    """Return the error for the graph or node that does not exist."""
    if graph is not None and f"graph {graph!r}" in error.what:
        return await no_graph(manager, graph, error)
    if node is not None:
        return await no_node(manager, node, error)
    return error


def _row(state: StateSummary) -> tuple[str, ...]:
    retries = "" if state.retry_count is None else str(state.retry_count)
    error = error_message(state.error) if state.error else ""
    return (
        state.id,
        state.identifier,
        state.node_name,
        state.status.value,
        retries,
        iso_time(state.created_at) if state.created_at else "",
        error,
    )
