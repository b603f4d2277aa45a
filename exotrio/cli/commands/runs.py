"""``python -m exotrio runs``: list and show runs; watch one, end it, send it an event, or change it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from itertools import chain

import click

from exotrio._util.times import format_duration, iso_time
from exotrio._util.words import one_line, plural
from exotrio._wire.runs import FAILURE
from exotrio._wire.vocabulary import ERRORED, Priority
from exotrio.cli import completion, options
from exotrio.cli.connection import Connection, connection
from exotrio.cli.exit_codes import FAILED, SUCCESS
from exotrio.cli.groups import Commands
from exotrio.cli.lookup import PAGE, find_run, find_run_id, list_pages, list_runs
from exotrio.cli.runs.remote import follow
from exotrio.cli.runs.result import failure_lines
from exotrio.cli.terminal.output import print_message, table
from exotrio.client import (
    Change,
    RelatedRun,
    RepinnedRuns,
    Run,
    RunRetry,
    RunStatus,
    RunSummary,
    SentEvent,
    StateManager,
    StateStatus,
    StateSummary,
)
from exotrio.errors import RequestRefused

MAX_CHANGES = 5
"""Changes of the run by requests that `runs show` lists, newest first."""
MAX_FAILED = 20
"""Failed states that `runs show` has as JSON."""


@click.group(name="runs", cls=Commands)
def command() -> None:
    """List and show runs; watch, cancel or retry one, send it an event, or change its priority or version.

    RUN is the id of a run. Its key, or the first 6 characters of its id, are enough, if they are
    unique.
    """


@command.command(name="ls")
@options.name("--graph", kind="graph", help="Only runs of this graph.")
@click.option(
    "--status",
    metavar="STATUS",
    type=click.Choice([status.value for status in RunStatus], case_sensitive=False),
    help=f"Only runs with this status: {', '.join(RunStatus)}.",
)
@options.run_key("Only runs with this key.")
@options.name("--parent", kind="run", help="Only runs that this run started, as children or by failing.")
@options.limit(20, "List at most N runs.")
@connection
def ls(
    graph: str | None,
    status: str | None,
    run_key: str | None,
    parent: str | None,
    limit: int,
    connection: Connection,
) -> None:
    """List runs, newest first.

    JSON: namespace, runs (as in `runs show`, without nodes, failed, missing and averages), more (whether
    there are more).
    """
    run_status = None if status is None else RunStatus(status)

    async def ask(manager: StateManager) -> tuple[list[RunSummary], bool]:
        above = None if parent is None else await find_run_id(manager, parent)
        return await list_runs(manager, graph, run_status, limit, run_key, above)

    runs, more = connection.ask(ask)
    is_all = graph is status is run_key is parent is None
    count = plural(len(runs), "run" if is_all else "matching run")
    # Columns that are empty for most people.
    texts = {
        "pruned": [str(run.pruned_count or "") for run in runs],
        "priority": [str(run.priority) for run in runs],
        "key": [run.key or "" for run in runs],
        "started by": [_parent(run) for run in runs],
    }
    used = {name: column for name, column in texts.items() if {*column} - {"", Priority.NORMAL}}
    connection.print_list(
        ("run", "graph", "status", "success", "errored", "open", "created", "took", *used),
        [(*_row(run), *rest) for run, *rest in zip(runs, *used.values(), strict=True)],
        f"{count} in namespace {connection.namespace}" + ("; more with --limit" if more else ""),
        runs=runs,
        more=more,
    )


@command.command(name="show")
@options.run
@connection
def show(run_id: str, connection: Connection) -> None:
    """Show the progress of a run by node, and what failed.

    JSON: run_id, graph_name, status, created_at, finished_at, cancelled_at, key, priority, weight, fair_key
    (in which order its states are claimed), started_by (the name of a key, or null), origin (api, dashboard,
    schedule, graph or failure), parent_run_id (of the run that started it), parent (that run: run_id,
    graph_name, status, state_id, identifier), children (runs that it started, as parent, with created_at,
    finished_at, and problem, if one could not be started), children_count, duration_ms (null
    until it ended; without idle_ms, for which it had ended and waited to be retried), waited_ms,
    buffered_ms, ran_ms, held_ms, for_event_ms, for_run_ms and earlier_ms (averages of its states, or null,
    as `states ls` has them), success_count (with those that are
    PRUNED: pruned_count), pending_count (with those that wait for events: for_event_count,
    for runs: for_run_count), errored_count,
    retried_count, total_count, nodes (identifier, node_name, counts by status; waits_for: why its states wait
    (kind, namespace, node, at, event, since, workers, text), and paused_at if that is a pause; not_reached:
    why the node has no state; further: how many of its SUCCESS states are further outputs of one execution;
    is_last: no node follows it), missing (what the result lacks since states failed), failed (the newest
    failed states: id, identifier, status, error), changes (the last ones of the run by requests: at, who,
    action, namespace, target, result).
    """

    async def ask(manager: StateManager) -> tuple[Run, list[StateSummary], list[Change]]:
        run, changes = await find_run(manager, run_id), list[Change]()
        with suppress(RequestRefused):  # by a server of v0, or an older one of ours
            changes = (await manager.changes(action="run.", target=run.run_id, limit=MAX_CHANGES)).changes
        if not run.errored_count:
            return run, [], changes
        call = partial(manager.states, run=run.run_id, status=ERRORED)
        return run, (await list_pages(call, lambda page: page.states, PAGE))[0], changes

    run, failed, changes = connection.ask(ask)
    shown = [
        state.model_dump(mode="json", include={"id", "identifier", "status", "error"})
        for state in failed[:MAX_FAILED]
    ]
    body = {**run.model_dump(mode="json"), "failed": shown}
    body["changes"] = [change.model_dump(mode="json", exclude_none=True) for change in changes]
    done = (f"{change.text()} at {iso_time(change.at)}" for change in changes)
    connection.print(body, chain(_as_lines(run), failure_lines(run, failed), done))


@command.command(name="watch")
@options.run
@options.timeout
@connection
def watch(run_id: str, timeout: float | None, connection: Connection) -> int:
    """Follow a run until it ends, then show its result.

    Exits 0 if it succeeded, 1 if it failed, and 130 if Ctrl-C or --timeout ended this command, not the run.
    If the state manager gives no usable answer for a minute, it exits 4, and prints how to follow it again.

    JSON: as in `run`.
    """

    async def find(manager: StateManager) -> str:
        find = partial(find_run, manager, run_id)
        return (await manager._through_outages(find, known=False)).run_id

    return follow(connection, find, timeout)


@command.command(name="cancel")
@options.run
@connection
def cancel(run_id: str, connection: Connection) -> None:
    """Cancel a run: waiting and running states end as errored; nothing follows.

    Runs for which its states wait are cancelled, too.
    Runtimes learn of it with their next heartbeat, and cancel its nodes. Of many states, the first 1,000 end
    at once, and the rest soon, in portions; none of them is claimed. Cancelling a run again changes nothing.
    A state manager that speaks only v0 cannot cancel runs.

    JSON: as in `runs show`, without failed.
    """

    async def ask(manager: StateManager) -> Run:
        return await manager.cancel(await find_run_id(manager, run_id))

    run = connection.ask(ask)
    connection.print(run, _as_lines(run))


@command.command(name="priority")
@options.run
@click.argument("priority", type=click.Choice([each.value for each in Priority]))
@connection
def set_priority(run_id: str, priority: str, connection: Connection) -> None:
    """Change the priority of a run: high, normal or low.

    Its waiting states are claimed before, or after, those of other runs from now on. States that are claimed
    continue. Of many, the first 1,000 are moved at once, and the rest soon, in portions. A state manager that
    speaks only v0 has no priorities.

    JSON: as in `runs show`, without failed, and to_move: how many states follow.
    """

    async def ask(manager: StateManager) -> Run:
        return await manager.set_priority(await find_run_id(manager, run_id), priority)

    run = connection.ask(ask)
    moved = f"{plural(run.to_move, 'more state')} will have this priority soon: they are moved in portions"
    notes = [moved] if run.to_move else []
    if run.finished_at is not None:
        notes.append("the run has ended: the priority counts if it is retried")
    connection.print(run, chain(_as_lines(run), notes))


@command.command(name="repin")
@click.argument("run_id", metavar="[RUN]", required=False, shell_complete=completion.names("run"))
@click.option(
    "--version", metavar="OLD", type=options.CODE_VERSION, help="All runs in flight of this version."
)
@click.option("--to", "new", metavar="NEW", type=options.CODE_VERSION, required=True, help="The version.")
@connection
def repin(run_id: str | None, version: str | None, new: str, connection: Connection) -> int:
    """Let a run, or all runs in flight of a version, need another version of the code.

    Each is checked first: what it has ahead has to fit the nodes that a runtime of the new version has
    registered, and so have the inputs of its states. What does not is named, and such a run is not moved. A
    state that a runtime holds is ended by it. Exits 0 if all were moved, and 1 if some were refused.

    JSON: repinned (run_id, version, before, may_not_fit) and refused (run_id, reason).
    """
    if (run_id is None) == (version is None):
        raise click.UsageError("give a run, or --version OLD")

    async def ask(manager: StateManager) -> RepinnedRuns:
        if version is not None:
            return await manager.repin_version(version, to=new)
        moved = await manager.repin(await find_run_id(manager, str(run_id)), to=new)
        return RepinnedRuns(repinned=[moved], refused=[])

    runs = connection.ask(ask)
    lines = [
        f"{run.run_id} needs version {run.version}" + (f", not {run.before}" if run.before else "")
        for run in runs.repinned
    ]
    lines += [f"{run.run_id} may not fit: {text}" for run in runs.repinned for text in run.may_not_fit]
    lines += [f"{run.run_id} was not moved: {run.reason}" for run in runs.refused]
    lines += [f"no run in flight needs version {version}"] if not lines else []
    connection.print(runs.model_dump(mode="json", exclude={"next"}), lines)
    return FAILED if runs.refused else SUCCESS


@command.command(name="retry")
@options.run
@options.from_beginning
@connection
def retry(run_id: str, from_beginning: bool, connection: Connection) -> int:
    """Retry every failed state of a run.

    A state that has a checkpoint continues from it, unless --from-beginning is given. Nodes that united what
    failed, and ran without it, run again with all that follows them; the command names them. A state
    that ran a graph starts another run of it; a retry of that run itself changes nothing of the run that
    started it. Exits 0 if all failed states were retried, and 1 if some were refused; each is named with the
    reason.

    Of more than 500 failed states, the others follow the first 500 soon, in portions.

    JSON: run_id, retried (state_id, new_state_id, status, from_checkpoint), refused (state_id, reason),
    runs_again (the number of states that are replaced with them, by identifier) and others (how many follow).
    """

    async def ask(manager: StateManager) -> tuple[str, RunRetry]:
        whole_id = await find_run_id(manager, run_id)
        return whole_id, await manager.retry_run(whole_id, from_beginning=from_beginning)

    whole_id, reply = connection.ask(ask)
    lines = [reply.text(f" of run {whole_id}")]
    lines += [f"not retried: {state.state_id}: {state.reason}" for state in reply.refused]
    connection.print({"run_id": whole_id, **reply.model_dump(mode="json")}, lines)
    return FAILED if reply.refused else SUCCESS


@command.command(name="send")
@options.run
@click.argument("event", metavar="EVENT")
@options.event_fields
@connection
def send(run_id: str, event: str, inputs: dict[str, str], connection: Connection) -> None:
    """Send an event to a run. What waits for it goes on.

    It is kept if nothing waits for it yet. The first value of an event counts, and may be sent again.
    Refused, with exit code 3, are another value, a value that does not fit what waits for it, and any other
    event once the run has ended. Give private values in a file or on standard input: other users can read
    arguments.

    JSON: run_id, name, created (false if it was sent before), woken (states that waited for it), similar (the
    event that was perhaps meant, if no place of the graph waits for this one).
    """

    async def ask(manager: StateManager) -> tuple[str, SentEvent]:
        whole_id = await find_run_id(manager, run_id)
        return whole_id, await manager.send(whole_id, event, inputs)

    whole_id, sent = connection.ask(ask)
    if not sent.created:
        then = "was sent before with the same value: nothing changed"
    elif sent.woken:
        then = f"sent: {plural(sent.woken, 'state')} waited for it"
    else:
        meant = (
            ""
            if sent.similar is None
            else f", but no place of the graph waits for it; did you mean {sent.similar!r}?"
        )
        then = f"sent: no state waits for it now, so it is kept{meant}"
    body = {"run_id": whole_id, **sent.model_dump(mode="json", exclude={"run_id"})}
    connection.print(body, [f"event {event} {then}"])
    if connection.is_alone:
        print_message(connection.how_to_execute(whole_id))


def _as_lines(run: Run) -> Iterator[str]:
    present = {status for node in run.nodes for status, count in node.counts.items() if count}
    used = [*(status for status in StateStatus if status in present), *sorted(present - {*StateStatus})]
    rows = [
        (node.identifier, node.node_name, *(str(node.counts.get(status, 0)) for status in used))
        for node in run.nodes
    ]
    moments = (("created", run.created_at), ("cancelled", run.cancelled_at), ("finished", run.finished_at))
    times = [f"{what} {iso_time(at)}" for what, at in moments if at]
    if run.duration is not None:
        times.append(f"took {format_duration(run.duration)}")
    if run.idle:
        times.append(f"waited {format_duration(run.idle)} to be retried")
    if run.started_by is not None:
        times.append(f"started by {run.started_by}")
    by_key = f" with the key {run.key!r}" if run.key else ""
    if run.priority != Priority.NORMAL:
        by_key += f", priority {run.priority}"
    if run.fair_key is not None:
        by_key += f", fairness key {run.fair_key!r}"
    if run.weight != 1:
        by_key += f", weight {run.weight:g}"
    yield f"run {run.run_id} of graph {run.graph_name}{by_key}: {', '.join([_status(run), *times])}"
    yield from table(("place", "node", *used), rows)
    if run.changing:
        yield f"this goes on in portions: {', '.join(run.changing)}"
    if run.waited is not None:
        yield f"on average a state {run.times_text(ended=True)}"
    if run.parent is not None:
        yield f"started by run {run.parent.run_id} of graph {run.parent.graph_name}: {run.parent.cause}"
        above = run.parent.cancelled_at
        if run.origin != FAILURE and run.cancelled_at and above and above <= run.cancelled_at:
            yield "cancelled since that run was cancelled"
    elif run.origin == FAILURE:
        yield "started by the failure of a run that was deleted since"
    if run.children:
        more = run.children_count - len(run.children)
        left_out = f", of which {more:,} are not shown" if more else ""
        yield f"started {plural(run.children_count, 'run')}{left_out}:"
        yield from table(("run", "graph", "status", "by"), [_child(child, run) for child in run.children])
    if run.missing:
        so_far = " so far" if run.status is RunStatus.PENDING else ""
        what = "its result is partial" if run.has_result else "it has no result"
        yield f"{what}{so_far}: {'; '.join(run.missing)}"
    for node in run.nodes:
        if node.waits_for:
            yield f"{node.identifier} {node.waits_for.text}"
        if node.further:
            outputs = node.counts.get(StateStatus.SUCCESS, 0)
            ran = plural(outputs - node.further, "execution")
            yield f"fan-out: the {outputs} successes of {node.identifier} are the outputs of {ran}"
        if node.not_reached:
            yield f"not reached: {node.identifier}: {node.not_reached}"


def _child(child: RelatedRun, run: Run) -> tuple[str, ...]:
    status = _status(child) if child.status else child.word
    if child.problem:
        status += f": {one_line(child.problem)}"
    if run.cancelled_at and child.origin != FAILURE and child.status is RunStatus.PENDING:
        status = f"{child.status} (about to be cancelled)"
    return (child.run_id or "", child.graph_name, status, child.cause)


def _status(run: RunSummary | RelatedRun) -> str:
    return str(run.status) + (f" ({run.word})" if run.word in ("cancelled", "cancelling", "waiting") else "")


def _parent(run: RunSummary) -> str:
    if run.parent_run_id is None:
        return ""
    return f"failure of run {run.parent_run_id}" if run.origin == FAILURE else f"run {run.parent_run_id}"


def _row(run: RunSummary) -> tuple[str, ...]:
    counts = (run.success_count - run.pruned_count, run.errored_count, run.pending_count)
    created = iso_time(run.created_at) if run.created_at else ""
    took = "" if run.duration is None else format_duration(run.duration)
    return (run.run_id, run.graph_name, _status(run), *map(str, counts), created, took)
