"""``python -m exotrio states``: list and show states; retry one."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import click

from exotrio._util.times import format_duration, iso_time
from exotrio._util.words import listed, plural
from exotrio._wire.runs import NO_EVENT
from exotrio.cli import lookup, options
from exotrio.cli.connection import Connection, connection
from exotrio.cli.groups import Commands
from exotrio.cli.terminal.output import error_message, pairs, print_message
from exotrio.client import (
    LogLine,
    StateDetail,
    StateHistory,
    StateManager,
    StateRetry,
    StateStatus,
    StateSummary,
)
from exotrio.errors import NotFound, RequestRefused

TIMES = ("waited", "buffered", "ran")


@click.group(name="states", cls=Commands)
def command() -> None:
    """List and show states, which are the executions of nodes in runs; retry one.

    STATE is the id of a state, as `states ls` and `runs show` print it. Its last digits, without the
    zeros before them, are enough at exotrio's own state manager.
    """


@command.command(name="ls")
@options.name("--run", "run_id", kind="run", help="Only states of this run; 6 characters are enough.")
@options.name("--graph", kind="graph", help="Only states of this graph.")
@options.name("--node", kind="node", help="Only states of this node class.")
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
    help=f"Only states with this status: {', '.join(StateStatus)}; repeatable.",
)
@click.option("--outputs", is_flag=True, help="Show their outputs, too.")
@options.limit(50, "List at most N states.")
@connection
def ls(
    run_id: str | None,
    graph: str | None,
    node: str | None,
    place: str | None,
    statuses: tuple[str, ...],
    outputs: bool,
    limit: int,
    connection: Connection,
) -> None:
    """List states of the namespace's runs and of its nodes, newest first.

    WAITED is the time until a runtime claimed the state, with the waits for events and runs before that;
    BUFFERED the time from the claim until execute began; RAN the time of execute, or from the claim to the
    end if no begin is reported, as through v0. WHY is the error of a state that failed, or what a state waits
    for. RETRIES are automatic ones: after a retry by hand they count from 0 again, as "by hand" and "by hand
    + 1".

    A state manager that speaks only v0 needs --run.

    JSON: namespace, states (id, identifier, node_name, graph_name, run_id, status, error, retry_count,
    by_hand, created_at, finished_at, worker, waited_ms, buffered_ms, ran_ms, and held_ms, from claim to
    outcome; for_event_ms and for_run_ms: for events and runs; earlier_ms: before it was given back or went
    on, without these two; no_event: it waited, and none was sent in time; waits_for: kind, namespace, node,
    at, workers, text; with --outputs also outputs; what a state manager that speaks only v0 does not tell is
    null), more (whether there are more).
    """
    if place is not None and run_id is None and graph is None:
        raise click.UsageError("--place needs --run or --graph: identifiers are those of one graph")

    async def ask(manager: StateManager) -> tuple[list[StateSummary], bool]:
        run = None if run_id is None else (await lookup.find_run(manager, run_id)).run_id
        call = partial(
            manager.states,
            run=run,
            graph=graph,
            node=node,
            identifier=place,
            status=[StateStatus(status) for status in statuses],
            outputs=outputs,
        )
        try:
            states, more = await lookup.list_pages(call, lambda page: page.states, limit)
        except NotFound as error:
            if graph is not None and f"graph {graph!r}" in error.what:
                raise await lookup.not_found(manager, "graph", graph, error) from error
            if node is not None:
                raise await lookup.not_found(manager, "node", node, error) from error
            raise
        except RequestRefused as refusal:
            if run is None and lookup.is_v0_only(refusal):
                raise _needs_run(refusal) from refusal
            raise
        if not states and place is not None:
            await lookup.require_identifier(manager, place, run, graph)
        return states, more

    states, more = connection.ask(ask)
    shown = [state.model_dump(mode="json", exclude=set() if outputs else {"outputs"}) for state in states]
    more_heads = ["outputs"] * outputs
    connection.print_list(
        ("state", "place", "node", "status", "retries", "created", *TIMES, "why", *more_heads),
        [(*_row(state), *[", ".join(pairs(state.outputs or {}, ""))] * outputs) for state in states],
        plural(len(states), "state") + ("; more with --limit" if more else ""),
        states=shown,
        more=more,
    )


@command.command(name="show")
@click.argument("state_id", metavar="STATE")
@options.name("--run", "run_id", kind="run", help="Its run; required if the state manager speaks only v0.")
@connection
def show(state_id: str, run_id: str | None, connection: Connection) -> None:
    """Show a state: inputs, outputs, why it waits, its error, what it logged, attempts and events.

    JSON: the same fields. If the state manager speaks only v0, logs, attempts and events are missing.
    """
    state = connection.ask(lambda manager: _find(manager, state_id, run_id))
    connection.print(state, _as_lines(state))


@command.command(name="retry")
@click.argument("state_id", metavar="STATE")
@click.option(
    "--fanout-id",
    metavar="ID",
    help="Requests with the same id retry the state only once.  [default: a new id]",
)
@options.from_beginning
@connection
def retry(state_id: str, fanout_id: str | None, from_beginning: bool, connection: Connection) -> None:
    """Run a failed or pruned state once more, as a new state, and print its id.

    If it has a checkpoint, it continues from it, unless --from-beginning is given. Nodes that united it, and
    ran without it, run again with all that follows them. Messages say both.

    JSON: state_id, new_state_id, status, from_checkpoint, runs_again (those nodes; not known through v0).
    """

    async def ask(manager: StateManager) -> tuple[str, StateHistory | None, StateRetry]:
        whole_id = await lookup.whole_state_id(manager, state_id)
        failed = await lookup.if_native(lookup.about_state(state_id, manager.history(whole_id)))
        retried = manager.manual_retry(whole_id, fanout_id, from_beginning=from_beginning)
        return whole_id, failed, await lookup.about_state(state_id, retried)

    whole_id, failed, new = connection.ask(ask)
    again = failed.runs_again if failed else []
    checkpoint = failed.checkpoint if failed and not from_beginning else None
    if checkpoint:
        print_message(f"it continues from its checkpoint, stored {format_duration(checkpoint.age)} ago")
    if again:
        print_message(f"then {listed(again)} and what follows run again with the new values")
    body = {
        "state_id": whole_id,
        "new_state_id": new.id,
        "status": new.status.value,
        "from_checkpoint": checkpoint is not None,
        "runs_again": again,
    }
    connection.print(body, [new.id])


async def _find(manager: StateManager, state_id: str, run_id: str | None) -> StateDetail:
    try:
        whole_id = await lookup.whole_state_id(manager, state_id)
        return await lookup.about_state(state_id, manager.history(whole_id))
    except RequestRefused as refusal:
        if not lookup.is_v0_only(refusal):
            raise
        if run_id is None:
            raise _needs_run(refusal) from refusal
    run = await lookup.find_run(manager, run_id)
    return await lookup.about_state(state_id, manager.state(run.graph_name, run.run_id, state_id))


def _needs_run(refusal: RequestRefused) -> RequestRefused:
    return RequestRefused(refusal.what, fix="give the run too: --run RUN")


def _row(state: StateSummary) -> tuple[str, ...]:
    retries = state.retries_by_hand or ("" if state.retry_count is None else str(state.retry_count))
    created = iso_time(state.created_at) if state.created_at else ""
    waits_for = state.waits_for.text if state.waits_for else ""
    why = error_message(state.error) if state.error else waits_for
    if state.no_event and not state.error:
        why = f"waited for an event: {NO_EVENT}"
    ran = "" if state.ran is None else format_duration(state.ran)
    if state.buffered is None and state.held is not None:
        ran = f"{format_duration(state.held)} from claim"
    waits = ((state.waited, ""), (state.for_event, " for an event"), (state.for_run, " for a run"))
    waited = ", ".join(f"{format_duration(seconds)}{what}" for seconds, what in waits if seconds is not None)
    times = waited, "" if state.buffered is None else format_duration(state.buffered)
    return (
        state.id,
        state.identifier,
        state.node_name,
        str(state.status),
        retries,
        created,
        *times,
        ran,
        why,
    )


def _as_lines(state: StateDetail) -> list[str]:
    """Return the lines for a state: run and node, values, error, attempts and events."""
    lines = [
        f"state {state.id}: {state.status}",
        f"place: {state.identifier} ({state.node_name})",
        f"run: {state.run_id} of graph {state.graph_name}",
    ]
    if state.parents:
        lines.append("after: " + ", ".join(f"{name} ({parent})" for name, parent in state.parents.items()))
    lines += _times(state)
    lines += _values("inputs", state.inputs)
    lines += _values("outputs", state.outputs)
    if isinstance(state, StateHistory) and (checkpoint := state.checkpoint):
        lines += _values(f"checkpoint, stored {format_duration(checkpoint.age)} ago", checkpoint.value)
    if state.error:
        lines += ["error:", *(f"  {line}" for line in state.error.split("\n"))]
    if isinstance(state, StateHistory) and state.logs:
        lines.append("logged and printed:")
        for line in state.logs:
            lines += _log_lines(line)
    if isinstance(state, StateHistory):
        lines += _branches(state)
        lines += _history(state)
        if state.runs_again:
            lines.append(f"if it is retried, {listed(state.runs_again)} and what follows run again")
    return lines


def _branches(state: StateHistory) -> list[str]:
    lines = [] if state.condition is None else [f"branch: {state.condition.reason}"]
    if state.branches:
        lines.append("branches:")
        for each in state.branches:
            lines.append(f"  {each.identifier} {'' if each.taken else 'not '}taken: {each.reason}")
    return lines


def _log_lines(line: LogLine) -> list[str]:
    names = " ".join(name for name in (line.level, line.logger) if name)
    first, *more = line.text.split("\n")
    return [
        f"  {iso_time(line.at)} {names}: {first}" if names else f"  {first}",
        *(f"    {each}" for each in more),
    ]


def _times(state: StateDetail) -> list[str]:
    if not isinstance(state, StateHistory):
        return [f"created: {iso_time(state.created_at)}", f"updated: {iso_time(state.updated_at)}"]
    by = f" by {state.worker}" if state.worker else ""
    waits = state.status in (StateStatus.CREATED, StateStatus.WAITING)
    times = [
        ("created", state.created_at, ""),
        ("last claimed" if waits else "claimed", state.claimed_at, by),
        ("began then" if waits else "began", state.begun_at, ""),
        ("deadline", state.deadline, ""),
        ("finished", state.finished_at, ""),
    ]
    lines = [f"{what}: {iso_time(at)}{by}" for what, at, by in times if at]
    if state.finished_at and not state.claimed_at and state.worker:
        lines.append(f"last claimed by {state.worker}: it ended before it was claimed again")
    return [*lines, state.spent_text] if state.spent_text else lines


def _values(what: str, values: Mapping[str, Any]) -> list[str]:
    return [f"{what}:", *pairs(values, "  ")] if values else []


def _history(state: StateHistory) -> list[str]:
    lines = _values("pruned with", state.data or {})
    if state.waits_for:
        lines.append(state.waits_for.text)
    lines += [f"started run {each.run_id} of graph {each.graph_name}: {each.word}" for each in state.children]
    if state.holder:
        ttl = "" if state.holder.ttl is None else f", lease for {state.holder.ttl:.0f} s"
        stage = f", {state.stage}" if state.stage else ""
        lines.append(f"held by: {state.holder.worker or 'a v0 runtime'}{stage}{ttl}")
    if state.deliveries and state.status != StateStatus.SUCCESS:
        lines.append(f"runtimes in a row that ended while they ran it: {state.deliveries}")
    if attempt := state.attempt_text():
        lines.append(f"attempt {attempt}")
    if len(state.attempts) > 1:
        lines.append("attempts:")
        for each in state.attempts:
            this = "  <- this one" if each.id == state.id else ""
            created = iso_time(each.created_at)
            by = f" by {each.worker}" if each.worker else ""
            error = f": {error_message(each.error)}" if each.error else ""
            lines.append(f"  {each.id} {each.status.value}, {each.how}, {created}{by}{error}{this}")
    if state.events:
        lines.append("events:")
        for event in state.events:
            by = f" ({event.worker})" if event.worker else ""
            lines.append(f"  {iso_time(event.at)} {event.kind}{by}")
    return lines
