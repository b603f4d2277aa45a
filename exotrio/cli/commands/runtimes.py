"""``python -m exotrio runtimes``: list runtimes, and how others stopped; drain them, show their tasks."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from enum import Enum

import click
import trio

from exotrio._util.times import format_coarse, format_duration
from exotrio._util.words import one_line, plural
from exotrio.cli import options
from exotrio.cli.connection import Connection, connection
from exotrio.cli.exit_codes import ABANDONED, SUCCESS
from exotrio.cli.groups import Commands
from exotrio.cli.lookup import STOPPED, find_runtime, find_runtimes
from exotrio.cli.terminal.output import print_message
from exotrio.client import RuntimeInfo, StateManager, StopReceipt
from exotrio.errors import ExotrioError, RequestRefused

STOP_COLUMNS = (
    *("stopped", "runtime", "worker", "why", "took", "phases", "finished", "handed over", "cut"),
    *("work lost", "undelivered", "exit"),
)
LS_COLUMNS = (
    *("runtime", "worker", "phase", "busy", "free", "buffered", "reporting", "held", "at risk"),
    *("heartbeat", "nodes"),
)
POLL_INTERVAL = 0.5
UNKNOWN = 30.0
"""Seconds after which a runtime that the state manager does not know counts as stopped. If the state manager
was restarted, the next heartbeat of a live runtime comes within 10 s."""


class Fate(Enum):
    """The result of draining a runtime, in words."""

    ASKED = "asked to drain"
    """It receives the request with the answer to its next heartbeat."""
    STOPPED = "stopped"
    SILENT = "fell silent"
    """Its heartbeats ended, and it did not report that it stopped."""
    PRESENT = "still running"
    """It was still running at the timeout."""


@click.group(name="runtimes", cls=Commands)
def command() -> None:
    """List runtimes, and how others stopped; drain them, and show where their tasks wait.

    RUNTIME is the id of one as `runtimes ls` shows it, the part of it after the last colon, the first 6
    characters of either, or the name of a Runtime. Only exotrio's own state manager knows its runtimes.
    """


@command.command(name="ls")
@connection
def ls(connection: Connection) -> None:
    """List the runtimes of a namespace: their phase, workers and claims, and their last heartbeat.

    Held = busy + buffered + reporting: busy workers run a state, buffered states have not begun, and those
    that are reporting have ended, and their outcome is not accepted yet. At risk is the work of the running
    nodes since their last stored checkpoints, added up: it is repeated if the runtime is killed. A node
    counts from the first heartbeat after it began; until then, ≥ stands before the sum. Stopped runtimes are
    listed for a minute, silent ones for ten.

    JSON: namespace, runtimes (worker_id, runtime, phase, live, asked_to_drain, workers, busy, buffered,
    reporting, holds, work_at_risk_ms, work_at_risk_is_more, heard_ms, polled_ms, nodes, run_id, shows_tasks,
    version) and v0 (nodes, polled_ms).
    """
    runtimes = connection.ask(StateManager.workers)
    v0 = [
        f"unnamed, through v0: {', '.join(each.nodes)}, last {format_coarse(each.polled_ago)} ago"
        for each in runtimes.v0
    ]
    connection.print_list(
        LS_COLUMNS,
        [_row(runtime) for runtime in runtimes.workers],
        *v0,
        f"{plural(len(runtimes.workers), 'runtime')} in namespace {connection.namespace}",
        hint="" if runtimes.v0 else "start one with: python -m exotrio worker FILE",
        runtimes=runtimes.workers,
        v0=runtimes.v0,
    )


@command.command(name="stops")
@click.option(
    "--since",
    type=options.DURATION,
    default="24h",
    show_default=True,
    help="How long ago the stops ended at most: 45m, 2h, 7d.",
)
@connection
def stops(since: float, connection: Connection) -> None:
    """List how runtimes stopped, the last one first, and what that cost; the last line is the sum.

    Of a runtime that vanished, "stopped" is its last heartbeat: when it ended is not known.
    "finished", "handed over" and "cut" count the nodes that ran when the stop began. Work lost is how long
    those that were cut had run, without what their checkpoints keep; of a runtime that vanished, until its
    last heartbeat: it may be more. "0 to 2" were cut if it also held states of which no heartbeat said that
    they run. Undelivered states are unknown, abandoned, or in the outbox. A runtime that was killed or cut
    off is listed as vanished once its leases have ended: 15 to 33 s later, if they last 30 s.

    JSON: namespace, stops (worker_id, runtime, why, shortened_by, vanished, began_at, ended_at, took_ms,
    drain_ms, clean_up_ms, flush_ms, finished, handed_over, cut, perhaps_cut, work_lost_ms, unknown,
    abandoned, kept, exit_code) and total (stops, vanished, took_ms, longest_ms, finished, handed_over, cut,
    perhaps_cut, work_lost_ms, undelivered).
    """
    listed = connection.ask(lambda manager: manager.stops(within=since))
    now = datetime.now(UTC)
    connection.print_list(
        STOP_COLUMNS,
        [stop_row(receipt, now) for receipt in listed.receipts],
        listed.total.text(),
        stops=listed.receipts,
        total=listed.total,
    )


@command.command(name="drain")
@click.argument("runtimes", metavar="[RUNTIME]...", nargs=-1)
@click.option("--all", "every", is_flag=True, help="Drain every live runtime of the namespace.")
@click.option("--wait", "waits", is_flag=True, help="Wait until they have stopped.")
@options.seconds("--timeout", 120, "How long --wait waits.")
@connection
def drain(runtimes: tuple[str, ...], every: bool, waits: bool, timeout: float, connection: Connection) -> int:
    """Drain runtimes: they claim nothing more, finish running nodes, release other claims, and stop.

    A name stands for all runtimes that have it. Each learns of it with its next heartbeat, usually within
    10 s.

    With --wait it exits 0 once all have stopped, and 75 if one of them sends no more heartbeats, or is
    still running after the timeout; the drain continues.

    JSON: namespace, runtimes (worker_id, runtime, result: asked; with --wait stopped, silent or present).
    """
    if every == bool(runtimes):
        raise click.UsageError("name the runtimes to drain, or give --all")

    async def ask(manager: StateManager) -> tuple[list[RuntimeInfo], dict[str, Fate]]:
        known = (await manager.workers()).workers
        matching = [runtime for runtime in known if runtime.live] if every else []
        for name in runtimes:
            matching += find_runtimes(known, name)
        drained = {each.worker_id: each for each in matching if each.phase != STOPPED}
        for worker_id in drained:
            await manager.drain(worker_id)
        if waits:
            return list(drained.values()), await wait_until_gone(manager, drained, timeout)
        return list(drained.values()), dict.fromkeys(drained, Fate.ASKED)

    drained, fates = connection.ask(ask)
    shown = [
        {"worker_id": each.worker_id, "runtime": each.runtime, "result": fates[each.worker_id].name.lower()}
        for each in drained
    ]
    if drained or connection.form == "json":
        lines = (f"{fates[each.worker_id].value}: {each.worker_id}" for each in drained)
        connection.print({"namespace": connection.namespace, "runtimes": shown}, lines)
    if not drained:
        print_message("nothing to drain: no such runtime is live")
    return SUCCESS if {*fates.values()} <= {Fate.ASKED, Fate.STOPPED} else ABANDONED


@command.command(name="tasks")
@click.argument("runtime", metavar="RUNTIME")
@options.seconds("--timeout", 60, "How long to wait for it.")
@connection
def tasks(runtime: str, timeout: float, connection: Connection) -> None:
    """Print the tree of a runtime's tasks, and where each waits: lines of code, no values.

    The runtime sends it with its next heartbeat, usually within 10 s, if it was started with
    `worker --health-tasks` or by `dev`.

    JSON: worker_id, runtime, tasks (the tree as text).
    """

    async def ask(manager: StateManager) -> tuple[RuntimeInfo, str]:
        worker = find_runtime((await manager.workers()).workers, runtime)
        if not worker.shows_tasks:
            raise RequestRefused(
                f"the runtime {worker.worker_id} does not show its tasks",
                fix="start it with: worker FILE --health-tasks",
            )
        print_message(f"{one_line(worker.worker_id)} sends it with its next heartbeat")
        try:
            return worker, await manager.tasks(worker.worker_id, timeout=timeout)
        except trio.TooSlowError as error:
            raise ExotrioError(
                f"no task tree came from {worker.worker_id} within {timeout:g} s",
                where=f"its last heartbeat came {format_coarse(worker.heard_ago)} before that",
                fix="wait longer with --timeout; check whether it is live with `runtimes ls`",
            ) from error

    worker, tree = connection.ask(ask)
    body = {"worker_id": worker.worker_id, "runtime": worker.runtime, "tasks": tree}
    connection.print(body, tree.split("\n"))


def _row(worker: RuntimeInfo) -> tuple[str, ...]:
    phase = worker.phase
    if worker.asked_to_drain:
        phase = f"{phase}, asked to drain"
    if not worker.live and worker.phase != STOPPED:
        phase = f"silent, was {phase}"
    return (
        worker.runtime or "(no heartbeat yet)",
        worker.worker_id,
        phase,
        str(worker.busy),
        "" if worker.free is None else str(worker.free),
        str(worker.buffered),
        str(worker.reporting),
        str(worker.holds),
        worker.at_risk or "0",
        f"{format_coarse(worker.heard_ago)} ago",
        ", ".join(worker.nodes) + (f" (only for run {worker.run_id[:8]})" if worker.run_id else ""),
    )


def stop_row(receipt: StopReceipt, now: datetime) -> tuple[str, ...]:
    return (
        f"{'heartbeat ' * receipt.vanished}{format_coarse((now - receipt.ended_at).total_seconds())} ago",
        receipt.runtime,
        receipt.worker_id,
        receipt.reason,
        "-" if receipt.took is None else format_duration(receipt.took),
        receipt.phases or "-",
        str(receipt.finished),
        str(receipt.handed_over),
        receipt.cut_in_words,
        receipt.lost or "-",
        str(receipt.undelivered),
        "-" if receipt.exit_code is None else str(receipt.exit_code),
    )


async def wait_until_gone(
    manager: StateManager, worker_ids: Iterable[str], timeout: float
) -> dict[str, Fate]:
    """Wait until runtimes have stopped, and print their progress; return the result for each id."""
    fates = dict.fromkeys(worker_ids, Fate.PRESENT)
    printed: dict[str, str] = {}
    missed: dict[str, float] = {}
    with trio.move_on_after(timeout):
        while Fate.PRESENT in fates.values():
            known = {worker.worker_id: worker for worker in (await manager.workers()).workers}
            for worker_id, fate in fates.items():
                if fate is not Fate.PRESENT:
                    continue
                now, worker = trio.current_time(), known.get(worker_id)
                if worker is None:
                    if now - missed.setdefault(worker_id, now) >= UNKNOWN:
                        fates[worker_id] = Fate.STOPPED
                    continue
                missed.pop(worker_id, None)
                if worker.phase == STOPPED:
                    fates[worker_id] = Fate.STOPPED
                    continue
                if not worker.live:
                    fates[worker_id] = Fate.SILENT
                elif worker.phase == "running" and not worker.asked_to_drain:
                    # The state manager was restarted, and has lost the request to drain.
                    await manager.drain(worker_id)
                line = _drain_progress(worker)
                if printed.get(worker_id) != line:
                    printed[worker_id] = line
                    print_message(f"{one_line(worker_id)}: {one_line(line)}")
            await trio.sleep(POLL_INTERVAL)
    return fates


def _drain_progress(worker: RuntimeInfo) -> str:
    """Return the progress of a runtime that was asked to drain, in a few words."""
    if not worker.live:
        silent = format_coarse(worker.heard_ago)
        return f"silent for {silent}, and it holds {worker.holds} states until their leases end"
    if worker.asked_to_drain:
        return "asked to drain; it learns so with its next heartbeat"
    return f"{worker.phase}; {worker.busy} running, {worker.buffered} buffered"
