"""Compares the nodes and graphs of files with the runs in flight of a state manager."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import click

from exotrio import Runtime
from exotrio._nodes.checks import declare
from exotrio._util.words import listed, plural
from exotrio._wire.v0 import NodeDeclaration
from exotrio.cli.connection import Connection
from exotrio.cli.graphs.check import Report
from exotrio.client import BrokenRuns, NewRelease, ReleaseCheck
from exotrio.graph import pinned_name

MAX_SHOWN = 5
"""Runs that a line names."""
SHOWN_OF_ID = 8


def compare_with_runs(connection: Connection, report: Report, secrets: Iterable[str]) -> ReleaseCheck:
    """Ask a state manager which runs in flight the files would break.

    Raises:
        UsageError: the files have no Runtime, or those of several namespaces.
    """
    namespaces = {runtime.namespace for runtime in report.runtimes}
    if not namespaces:
        raise click.UsageError("--against-runs needs the nodes: name the Python file of their Runtime, too")
    if not connection.namespace:
        if len(namespaces) > 1:
            raise click.UsageError(
                f"the Runtimes have the namespaces {listed(sorted(namespaces))}: give one with -n"
            )
        (connection.namespace,) = namespaces
    release = _release(report, connection.namespace, secrets)
    return connection.ask(lambda manager: manager.check_release(release))


def _release(report: Report, namespace: str, secrets: Iterable[str]) -> NewRelease:
    runtimes = [runtime for runtime in report.runtimes if runtime.namespace == namespace]
    return NewRelease(
        runtimes=sorted({runtime.name for runtime in runtimes}),
        nodes=[node for runtime in runtimes for node in _registered(runtime)],
        secrets={
            draft.name: sorted({*draft.body.secrets, *draft.named_secrets, *secrets})
            for draft in report.drafts
            if draft.name and draft.body is not None and draft.namespace in (None, namespace)
        },
    )


def _registered(runtime: Runtime) -> Iterator[NodeDeclaration]:
    """Yield what a Runtime registers: its nodes, also under the names of its version."""
    for node in map(declare, runtime.nodes):
        yield node
        if runtime.version is not None:
            yield node.model_copy(update={"name": pinned_name(node.name, runtime.version)})


def lines_of(check: ReleaseCheck, namespace: str) -> Iterator[str]:
    """Yield what would break, and how many runs were compared."""
    for broken in check.broken:
        yield _headline(broken, namespace)
        yield f"  {broken.change}"
    compared = plural(check.checked, "oldest run" if check.is_more else "run")
    of = "of the" if check.is_more else "of"
    if check.checked:
        yield f"{check.runs or 'none'} {of} {compared} in flight with a node that changed would break"
    else:
        yield f"no run in flight of namespace {namespace} has a node that changed"


def _headline(broken: BrokenRuns, namespace: str) -> str:
    graph = broken.graph + f" of namespace {broken.namespace}" * (broken.namespace != namespace)
    at = listed(map(repr, broken.change.places))
    would = "would break" if broken.change.certain else "may break"
    shown = [run_id[:SHOWN_OF_ID] for run_id in broken.run_ids[:MAX_SHOWN]]
    more = f" and {broken.runs - len(shown):,} more" if broken.runs > len(shown) else ""
    runs = plural(broken.runs, "run")
    return f"{runs} of graph {graph} {would} at {at}: {', '.join(shown)}{more}"
