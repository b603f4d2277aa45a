"""Versions of code in a namespace: which live runtimes have each, and whether something still needs it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable
from itertools import islice

from pydantic_core import from_json

from exotrio._util.times import from_unix_ms
from exotrio._wire.releases import VersionInfo
from exotrio.graph import split_name
from exotrio.manager.engine.versions import (
    graphs_of_versions,
    nodes_of_versions,
    pending_state,
    runs_of_versions,
    versions_of,
)
from exotrio.manager.queries.load import Backlog
from exotrio.manager.queries.runtimes import SILENT_AFTER_MS
from exotrio.manager.store.view import View

MAX_GRAPHS = 10
"""Graphs that are named of each version."""


def list_versions(view: View, namespace: str) -> list[VersionInfo]:
    """Return the versions that a live runtime has or something needs, the one with the oldest run first."""
    nodes, graphs = nodes_of_versions(view, namespace), graphs_of_versions(view, namespace)
    runs = {row["version"]: row for row in runs_of_versions(view, namespace=namespace)}
    live = _live(view)
    listed = []
    for version in sorted({*nodes, *graphs, *runs}):
        run = runs.get(version)
        needed = bool(run or graphs[version] or pending_state(view, nodes[version]))
        if needed or live[namespace, version]:
            listed.append(
                VersionInfo(
                    version=version,
                    runtimes=live[namespace, version],
                    runs=0 if run is None else run["runs"],
                    oldest_ms=None if run is None else from_unix_ms(run["oldest"]),
                    graphs=graphs[version][:MAX_GRAPHS],
                    needed=needed,
                )
            )
    return sorted(listed, key=lambda each: (each.oldest is None, each.oldest, each.version))


def load_of_versions(
    view: View, nodes: Iterable[Backlog], limit: int
) -> dict[tuple[str, str], tuple[int, int]]:
    """Return how many runs in flight are pinned to the versions of all namespaces, and how many live runtimes
    have each; ``nodes`` are the registered ones."""
    if not any("@" in each.name for each in nodes):
        return {}  # no statement, if nothing has a version
    runs = {(row["namespace"], row["version"]): row["runs"] for row in runs_of_versions(view)}
    live = _live(view)
    keys = islice(dict.fromkeys([*sorted(runs), *sorted(live)]), limit)
    return {key: (runs.get(key, 0), live[key]) for key in keys}


def without_ended(backlogs: Iterable[Backlog], versions: Collection[tuple[str, str]]) -> list[Backlog]:
    """Return the backlogs without those of nodes of versions that have ended, whose names remain registered.

    ``versions`` are the others, with their namespaces.
    """
    return [
        each
        for each in backlogs
        if (version := split_name(each.name)[1]) is None
        or (each.namespace, version) in versions
        or any((each.waiting, each.for_event, each.running, each.buffered, each.reporting))
    ]


def _live(view: View) -> Counter[tuple[str, str]]:
    """Count the live runtimes by namespace and version: by the nodes that they claim."""
    live = Counter[tuple[str, str]]()
    for row in view.execute(
        # Without their heartbeats: pages need this often.
        "SELECT namespace, nodes FROM workers WHERE seen_at > ? AND phase <> 'stopped' AND heard > 0"
        " AND nodes LIKE '%@%'",
        (view.lease_now - SILENT_AFTER_MS,),
    ):
        live.update({(row["namespace"], version) for version in versions_of(from_json(row["nodes"]))})
    return live
