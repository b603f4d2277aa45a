"""Registered nodes as the dashboard shows them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pydantic_core import from_json

from exotrio._util.error_message import message_line
from exotrio.manager.queries.load import FAILED
from exotrio.manager.rules.errors import not_found
from exotrio.manager.store.driver import Row
from exotrio.manager.store.port import View


def find_node(view: View, namespace: str, name: str) -> Row:
    """Return a registered node.

    Raises:
        Refused: 404, there is none.
    """
    row = view.row("SELECT * FROM nodes WHERE namespace = ? AND name = ?", (namespace, name))
    if row is None:
        raise not_found(f"there is no node {name!r} registered in namespace {namespace!r}")
    return row


def input_fields(view: View, namespace: str, name: str) -> dict[str, Field]:
    """Return the inputs of a node by name; none if it is not registered."""
    row = view.row("SELECT inputs_schema FROM nodes WHERE namespace = ? AND name = ?", (namespace, name))
    return {} if row is None else {field.name: field for field in fields_of(row["inputs_schema"])}


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a node's inputs or outputs, as far as its schema describes it."""

    name: str
    type: str
    description: str


def fields_of(schema: str) -> list[Field]:
    """Return the fields that a JSON schema declares."""
    properties = from_json(schema).get("properties")
    found = []
    for name, given in (properties if isinstance(properties, dict) else {}).items():
        declared: dict[str, Any] = given if isinstance(given, dict) else {}
        found.append(Field(name, str(declared.get("type", "any")), str(declared.get("description", ""))))
    return found


def last_failures(view: View, node_id: int, limit: int) -> list[dict[str, Any]]:
    """Return the states of a node that failed and were not retried, newest first."""
    rows = view.execute(
        f"SELECT seq, error, finished_at FROM states WHERE node_id = ? AND {FAILED}"
        " ORDER BY finished_at DESC LIMIT ?",
        (node_id, limit),
    )
    return [
        {"id": view.state_id(row["seq"]), "at": row["finished_at"], "error": message_line(row["error"])}
        for row in rows
    ]
