"""Graphs with their versions, secrets and schedules."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic_core import from_json, to_json

from exotrio._util.cron import names_a_time, next_occurrence_ms, parts_of
from exotrio._util.times import timestamp
from exotrio._util.words import plural
from exotrio._wire.graphs import GraphRequest, StoredGraph
from exotrio._wire.v0 import NodeDeclaration, RegisterRequest
from exotrio._wire.vocabulary import ValidationStatus
from exotrio.graph import WITHOUT_RUNTIME
from exotrio.manager.engine.failures import current_versions, unfit
from exotrio.manager.engine.limits import declare_limits, missing_limits
from exotrio.manager.engine.nodes import insert_nodes
from exotrio.manager.engine.slots import name_at_node
from exotrio.manager.rules.children import child_problems
from exotrio.manager.rules.errors import Conflict, InvalidRequest, NotFound
from exotrio.manager.rules.problems import Problem, refuse
from exotrio.manager.rules.registered import check_registered
from exotrio.manager.rules.template import Template
from exotrio.manager.store.cipher import Cipher
from exotrio.manager.store.driver import Row
from exotrio.manager.store.effects import Effects, WithEffects
from exotrio.manager.store.transaction import Transaction
from exotrio.manager.store.view import View

_BUILT_IN = {
    name: RegisterRequest(
        runtime_name="", nodes=[NodeDeclaration(name=name, inputs_schema={}, outputs_schema={}, secrets=[])]
    )
    for name in WITHOUT_RUNTIME
}
"""The nodes of places that no runtime runs, so that their states have one, too."""

BRANCHES_SINCE, WAITS_SINCE, ON_FAILURE_SINCE, CHILDREN_SINCE = 7, 7, 8, 8
"""The versions of the tables of the first state managers that know branches, places that wait, on_failure,
and places that run graphs."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A graph to store, with all that can be computed without the database, which may take a second."""

    template: Template
    ciphertexts: Mapping[str, str]
    """By the name of the secret."""
    occurrences: Mapping[str, int | None]
    """Schedule (``_util.cron``) to its next occurrence, None if there is none."""


def prepare(namespace: str, name: str, graph: GraphRequest, cipher: Cipher, now_ms: int) -> Prepared:
    """Check a graph to store; raise InvalidRequest for a blank name, GraphInvalid for a broken rule."""
    if not name or not namespace.strip():
        raise InvalidRequest("a graph and its namespace need a name")
    if any(not secret.strip() for secret in graph.secrets):
        raise InvalidRequest("a secret needs a name")
    template = Template(graph.pinned())
    ciphertexts = {
        secret: cipher.encrypt(value, namespace=namespace, graph=name, name=secret)
        for secret, value in graph.secrets.items()
    }
    occurrences = {schedule: next_occurrence_ms(schedule, now_ms) for schedule in graph.schedules}
    refuse(f"a trigger of graph {name!r} never comes due", _skipped(occurrences, now_ms))
    return Prepared(template, ciphertexts, occurrences)


def _skipped(occurrences: Mapping[str, int | None], now_ms: int) -> Iterator[Problem]:
    for schedule, due in occurrences.items():
        if due is None and names_a_time(schedule, now_ms):
            expression, zone = parts_of(schedule)
            yield Problem(
                f"cron trigger {expression!r} never comes due: the clocks of {zone} skip all its times"
            )


def upsert(tx: Transaction, namespace: str, name: str, new: Prepared) -> WithEffects[dict[str, Any]]:
    """Make ``new`` the version of the graph for later runs, replace the graph's secrets, and declare its
    limits.

    The reply says whether the graph is valid. Existing runs keep the version they began with.
    """
    template = new.template
    for each, node_name in {(place.namespace, place.node_name) for place in template.places}:
        if node_name in WITHOUT_RUNTIME and tx.registered(each, node_name) is None:
            insert_nodes(tx, each, _BUILT_IN[node_name])
    graphs = current_versions(tx, namespace, template.graphs)
    refuse(f"graph {name!r} cannot run other graphs", child_problems(name, template, graphs))
    outputs = {
        each: {field: {"type": "string"} for field in other.outputs}
        for each, other in {**graphs, name: template}.items()
    }
    nodes = {
        (place.namespace, place.node_name): node
        for place in template.places
        if (node := tx.registered(place.namespace, place.node_name))
    }
    errors = [str(problem) for problem in check_registered(template, nodes, outputs)]
    status = ValidationStatus.INVALID if errors else ValidationStatus.VALID
    body = template.body.model_copy(update={"secrets": {}}).model_dump_json()
    version = (body, status.value, to_json(errors).decode())

    # This locks the graph: transactions that trigger or store it wait.
    graph = tx.execute(
        "INSERT INTO graphs (namespace, name, template, created_at, updated_at) VALUES (?, ?, 0, ?, ?)"
        " ON CONFLICT (namespace, name) DO UPDATE SET updated_at = excluded.updated_at"
        " RETURNING id, template",
        (namespace, name, tx.now_ms, tx.now_ms),
    ).fetchall()[0]
    current = tx.row(
        "SELECT body, validation_status, validation_errors FROM templates WHERE id = ?", (graph["template"],)
    )
    has = f"graph {name!r} has"
    if template.body.on_failure is not None:
        refuse(f"graph {name!r} cannot have this on_failure", unfit(tx, namespace, template.body.on_failure))
        what = "on_failure, which a state manager of exotrio {} on this database would ignore"
        refuse_at_older_managers(tx, has, ON_FAILURE_SINCE, what)
    elif any(place.graph is not None for place in template.places):
        what = "places that run graphs, whose runs a state manager of exotrio {} on this database would lose"
        refuse_at_older_managers(tx, has, CHILDREN_SINCE, what)
    elif template.refs:
        what = "branches, all of which a state manager of exotrio {} on this database would take"
        refuse_at_older_managers(tx, has, BRANCHES_SINCE, what)
    elif any(place.wait is not None for place in template.places):
        what = "places that wait, which a state manager of exotrio {} on this database would never end"
        refuse_at_older_managers(tx, has, WAITS_SINCE, what)
    effects = Effects()
    if template.body.limits:
        before = tx.template(graph["template"]).body.limits if current else ()
        effects = declare_limits(tx, namespace, template.body.limits, before)
    refuse(f"graph {name!r} names limits that do not exist", missing_limits(tx, namespace, template.body))
    name_limits(tx, namespace, template)
    # Do not add the same version again: a script may store the graph before each run.
    is_new = current is None or version != tuple(current)
    if is_new:
        template_id = insert_template(tx, graph["id"], *version, template.version)
        tx.execute("UPDATE graphs SET template = ? WHERE id = ?", (template_id, graph["id"]))
    _replace_schedules(tx, graph["id"], new.occurrences)
    with tx.secure_delete():
        tx.execute("DELETE FROM secrets WHERE graph = ?", (graph["id"],))
    secrets = [(graph["id"], key, new.ciphertexts[key]) for key in sorted(new.ciphertexts)]
    tx.insert("secrets", ("graph", "name", "value"), secrets)
    result = f"{'new' if is_new else 'same'} version{', invalid' if errors else ''}"
    tx.record("graph.store", namespace, name, f"{result}, {plural(len(secrets), 'secret')}")
    return WithEffects(get_graph(tx, namespace, name), effects)


def insert_template(
    tx: Transaction, graph: int, body: str, status: str, errors: str, version: str | None
) -> int:
    """Insert a template of a graph, with its validation and the version that it names; return its number."""
    (new,) = tx.execute(
        "INSERT INTO templates (graph, body, validation_status, validation_errors, created_at, version)"
        " VALUES (?, ?, ?, ?, ?, ?) RETURNING id",
        (graph, body, status, errors, tx.now_ms, version),
    ).fetchall()
    return int(new["id"])


def refuse_at_older_managers(tx: Transaction, has: str, since: int, what: str) -> None:
    """Refuse something while a state manager works that does not know it, and let none begin later. ``has``
    and ``what`` say that, the latter with its version."""
    # First: one that begins locks this row, so it is seen below, or sees this.
    tx.execute(
        "UPDATE meta SET value = ? WHERE key = 'oldest_version' AND CAST(value AS INTEGER) < ?",
        (str(since), since),
    )
    older = tx.row("SELECT id, version FROM managers WHERE schema_version < ?", (since,))
    if older is not None:
        fix = f"end that state manager ({older['id']}) first, or replace it by this version"
        raise Conflict(f"{has} {what.format(older['version'])}: {fix}")


def name_limits(tx: Transaction, namespace: str, template: Template) -> None:
    """Record at the registered nodes of a graph which limits their places name."""
    named = {
        node_id: place.limits.keys()
        for place in template.places
        if place.limits and (node_id := tx.node_id(place.namespace, place.node_name)) is not None
    }
    # Also those that were deleted: states in their lanes may be moved to these nodes.
    of_all = "SELECT name, id FROM limits WHERE namespace = ?"
    ids = dict(map(tuple, tx.execute(of_all, (namespace,)))) if named else {}
    for node_id, names in sorted(named.items()):
        name_at_node(tx, node_id, {ids[name] for name in names if name in ids})


def _replace_schedules(tx: Transaction, graph: int, occurrences: Mapping[str, int | None]) -> None:
    """Replace the schedules of a graph. A schedule that it had before keeps its next occurrence."""
    known = schedules_of(tx, graph)
    delete_schedules(tx, [(graph, each) for each in known - occurrences.keys()])
    new = {each: due for each, due in occurrences.items() if each not in known and due is not None}
    tx.insert(
        "cron_triggers", ("graph", "expression", "next_at"), [(graph, *each) for each in sorted(new.items())]
    )


def schedules_of(view: View, graph: int) -> set[str]:
    """Return the schedules of a graph that have a next occurrence."""
    rows = view.execute("SELECT expression FROM cron_triggers WHERE graph = ?", (graph,))
    return {row["expression"] for row in rows}


def delete_schedules(tx: Transaction, rows: Iterable[tuple[int, str]]) -> None:
    """Delete schedules: the graph and the text."""
    tx.executemany("DELETE FROM cron_triggers WHERE graph = ? AND expression = ?", sorted(rows))


def delete_schedules_of(tx: Transaction, graph: int) -> int:
    return tx.execute("DELETE FROM cron_triggers WHERE graph = ?", (graph,)).rowcount


GRAPHS = (
    "SELECT graphs.*, body, validation_status, validation_errors FROM graphs"
    " JOIN templates ON templates.id = template WHERE namespace = ?"
)


def find_graph(view: View, namespace: str, name: str) -> Row:
    """Return a graph with its current version; raise NotFound if there is none."""
    row = view.row(GRAPHS + " AND name = ?", (namespace, name))
    if row is None:
        raise NotFound(f"there is no graph {name!r} in namespace {namespace!r}")
    return row


def pin_graph(tx: Transaction, namespace: str, name: str) -> Row:
    """Return a graph as ``find_graph`` does; its current version stays until the end of the transaction."""
    if locked := tx.for_share("graphs"):
        # In a separate statement: the next one then sees the version that this one waited for. Its row is not
        # read, so that both are sent together.
        tx.execute(f"SELECT id FROM graphs WHERE namespace = ? AND name = ?{locked}", (namespace, name))
    return find_graph(tx, namespace, name)


def lock_graph(tx: Transaction, namespace: str, name: str) -> Row:
    """Lock a graph, and return it as ``find_graph`` does: no other transaction stores or triggers it."""
    tx.execute(
        f"SELECT id FROM graphs WHERE namespace = ? AND name = ?{tx.for_update('graphs')}", (namespace, name)
    )
    return find_graph(tx, namespace, name)


def get_graph(view: View, namespace: str, name: str) -> dict[str, Any]:
    """Return a graph as the API shows it: secrets by name only."""
    return shown_graph(view, find_graph(view, namespace, name))


def shown_graph(view: View, row: Row) -> dict[str, Any]:
    body = StoredGraph.model_validate_json(row["body"]).model_dump(mode="json")
    for node in body["nodes"]:
        node["next_nodes"] = node["next_nodes"] or []
    shown = {
        **body,
        "secrets": dict.fromkeys(secret_names(view, row), True),
        "created_at": timestamp(row["created_at"]),
        "updated_at": timestamp(row["updated_at"]),
        "validation_status": row["validation_status"],
        "validation_errors": from_json(row["validation_errors"]),
        **paused(row),
    }
    # The stock state manager does not say this.
    if body["triggers"]:
        shown["scheduled"] = {schedule: timestamp(at) for schedule, at in next_firings(view, row).items()}
    return shown


def secret_names(view: View, graph: Row) -> list[str]:
    rows = view.execute("SELECT name FROM secrets WHERE graph = ? ORDER BY name", (graph["id"],))
    return [row["name"] for row in rows]


def next_firings(view: View, graph: Row) -> dict[str, int]:
    """Return the next occurrence of each schedule of a graph, in Unix milliseconds."""
    rows = view.execute(
        "SELECT expression, next_at FROM cron_triggers WHERE graph = ? ORDER BY expression", (graph["id"],)
    )
    return {row["expression"]: row["next_at"] for row in rows}


def paused(row: Row) -> dict[str, str]:
    """Return since when a node or a graph is paused, if it is: v0 has no such field."""
    return {} if row["paused_at"] is None else {"paused_at": timestamp(row["paused_at"])}
