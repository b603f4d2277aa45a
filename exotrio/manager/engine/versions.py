"""Which versions of code are needed: by runs in flight, states, and graphs whose next runs are of them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator

from exotrio.graph import split_name
from exotrio.manager.store.driver import Row
from exotrio.manager.store.view import View

MAX_RUNS = 10_000
"""Runs in flight of each version of a graph that are counted."""


def is_drained(view: View, namespace: str, version: str) -> bool:
    """Return whether nothing needs a version any more. One that no graph has named yet is still needed."""
    return bool(
        view.row(
            "SELECT 1 FROM templates JOIN graphs ON graphs.id = graph WHERE version = ? AND namespace = ?"
            " LIMIT 1",
            (version, namespace),
        )
        and not graphs_of_versions(view, namespace)[version]
        and not runs_of_versions(view, namespace=namespace, version=version)
        and not pending_state(view, nodes_of_versions(view, namespace)[version])
    )


def runs_of_versions(view: View, **which: str) -> list[Row]:
    """Return how many runs in flight are pinned to each version, and when the first of them was created.

    Of each version of a graph up to ``MAX_RUNS`` are counted, so none is left out. ``which`` are columns and
    their values.
    """
    conditions = "".join(f" AND {column} = ?" for column in which)
    in_flight = "template = templates.id AND finished_at IS NULL"
    counted = f"(SELECT created_at FROM runs WHERE {in_flight} LIMIT {MAX_RUNS}) AS counted"
    return view.execute(
        "SELECT namespace, version, CAST(sum(runs) AS BIGINT) AS runs, min(oldest) AS oldest FROM ("
        f"SELECT namespace, version, (SELECT count(*) FROM {counted}) AS runs,"
        f" (SELECT min(created_at) FROM {counted}) AS oldest"
        f" FROM templates JOIN graphs ON graphs.id = graph WHERE version IS NOT NULL{conditions}"
        ") AS pinned WHERE runs > 0 GROUP BY namespace, version",
        (*which.values(),),
    ).fetchall()


def graphs_of_versions(view: View, namespace: str) -> defaultdict[str, list[str]]:
    """Return the names of the graphs whose next runs are of a version."""
    graphs: defaultdict[str, list[str]] = defaultdict(list)
    for row in view.execute(
        "SELECT name, version FROM graphs JOIN templates ON templates.id = template"
        " WHERE namespace = ? AND version IS NOT NULL ORDER BY name",
        (namespace,),
    ):
        graphs[row["version"]].append(row["name"])
    return graphs


def nodes_of_versions(view: View, namespace: str) -> defaultdict[str, list[int]]:
    """Return the numbers of the registered nodes of each version."""
    nodes: defaultdict[str, list[int]] = defaultdict(list)
    for row in view.execute(
        "SELECT id, name FROM nodes WHERE namespace = ? AND name LIKE '%@%' ORDER BY id", (namespace,)
    ):
        for version in versions_of([row["name"]]):
            nodes[version].append(row["id"])
    return nodes


def pending_state(view: View, nodes: list[int]) -> Row | None:
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


def versions_of(names: Iterable[str]) -> Iterator[str]:
    for name in names:
        if (version := split_name(name)[1]) is not None:
            yield version
