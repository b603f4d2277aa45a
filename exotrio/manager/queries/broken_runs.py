"""Which runs in flight new code of nodes breaks: it is compared with the code that is registered.

What runs have ahead counts, and nothing else: a change of a node breaks no run that is past it. Values are
compared with the new types where they are known: the inputs of states that wait or run, and what graphs name
as it is.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from pydantic_core import from_json

from exotrio._fields.declared import Declared, typed_inputs
from exotrio._wire.releases import BrokenRuns, NewRelease, ReleaseCheck
from exotrio._wire.v0 import NodeDeclaration
from exotrio.graph import split_name
from exotrio.graph.breaking import BreakingChange, Models, breaking_changes
from exotrio.manager.engine.nodes import declaration_of
from exotrio.manager.rules.template import Template, places_ahead
from exotrio.manager.store.driver import Row
from exotrio.manager.store.view import View

MAX_RUNS = 1_000
"""Runs in flight that are compared: the oldest ones of each version of a graph."""
MAX_VALUES = 100
"""States of one node of one run whose inputs are read. With more of them, the values of some do not fit."""
MAX_NAMED = 10

Nodes = Mapping[str, NodeDeclaration]


def registered_nodes(view: View, namespace: str) -> list[Row]:
    return view.execute(
        "SELECT id, name, runtime_name, inputs_schema, outputs_schema, secrets FROM nodes"
        " WHERE namespace = ? ORDER BY name",
        (namespace,),
    ).fetchall()


def check_release(view: View, namespace: str, release: NewRelease) -> ReleaseCheck:
    """Return which runs in flight would break if this release took over now."""
    rows = registered_nodes(view, namespace)
    old = {row["name"]: declaration_of(row) for row in rows}
    # Runs that are pinned to another version are not affected.
    versions = {split_name(node.name)[1] for node in release.nodes}
    kept = {
        row["name"]
        for row in rows
        if row["runtime_name"] not in release.runtimes or split_name(row["name"])[1] not in versions
    }
    new = {name: node for name, node in old.items() if name in kept}
    new |= {node.name: node for node in release.nodes}
    return broken_runs(view, namespace, old, new, release.secrets)


def check_registration(view: View, namespace: str, former: Nodes) -> ReleaseCheck:
    """Return which runs in flight break now that these declarations of nodes were replaced."""
    new = {row["name"]: declaration_of(row) for row in registered_nodes(view, namespace)}
    return broken_runs(view, namespace, {**new, **former}, new)


class _InFlight(NamedTuple):
    """A run with the places where it has states that have not ended."""

    number: int
    run_id: str
    pending: frozenset[int]


def broken_runs(
    view: View, namespace: str, old: Nodes, new: Nodes, secrets: Mapping[str, Collection[str]] = {}
) -> ReleaseCheck:
    """Compare two versions of all nodes of a namespace for the runs in flight.

    ``secrets`` has the names of the secrets of graphs of the namespace that are to be stored, too.
    """
    reply = ReleaseCheck()
    all_broken: set[int] = set()
    changed = {name for name in old.keys() | new.keys() if old.get(name) != new.get(name)}
    if not changed and not secrets:
        return reply
    with_secrets = {name for name, node in new.items() if node.secrets}
    comparison = _Comparison(view, namespace, old, new, frozenset(changed))
    for template in _templates_in_flight(view):
        body = view.template(template["id"])
        names = {place.node_name for place in body.places if place.namespace == namespace}
        own_secrets = secrets.get(template["name"]) if template["namespace"] == namespace else None
        if names.isdisjoint(changed) and (own_secrets is None or names.isdisjoint(with_secrets)):
            continue
        runs, is_more = _runs_of(view, template["id"], MAX_RUNS - reply.checked)
        reply.checked += len(runs)
        reply.is_more |= is_more
        if not runs:
            break  # as many as are compared
        changes = [*comparison.changes(body), *comparison.secrets(body, template, own_secrets)]
        for change in changes:
            if broken := comparison.breaks(change, body, runs):
                all_broken.update(run.number for run in broken)
                reply.broken.append(_broken(template, change, broken))
    reply.runs = len(all_broken)
    return reply


def _broken(template: Row, change: BreakingChange, runs: Sequence[_InFlight]) -> BrokenRuns:
    return BrokenRuns(
        namespace=template["namespace"],
        graph=template["name"],
        change=change,
        run_ids=[run.run_id for run in runs[:MAX_NAMED]],
        runs=len(runs),
    )


def _templates_in_flight(view: View) -> list[Row]:
    return view.execute(
        "SELECT templates.id, graphs.id AS graph, graphs.namespace, graphs.name FROM templates"
        " JOIN graphs ON graphs.id = templates.graph WHERE EXISTS (SELECT 1 FROM runs INDEXED BY"
        " runs_by_template WHERE runs.template = templates.id AND finished_at IS NULL) ORDER BY templates.id"
    ).fetchall()


def _runs_of(view: View, template: int, limit: int) -> tuple[list[_InFlight], bool]:
    """Return runs in flight, and whether there are more of them."""
    rows = view.execute(
        "SELECT id, run_id FROM runs INDEXED BY runs_by_template WHERE template = ? AND finished_at IS NULL"
        " ORDER BY id LIMIT ?",
        (template, limit + 1),
    ).fetchall()
    pending: dict[int, set[int]] = {row["id"]: set() for row in rows[:limit]}
    for run, place in view.execute(
        f"SELECT run, place FROM counts WHERE {view.any_of('run')} AND pending > 0", (view.items([*pending]),)
    ):
        pending[run].add(place)
    found = [_InFlight(row["id"], row["run_id"], frozenset(pending[row["id"]])) for row in rows[:limit]]
    return found, len(rows) > limit


@dataclass(slots=True)
class _Comparison:
    view: View
    namespace: str
    old: Nodes
    new: Nodes
    changed: frozenset[str]
    _ids: dict[str, int] = field(default_factory=dict)
    _types: dict[str, dict[str, Declared]] = field(default_factory=dict)

    def changes(self, template: Template) -> list[BreakingChange]:
        """Return what breaks places of a graph, whether or not a run has them ahead."""
        versions = ({name: _models(node) for name, node in code.items()} for code in (self.old, self.new))
        try:
            found = breaking_changes(template.body.nodes, *versions, namespace=self.namespace)
        except Exception:  # registration does not check schemas, so it may be anything
            return list(self._unreadable(template))
        return [change for change in found if change.node in self.changed]

    def _unreadable(self, template: Template) -> Iterator[BreakingChange]:
        """Yield the nodes of a graph that changed, one of which has a schema that cannot be read."""
        places: dict[str, list[str]] = {}
        for place in template.places:
            if place.namespace == self.namespace and place.node_name in self.changed:
                places.setdefault(place.node_name, []).append(place.identifier)
        for name, identifiers in places.items():
            yield BreakingChange(
                node=name,
                field="",
                old=None,
                new=None,
                what="it was not compared: a schema of a node of this graph cannot be read",
                fix="register nodes with JSON schemas of objects, as Pydantic makes them",
                certain=False,
                places=tuple(identifiers),
            )

    def secrets(
        self, template: Template, row: Row, given: Collection[str] | None
    ) -> Iterator[BreakingChange]:
        """Yield which secrets nodes of a graph need that it lacks, or will lack with those that are given."""
        needed: dict[str, list[str]] = {}
        for place in template.places:
            node = self.new.get(place.node_name) if place.namespace == self.namespace else None
            if node is not None and node.secrets and (given is not None or node.name in self.changed):
                needed.setdefault(node.name, []).append(place.identifier)
        if needed and given is None:
            stored = self.view.execute("SELECT name FROM secrets WHERE graph = ?", (row["graph"],))
            given = {each["name"] for each in stored}
        for name, places in needed.items():
            for secret in self.new[name].secrets:
                if secret not in (given or ()):
                    yield BreakingChange(
                        node=name,
                        field=f"Secrets.{secret}",
                        old=None,
                        new="a secret",
                        what=f"graph {row['name']!r} has no secret of this name",
                        fix=f"give it: graph apply --secret {secret}=VALUE",
                        places=tuple(places),
                    )

    def breaks(
        self, change: BreakingChange, template: Template, runs: Sequence[_InFlight]
    ) -> list[_InFlight]:
        at = {place.index for place in template.places if place.identifier in change.places}
        broken = []
        # Most runs of a graph are at the same places.
        ahead = {places: places_ahead(template, places) for places in {run.pending for run in runs}}
        for run in runs:
            now, below = ahead[run.pending]
            if change.certain or not change.field.startswith("Inputs."):
                is_broken = not (now | below).isdisjoint(change.places)
            else:
                is_broken = any(
                    self._may_not_fit(change, template, name) for name in below.intersection(change.places)
                ) or (not now.isdisjoint(change.places) and self._does_not_fit(change, run, at))
            if is_broken:
                broken.append(run)
        return broken

    def _may_not_fit(self, change: BreakingChange, template: Template, identifier: str) -> bool:
        """Whether a value that a place is still to get may not fit; a text of the graph is compared."""
        name, accepted = self._accepted(change)
        pieces = template[identifier].inputs.get(name, ())
        if accepted is None or not all(isinstance(piece, str) for piece in pieces):
            return True
        return accepted.problem("".join(map(str, pieces))) is not None

    def _does_not_fit(self, change: BreakingChange, run: _InFlight, places: Collection[int]) -> bool:
        """Whether an input of a state that waits or runs does not fit."""
        name, accepted = self._accepted(change)
        rows = self._inputs(run.number, change.node)
        if accepted is None or len(rows) > MAX_VALUES:
            return True
        texts = (from_json(row["inputs"]).get(name) for row in rows if row["place"] in places)
        return any(text is not None and accepted.problem(text) is not None for text in texts)

    def _accepted(self, change: BreakingChange) -> tuple[str, Declared | None]:
        """Return the input of a change, and what the new code accepts there, if that is understood."""
        name = change.field.removeprefix("Inputs.").partition(".")[0].partition("[")[0]
        if change.node not in self._types:
            self._types[change.node] = typed_inputs(self.new[change.node].inputs_schema.get("properties"))
        return name, self._types[change.node].get(name)

    def _inputs(self, run: int, node: str) -> list[Row]:
        if not self._ids:
            self._ids.update((row["name"], row["id"]) for row in registered_nodes(self.view, self.namespace))
        # An index each: states that have ended are in none of them.
        selects = tuple(
            f"SELECT place, inputs FROM states WHERE {which} AND run = {{run}} AND node_id = {{node}}"
            f" LIMIT {MAX_VALUES + 1}"
            for which in (
                "status = 'CREATED' AND lane IS NULL",
                "status = 'CREATED' AND lane IS NOT NULL",
                "status = 'QUEUED'",
            )
        )
        return list(self.view.for_each(selects, ("run", "node"), [(run, self._ids[node])]))


def _models(node: NodeDeclaration) -> Models:
    return {"Inputs": node.inputs_schema, "Outputs": node.outputs_schema}
