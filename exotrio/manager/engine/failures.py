"""Runs that end with errors: which of them start a run of another graph (``Graph.on_failure``).

The commit that ends such a run only records that. The other run is started by ``alerts``, in a transaction
after it: that locks the graph of the other run, which no transaction may do that has locked a run.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from exotrio._util.words import listed
from exotrio.graph.values import Place
from exotrio.manager.engine.changes import Changes
from exotrio.manager.engine.states import ERRORED
from exotrio.manager.rules.children import divided
from exotrio.manager.rules.problems import ON_FAILURE, Problem
from exotrio.manager.rules.template import Template
from exotrio.manager.store.transaction import Transaction

FACTS = ("graph", "run", "place", "error")
"""What the other run is given: of the failed run its graph, its id, its first failed state and the error."""


def record_failures(changes: Changes) -> None:
    """Record the runs that end now, with errors, if their graphs name another one by ``on_failure``.

    Called when nothing more is changed: a run may end for a moment before that.
    """
    tx = changes.tx
    ended = sorted(changes.ended_runs.with_status(ERRORED))
    failed = [run for run in ended if tx.template(changes.locked[run].template).body.on_failure is not None]
    if failed:
        tx.executemany(
            # min(seq) alone might be looked for among the states of all runs.
            "INSERT INTO alerts (run, number, at, state)"
            " SELECT id, 1 + (SELECT count(*) FROM alerts WHERE run = runs.id), finished_at,"
            " (SELECT min(seq + 0) FROM states WHERE run = runs.id"
            " AND status IN ('ERRORED', 'NEXT_CREATED_ERROR')) FROM runs WHERE id = ?",
            [(run,) for run in failed],
        )
        changes.effects.deliveries = True


def given(other: Template, facts: Mapping[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """Return which of these values a graph has as inputs of its first node, and which as its store."""
    inputs, store = divided(facts, other)
    return {name: text for name, text in inputs.items() if name in other.root.inputs}, store


def current_versions(tx: Transaction, namespace: str, names: Collection[str]) -> dict[str, Template]:
    """Return the current versions of those of these graphs that exist, by name."""
    if not names:
        return {}
    rows = tx.execute(
        f"SELECT name, template FROM graphs WHERE namespace = ? AND {tx.any_of('name')}",
        (namespace, tx.items(sorted(names))),
    ).fetchall()
    return {row["name"]: tx.template(row["template"]) for row in rows}


def unfit(tx: Transaction, namespace: str, name: str) -> Iterator[Problem]:
    """Yield why no run of the graph ``name`` can be started by a failure."""
    other = current_versions(tx, namespace, [name]).get(name)
    if other is None:
        what = f"there is no graph {name!r} in namespace {namespace!r}: store it first"
        yield Problem(what, field=ON_FAILURE)
        return
    inputs, store = given(other, dict.fromkeys(FACTS, ""))
    if missing := [key for key in other.body.store_config.required_keys if key not in store]:
        what = f"graph {name!r} requires keys of its store that a failed run does not give it"
        yield Problem(f"{what}: {listed(missing)}; it gives {listed(FACTS)}", field=ON_FAILURE)
    values: list[tuple[Place, str]] = [(other.root, each) for each in inputs]
    values += [value for key in store for value in other.inputs_by_key.get(key, ())]
    for place, each in values:
        node = tx.registered(place.namespace, place.node_name)
        if node is not None and each in node.typed_inputs:
            what = f"input {each!r} of {place.identifier!r} in graph {name!r} does not accept every text"
            yield Problem(f"{what}: declare it as str", field=ON_FAILURE)
