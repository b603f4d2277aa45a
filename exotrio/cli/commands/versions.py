"""``python -m exotrio versions``: which versions of code are needed, and which may be stopped."""

from __future__ import annotations

import time

import click

from exotrio._util.times import format_coarse
from exotrio._util.words import listed, plural
from exotrio.cli.connection import Connection, connection
from exotrio.cli.groups import Commands
from exotrio.client import StateManager, VersionInfo


@click.group(name="versions", cls=Commands)
def command() -> None:
    """List versions of code: of runtimes, and of graphs and runs that are pinned to one."""


@command.command(name="ls")
@connection
def ls(connection: Connection) -> None:
    """List the versions that a live runtime has or something needs, and say which may be stopped.

    Runs in flight are those that are pinned to the version, and the oldest of them is the first that was
    started. Graphs are those whose next runs are pinned to it.

    JSON: namespace, versions (version, runtimes, runs, oldest_ms in Unix time, graphs, needed).
    """
    versions = connection.ask(StateManager.versions)
    connection.print_list(
        ("version", "runtimes", "runs in flight", "oldest", "graphs", "state"),
        [_row(each) for each in versions],
        f"{plural(len(versions), 'version')} in namespace {connection.namespace}",
        hint="a Runtime and a Graph name theirs: Runtime(version=...), Graph(version=...)",
        versions=versions,
    )


def _row(each: VersionInfo) -> tuple[str, ...]:
    oldest = "" if each.oldest is None else f"{format_coarse(time.time() - each.oldest.timestamp())} ago"
    graphs = listed(each.graphs, 3) if each.graphs else ""
    return (each.version, f"{each.runtimes:,}", f"{each.runs:,}", oldest, graphs, each.state)
