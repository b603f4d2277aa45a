"""``python -m exotrio audit``: list who changed what."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import click

from exotrio._util.times import iso_time
from exotrio._util.words import plural
from exotrio.cli import options
from exotrio.cli.connection import Connection, server_connection
from exotrio.cli.groups import Commands
from exotrio.cli.lookup import list_pages
from exotrio.cli.terminal.output import table
from exotrio.client import Change, StateManager


@click.group(name="audit", cls=Commands)
def command() -> None:
    """List who changed what, when, and from where."""


@command.command(name="ls")
@options.name("-n", "--namespace", "within", kind="namespace", help="Only changes in this namespace.")
@click.option("--by", "who", metavar="KEY", help="Only changes by the key with this name or id.")
@click.option(
    "--action",
    metavar="ACTION",
    help="Only actions that begin with this: run.cancel, or run for all on runs.",
)
@click.option("--target", metavar="TARGET", help="Only targets whose name or id begins with this.")
@click.option("--since", type=options.AGO, help="How long ago the changes were at most: 45m, 2h, 7d.")
@click.option("--until", type=options.AGO, help="How long ago they were at least, too: 45m, 2h.")
@options.limit(50, "List at most N changes.")
@options.output
@server_connection
def ls(within: str | None, limit: int, connection: Connection, **filters: Any) -> None:
    """List changes of all namespaces, newest first.

    The record has what requests changed: graphs that were stored or deleted, runs that were cancelled or
    retried, and so on; not what runtimes do all the time. The last 100,000 changes are kept, and these as
    long as runs. Versions before this one recorded none.

    JSON: changes (at, who, key_id, address, request_id, action, namespace, target, result), more (whether
    there are more).
    """

    async def ask(manager: StateManager) -> tuple[list[Change], bool]:
        call = partial(manager.audit, namespace=within, **filters)
        return await list_pages(call, lambda page: page.changes, limit)

    changes, more = connection.ask(ask)
    count = plural(len(changes), "change") + ("; more with --limit" if more else "")
    connection.print({"changes": changes, "more": more}, _lines(changes, count))


def _lines(changes: list[Change], count: str) -> Iterator[str]:
    heads = ("at", "who", "from", "action", "namespace", "target", "result", "request")
    yield from table(heads, map(_row, changes))
    yield count


def _row(change: Change) -> tuple[str, ...]:
    return (
        iso_time(change.at, "seconds"),
        f"{change.who} ({change.key_id})" if change.key_id else change.who,
        change.address or "",
        change.action,
        change.namespace,
        change.target,
        change.result,
        change.request_id or "",
    )
