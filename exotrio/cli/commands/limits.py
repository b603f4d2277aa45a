"""``python -m exotrio limits``: list, show, set and delete the limits of a namespace."""

from __future__ import annotations

from contextlib import suppress
from typing import Literal

import click

from exotrio._util.times import format_duration, iso_time
from exotrio._util.words import listed, plural, suggestion
from exotrio._wire.vocabulary import short_id
from exotrio.cli import completion, options
from exotrio.cli.connection import Connection, connection
from exotrio.cli.groups import Commands
from exotrio.cli.lookup import about
from exotrio.client import LimitDetail, LimitInfo, StateManager
from exotrio.errors import ExotrioError

_name = click.argument("name", metavar="LIMIT", shell_complete=completion.names("limit"))


def _at_most(text: str) -> int | Literal["unlimited"]:
    if text == "unlimited":
        return "unlimited"
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"{text!r} is neither a whole number nor 'unlimited'") from None


_AT_MOST = options.Parsed("number", _at_most)


@click.group(name="limits", cls=Commands)
def command() -> None:
    """List, show, set and delete limits: how many states run at once, or start in a period.

    A limit belongs to a namespace. The states of all nodes that name it in a graph count, on all machines. If
    nodes give it a key, it applies to each key separately.
    """


@command.command(name="ls")
@connection
def ls(connection: Connection) -> None:
    """List the limits of a namespace, how many states hold each, and how many wait for it.

    At most 100,000 waiting states are counted; one that finds no room in several limits counts at one of
    them.

    JSON: namespace, limits (name, at_most, starts, period_ms, updated_at, held, waiting, graphs,
    keyed, stopping, created_at).
    """
    limits = connection.ask(StateManager.limits)
    connection.print_list(
        ("limit", "limits", "held", "waiting", "graphs", "set"),
        [
            (
                limit.name,
                _limits(limit),
                limit.held_text(),
                f"{limit.waiting:,}",
                listed(limit.graphs, 3) if limit.graphs else "",
                iso_time(limit.updated_at),
            )
            for limit in limits
        ],
        f"{plural(len(limits), 'limit')} in namespace {connection.namespace}",
        hint="make one with: python -m exotrio limits set NAME --at-most 5",
        limits=limits,
    )


@command.command(name="show")
@_name
@connection
def show(name: str, connection: Connection) -> None:
    """Show a limit: the states that hold it, and how many wait for it, by key; at most 100 of each.

    JSON: as in `limits ls`, and set_by, keys (key, held, waiting, started, room_at), holders (state_id,
    run_id, key, held_ms, worker, stopping, stage).
    """
    limit = connection.ask(lambda manager: about(manager, "limit", name, manager.limit(name)))
    connection.print(limit, _as_lines(limit))


@command.command(name="set")
@_name
@click.option("--at-most", type=_AT_MOST, metavar="N", help="States at once, for each key; 0 stops all.")
@click.option(
    "--starts", type=_AT_MOST, metavar="N", help="Starts within --period, for each key; 0 stops all."
)
@click.option("--period", type=options.DURATION, help="How long: 60s, 1m, 24h; at most 31d.")
@connection
def set_limit(
    name: str,
    at_most: int | Literal["unlimited"] | None,
    starts: int | Literal["unlimited"] | None,
    period: float | None,
    connection: Connection,
) -> None:
    """Make LIMIT, or change it while everything runs. What is not given stays as it is.

    N is a whole number, or "unlimited", which takes that part of the limit away. The next claim obeys the
    change; running states continue.

    JSON: as in `limits show`.
    """
    if at_most is starts is period is None:
        raise click.UsageError("give --at-most, or --starts with --period")

    async def change(manager: StateManager) -> tuple[LimitDetail, list[str]]:
        limit = await manager.set_limit(name, at_most=at_most, starts=starts, period=period)
        if limit.created_at != limit.updated_at:
            return limit, []
        if limit.graphs:  # a graph that names a limit is stored only if there is one
            return limit, [f"it is made again: states of {listed(limit.graphs, 3)} take part again"]
        others: list[str] = []
        with suppress(ExotrioError):  # the limit is set, and the key may not be allowed to read
            others = [each.name for each in await manager.limits() if each.name != limit.name]
        # Whether it is new is not known: states that do not wait may have named it before.
        again = ["it is made again: states of earlier runs take part again"]
        likely = f"no graph names it{suggestion(limit.name, others)}"
        return limit, [*(again if limit.held or limit.waiting else ()), likely]

    limit, is_new = connection.ask(change)
    connection.print(limit, [f"limit {limit.name}: {_limits(limit)}", *is_new])
    if is_new and not limit.graphs:
        connection.doubt_namespace()


@command.command(name="rm")
@_name
@click.option("--force", is_flag=True, help="Delete it even if graphs or waiting states name it.")
@connection
def rm(name: str, force: bool, connection: Connection) -> None:
    """Delete LIMIT. That is refused while a graph or a waiting state names it, unless --force is given.

    JSON: namespace, name, graphs (which still name it).
    """
    graphs = connection.ask(
        lambda manager: about(manager, "limit", name, manager.remove_limit(name, force=force))
    )
    still = f"; graphs still name it, and are not limited by it any more: {listed(graphs)}" if graphs else ""
    connection.print(
        {"namespace": connection.namespace, "name": name, "graphs": graphs},
        [f"limit {name} is deleted{still}"],
    )


def _limits(limit: LimitInfo) -> str:
    return f"{limit.text()}{' (stopped)' if limit.stops else ''}"


def _as_lines(limit: LimitDetail) -> list[str]:
    lines = [
        f"limit {limit.name}: {_limits(limit)}",
        f"set: {iso_time(limit.updated_at)}{f' by {limit.set_by}' if limit.set_by else ''}",
        f"named by: {listed(limit.graphs) if limit.graphs else 'no graph'}",
        f"held by {plural(limit.held, 'state')}; {limit.waiting:,} waiting",
    ]
    if limit.keys:
        lines.append("keys:")
    for key in limit.keys:
        starts = "" if key.started is None else f", {key.started:,} started in the period"
        room = "" if key.room_at is None else f", next start {iso_time(key.room_at)}"
        lines.append(f"  {key.key or '(none)'}: {key.held:,} held, {key.waiting:,} waiting{starts}{room}")
    if limit.holders:
        lines.append("holders:")
    for holder in limit.holders:
        of_key = f", key {holder.key}" if holder.key else ""
        by = f", by {holder.worker}" if holder.worker else ""
        since = format_duration(holder.held_for)
        stage = "stopping" if holder.stopping else holder.stage
        ends = f", {stage}" if stage else ""
        lines.append(f"  {short_id(holder.state_id)} of run {holder.run_id}{of_key}, since {since}{by}{ends}")
    return lines
