"""Versions of code in a namespace: which live runtimes have each, and whether something still needs it."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from itertools import islice

from pydantic_core import from_json

from exotrio._util.times import from_unix_ms
from exotrio._wire.releases import VersionInfo
from exotrio.graph import split_name
from exotrio.manager.queries.load import MAX_COUNTED, Backlog
from exotrio.manager.queries.paging import Where
from exotrio.manager.queries.runtimes import SILENT_AFTER_MS
from exotrio.manager.store.driver import Row
from exotrio.manager.store.view import View

MAX_GRAPHS = 10
"""Graphs that are named of each version."""


def list_versions(view: View, namespace: str, now: int) -> list[VersionInfo]:
    """Return the versions that a live runtime has or something needs, the one with the oldest run first.

    ``now`` is in ms on the clock of leases.
    """
    nodes, graphs = _nodes(view, namespace), _graphs(view, namespace)
    runs = {row["version"]: row for row in _runs(view, namespace=namespace)}
    live = _live(view, now)
    listed = []
    for version in sorted({*nodes, *graphs, *runs}):
        run = runs.get(version)
        needed = bool(run or graphs[version] or _pending(view, nodes[version]))
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


def is_drained(view: View, namespace: str, version: str) -> bool:
    """Return whether nothing needs a version any more. Before the first graph names it, that is still to
    come."""
    return bool(
        view.row("SELECT 1 FROM templates WHERE version = ? LIMIT 1", (version,))
        and not _graphs(view, namespace)[version]
        and not _runs(view, namespace=namespace, version=version)
        and not _pending(view, _nodes(view, namespace)[version])
    )


def load_of_versions(
    view: View, nodes: Iterable[Backlog], now: int, limit: int
) -> dict[tuple[str, str], tuple[int, int]]:
    """Return how many runs in flight are pinned to the versions of all namespaces, and how many live runtimes
    have each; ``nodes`` are the registered ones."""
    if not any("@" in each.node for each in nodes):
        return {}  # no statement, if nothing has a version
    runs = {(row["namespace"], row["version"]): row["runs"] for row in _runs(view)}
    live = _live(view, now)
    keys = islice(dict.fromkeys([*sorted(runs), *sorted(live)]), limit)
    return {key: (runs.get(key, 0), live[key]) for key in keys}


def _runs(view: View, **which: str) -> list[Row]:
    """Return how many runs in flight are pinned to each version, and when the first of them was created.

    They are counted up to ``MAX_COUNTED``. ``which`` are columns and their values.
    """
    where = Where()
    where.add("version IS NOT NULL AND finished_at IS NULL")
    for column, value in which.items():
        where.add(f"{column} = ?", value)
    return view.execute(
        "SELECT namespace, version, count(*) AS runs, min(created_at) AS oldest FROM ("
        "SELECT runs.namespace, templates.version, runs.created_at FROM templates CROSS JOIN runs"
        f" ON runs.template = templates.id WHERE {where} LIMIT ?"
        ") AS pinned GROUP BY namespace, version",
        (*where.parameters, MAX_COUNTED),
    ).fetchall()


def _nodes(view: View, namespace: str) -> defaultdict[str, list[int]]:
    """Return the numbers of the registered nodes of each version."""
    nodes: defaultdict[str, list[int]] = defaultdict(list)
    for row in view.execute(
        "SELECT id, name FROM nodes WHERE namespace = ? AND name LIKE '%@%' ORDER BY id", (namespace,)
    ):
        for version in _versions([row["name"]]):
            nodes[version].append(row["id"])
    return nodes


def _graphs(view: View, namespace: str) -> defaultdict[str, list[str]]:
    """Return the names of the graphs whose next runs are of a version."""
    graphs: defaultdict[str, list[str]] = defaultdict(list)
    for row in view.execute(
        "SELECT name, version FROM graphs JOIN templates ON templates.id = template"
        " WHERE namespace = ? AND version IS NOT NULL ORDER BY name",
        (namespace,),
    ):
        graphs[row["version"]].append(row["name"])
    return graphs


def _live(view: View, now: int) -> Counter[tuple[str, str]]:
    """Count the live runtimes by namespace and version: by the nodes that they claim."""
    live = Counter[tuple[str, str]]()
    for row in view.execute(
        # Without their heartbeats: pages need this often.
        "SELECT namespace, nodes FROM workers WHERE seen_at > ? AND phase <> 'stopped' AND heard > 0"
        " AND nodes LIKE '%@%'",
        (now - SILENT_AFTER_MS,),
    ):
        live.update({(row["namespace"], version) for version in _versions(from_json(row["nodes"]))})
    return live


def _versions(names: Iterable[str]) -> Iterator[str]:
    for name in names:
        if (version := split_name(name)[1]) is not None:
            yield version


def _pending(view: View, nodes: list[int]) -> Row | None:
    """Return a state of one of these nodes that has not ended, if there is one.

    It may be of a run of another namespace, or of one that a state manager started which knows no versions.
    """
    if not nodes:
        return None
    which, ids = view.any_of("node_id"), view.items(nodes)
    return view.row(
        " UNION ALL ".join(
            f"SELECT 1 AS pending FROM states {where} AND {which}"
            for where in (
                "WHERE status = 'CREATED' AND lane IS NULL",
                "WHERE status = 'CREATED' AND lane IS NOT NULL",
                "INDEXED BY states_held WHERE status = 'QUEUED'",
            )
        )
        + " LIMIT 1",
        (ids, ids, ids),
    )
