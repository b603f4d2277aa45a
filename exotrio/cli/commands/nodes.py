"""``python -m exotrio nodes``: which nodes are registered."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from exotrio._util.times import iso_time
from exotrio._util.words import plural
from exotrio.cli.connection import Connection, connection
from exotrio.cli.exit_codes import SUCCESS
from exotrio.cli.groups import Commands
from exotrio.client import RegisteredNode, StateManager


@click.group(name="nodes", cls=Commands)
def command() -> None:
    """Show which nodes are registered in a namespace."""


@command.command(name="ls")
@connection
def ls(connection: Connection) -> int:
    """List the registered nodes: inputs, outputs, secrets by name, and the runtime that has them.

    JSON: namespace, nodes (name, runtime_name, inputs_schema, outputs_schema, secrets, created_at,
    updated_at).
    """
    nodes = connection.ask(StateManager.nodes)
    connection.print_list(
        ("node", "runtime", "inputs", "outputs", "secrets", "registered"),
        [_row(node) for node in nodes],
        f"{plural(len(nodes), 'node')} in namespace {connection.namespace}",
        hint="runtimes register them: python -m exotrio worker FILE",
        nodes=[node.model_dump(mode="json", exclude={"id", "namespace"}) for node in nodes],
    )
    return SUCCESS


def _row(node: RegisteredNode) -> tuple[str, ...]:
    return (
        node.name,
        node.runtime_name,
        _fields(node.inputs_schema),
        _fields(node.outputs_schema),
        ", ".join(node.secrets),
        iso_time(node.updated_at),
    )


def _fields(schema: Mapping[str, Any]) -> str:
    """Return the fields of a schema, with the type if it is not a string."""
    properties = schema.get("properties")
    if not isinstance(properties, Mapping):
        return ""
    return ", ".join(
        name
        if not isinstance(kind, Mapping) or kind.get("type", "string") == "string"
        else f"{name} ({kind['type']})"
        for name, kind in properties.items()
    )
