"""Registered nodes: what they declare, and the secrets that they are given."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from pydantic_core import from_json, to_json

from exotrio._util.words import listed
from exotrio._wire.v0 import NodeDeclaration, RegisterRequest
from exotrio.graph import WITHOUT_RUNTIME, split_name
from exotrio.manager.rules.access import ALL, NamedKey, Permission
from exotrio.manager.rules.errors import Forbidden, InvalidRequest
from exotrio.manager.store.driver import Row, count_change
from exotrio.manager.store.transaction import Transaction
from exotrio.manager.store.view import View

MAX_CHECKED = 1_000
"""Versions of graphs that are checked when a node is registered that asks for more secrets."""


def register(
    tx: Transaction, namespace: str, request: RegisterRequest, key: NamedKey | None = None
) -> dict[str, NodeDeclaration]:
    """Insert or replace what is registered under each node's name; return those that were registered, and
    have other fields or secrets now.

    With a named key, nothing that is stored may give a node more secrets because of it (Forbidden), unless
    that key may store the graph; and a key that may store no graphs of the namespace takes none away: the
    node keeps those that it no longer declares, so that an earlier version of a runtime leaves a later one
    what that was given. It does not need them: a graph without them is valid.
    """
    if taken := [node.name for node in request.nodes if node.name in WITHOUT_RUNTIME]:
        raise InvalidRequest(f"{taken[0]!r} is the name of places without a node: give the node another one")
    names = [node.name for node in request.nodes]
    before = declared_nodes(tx, namespace, names)
    former = {node.name: was for node in request.nodes if (was := before.get(node.name, node)) != node}
    if key is not None:
        known = _given_secrets(tx, namespace, names)
        added = {node.name: set(node.secrets).difference(known.get(node.name, ())) for node in request.nodes}
        _check_secrets(tx, namespace, added, key)
        if not key.may(Permission.GRAPHS, namespace):
            insert_nodes(tx, namespace, request, known)
            return former
    insert_nodes(tx, namespace, request)
    return former


def declared_nodes(view: View, namespace: str, names: Sequence[str]) -> dict[str, NodeDeclaration]:
    """Return what those of these nodes declare that are registered, by name."""
    rows = view.execute(
        "SELECT name, inputs_schema, outputs_schema, secrets FROM nodes"
        f" WHERE namespace = ? AND {view.any_of('name')}",
        (namespace, view.items(names)),
    )
    return {row["name"]: declaration_of(row) for row in rows}


def declaration_of(node: Row) -> NodeDeclaration:
    schemas = {name: from_json(node[name]) for name in ("inputs_schema", "outputs_schema", "secrets")}
    return NodeDeclaration(name=node["name"], **schemas)


def insert_nodes(
    tx: Transaction, namespace: str, request: RegisterRequest, kept: Mapping[str, set[str]] | None = None
) -> None:
    """Register nodes; ``kept`` are secrets that a node is given although it no longer declares them."""
    rows = {
        node.name: (
            namespace,
            node.name,
            request.runtime_name,
            to_json(node.inputs_schema).decode(),
            to_json(node.outputs_schema).decode(),
            to_json(node.secrets).decode(),
            _kept_secrets(kept, node),
            tx.now_ms,
            tx.now_ms,
        )
        for node in request.nodes
    }
    # They are paused if their nodes are.
    versions = [name for name in sorted(rows) if split_name(name)[1] is not None]
    new_versions = [name for name in versions if tx.registered(namespace, name) is None]
    replaced = ("runtime_name", "inputs_schema", "outputs_schema", "secrets", "kept_secrets", "updated_at")
    tx.insert(
        "nodes",
        ("namespace", "name", *replaced[:-1], "created_at", "updated_at"),
        [rows[name] for name in sorted(rows)],
        "(namespace, name) DO UPDATE SET " + ", ".join(f"{each} = excluded.{each}" for each in replaced),
    )
    tx.executemany(
        "UPDATE nodes SET paused_at = (SELECT paused_at FROM nodes WHERE namespace = ? AND name = ?)"
        " WHERE namespace = ? AND name = ?",
        [(namespace, split_name(name)[0], namespace, name) for name in new_versions],
    )
    count_change(tx, "registered")
    tx.catalog.forget_registered()


def _kept_secrets(kept: Mapping[str, set[str]] | None, node: NodeDeclaration) -> str | None:
    others = set() if kept is None else kept.get(node.name, set()).difference(node.secrets)
    return to_json(sorted(others)).decode() if others else None


def _given_secrets(tx: Transaction, namespace: str, names: list[str]) -> dict[str, set[str]]:
    rows = tx.execute(
        f"SELECT name, secrets, kept_secrets FROM nodes WHERE namespace = ? AND {tx.any_of('name')}"
        f" ORDER BY name{tx.for_update('nodes')}",
        (namespace, tx.items(names)),
    )
    return {row["name"]: set(given_secrets(row)) for row in rows}


def given_secrets(node: Row) -> list[str]:
    """Return the names of the secrets that a graph gives a node, if it has them."""
    return [*from_json(node["secrets"]), *from_json(node["kept_secrets"] or "[]")]


def _check_secrets(
    tx: Transaction, namespace: str, added: Mapping[str, Collection[str]], key: NamedKey
) -> None:
    """Refuse secrets that nodes did not declare before if a stored graph would give them those."""
    names = sorted({secret for secrets in added.values() for secret in secrets})
    if not names:
        return
    rows = tx.execute(
        "SELECT graphs.namespace, graphs.name, secrets.name AS secret, templates.id FROM secrets"
        " JOIN graphs ON graphs.id = secrets.graph JOIN templates ON templates.graph = graphs.id"
        f" WHERE {tx.any_of('secrets.name')} ORDER BY templates.id DESC LIMIT ?",
        (tx.items(names), MAX_CHECKED + 1),
    ).fetchall()
    if len(rows) > MAX_CHECKED and not key.may(Permission.GRAPHS, ALL):
        raise Forbidden(
            f"more than {MAX_CHECKED:,} versions of graphs have secrets that these nodes did not declare"
            f" before ({listed(names, 3)}), too many to check that none gives them those:"
            f" {key.refusal(Permission.GRAPHS, ALL)}"
        )
    for row in rows:
        if key.may(Permission.GRAPHS, row["namespace"]):
            continue
        for place in tx.template(row["id"]).places:
            if place.namespace == namespace and row["secret"] in added.get(place.node_name, ()):
                raise Forbidden(
                    f"graph {row['name']!r} would give node {place.node_name!r} the secret {row['secret']!r},"
                    f" which it did not declare before: {key.refusal(Permission.GRAPHS, row['namespace'])}"
                )
