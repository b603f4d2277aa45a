"""Move runs to another version of the code, once it is known that the rest of them fits that version.

A run keeps a template, whose places name nodes of one version (``graph.versions``). So a run that moves gets
a template with other names, and its states that wait or run the nodes of these names. A state that a runtime
holds at that moment is still ended by it, or given back to the new version.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from pydantic_core import from_json

from exotrio._util.words import listed
from exotrio._wire.operations import Repinned
from exotrio.graph import WITHOUT_RUNTIME, split_name
from exotrio.graph.breaking import Models, breaking_changes
from exotrio.manager.engine.graphs import name_limits, pin_graph, refuse_at_older_managers
from exotrio.manager.engine.moves import move_pending
from exotrio.manager.engine.nodes import declared_nodes
from exotrio.manager.engine.runs import find_run, lock_run
from exotrio.manager.engine.states import RunRow
from exotrio.manager.engine.triggers import pin_template
from exotrio.manager.engine.unfinished import REPIN
from exotrio.manager.rules.errors import Conflict
from exotrio.manager.rules.template import Place, Template, places_ahead
from exotrio.manager.store.effects import NO_EFFECTS, WithEffects
from exotrio.manager.store.transaction import Transaction
from exotrio.manager.store.view import View

REPIN_SINCE = 8
WRONG_NODE = "nodes that a state manager of exotrio {} on this database would give out as of the old version"
MAX_NAMED = 5
MAX_VALUES = 1_000
"""States that wait or run whose inputs are compared with the types of the new version."""


def repin(tx: Transaction, namespace: str, run_id: str, version: str) -> WithEffects[Repinned]:
    """Move a run to a version; Conflict names what the run has ahead that does not fit it.

    A run that has ended is moved, too: states of it that are retried run on that version then.
    """
    pin_graph(tx, namespace, find_run(tx, namespace, run_id)["graph_name"])
    refuse_at_older_managers(tx, f"run {run_id} would have", REPIN_SINCE, WRONG_NODE)
    run = lock_run(tx, namespace, run_id)
    before = tx.template(run.template)
    reply = Repinned(run_id=run_id, version=version, before=before.version)
    if before.version == version:
        return WithEffects(reply, NO_EFFECTS)
    after = Template(before.body.pinned(version))
    refused, reply.may_not_fit = _what_does_not_fit(tx, run, before, after)
    if refused:
        raise Conflict(
            f"the run {run_id} cannot go on with version {version!r}: {listed(refused, MAX_NAMED, '; ')}"
        )
    moved = pin_template(tx, run.graph, after), run.id
    tx.execute("UPDATE runs SET template = ? WHERE id = ?", moved)
    tx.catalog.forget_run(run.id)
    name_limits(tx, namespace, after)
    nodes = {
        place.index: (old, new)
        for place, moved in zip(before.places, after.places, strict=True)
        if (old := tx.node_id(place.namespace, place.node_name)) is not None
        and (new := tx.node_id(moved.namespace, moved.node_name)) is not None
    }
    _, effects = move_pending(tx, run, run.priority, nodes, REPIN)
    tx.record("run.repin", namespace, run_id, f"version {before.version or 'any'} to {version}")
    return WithEffects(reply, effects)


def runs_of_version(
    view: View, namespace: str, version: str, after: int, limit: int
) -> list[tuple[int, str]]:
    """Return the number and the id of the next runs in flight of a version."""
    rows = view.execute(
        "SELECT runs.id, run_id FROM templates CROSS JOIN runs ON runs.template = templates.id"
        " WHERE version = ? AND finished_at IS NULL AND namespace = ? AND runs.id > ?"
        " ORDER BY runs.id LIMIT ?",
        (version, namespace, after, limit),
    )
    return list(map(tuple, rows))


def _what_does_not_fit(
    tx: Transaction, run: RunRow, before: Template, after: Template
) -> tuple[list[str], list[str]]:
    """Return what of the rest of a run does not fit its new template, and what may not: for values that it
    does not have yet."""
    pending = {
        place for (place,) in tx.execute("SELECT place FROM counts WHERE run = ? AND pending > 0", (run.id,))
    }
    now, below = places_ahead(before, pending)
    ahead = [place for place in before.places if place.identifier in now | below]
    refused: list[str] = []
    may_not_fit: list[str] = []
    for namespace in sorted({place.namespace for place in ahead}):
        old, new = (_models(tx, namespace, template.places) for template in (before, after))
        nodes = [
            node.model_copy(update={"node_name": split_name(node.node_name)[0]}) for node in before.body.nodes
        ]
        for change in breaking_changes(nodes, old, new, namespace=namespace):
            if not (now | below).isdisjoint(change.places):
                if change.certain:
                    refused.append(str(change))
                elif not below.isdisjoint(change.places):
                    may_not_fit.append(str(change))
    return [*refused, *_wrong_values(tx, run, after, now)], may_not_fit


def _models(view: View, namespace: str, places: Iterable[Place]) -> dict[str, Models]:
    """Return the models of the nodes of places in a namespace, by their names without the version."""
    names = {
        place.node_name
        for place in places
        if place.namespace == namespace and place.node_name not in WITHOUT_RUNTIME
    }
    return {
        split_name(name)[0]: {"Inputs": node.inputs_schema, "Outputs": node.outputs_schema}
        for name, node in declared_nodes(view, namespace, sorted(names)).items()
    }


def _wrong_values(tx: Transaction, run: RunRow, after: Template, now: set[str]) -> Iterator[str]:
    """Yield the inputs of states that wait or run which the new version does not accept."""
    accepted = {
        place.index: node.typed_inputs
        for place in after.places
        if place.identifier in now
        and (node := tx.registered(place.namespace, place.node_name)) is not None
        and node.typed_inputs
    }
    if not accepted:
        return
    rows = tx.execute(
        "SELECT seq, place, inputs FROM states WHERE run = ? AND status IN ('CREATED', 'QUEUED')"
        f" AND {tx.any_of('place')} ORDER BY seq LIMIT ?",
        (run.id, tx.items(sorted(accepted)), MAX_VALUES),
    )
    for seq, place, inputs in rows:
        texts: Mapping[str, Any] = from_json(inputs)
        for name, declared in accepted[place].items():
            if name in texts and (problem := declared.problem(texts[name])):
                where = f"{after.places[place].identifier}, state {tx.state_id(seq)}"
                yield f"{where}: input {name!r} {problem}"
