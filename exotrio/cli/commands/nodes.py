"""``python -m exotrio nodes``: which nodes are registered."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain
from typing import Any

import click

from exotrio._util.times import iso_time
from exotrio._util.words import plural
from exotrio.cli import options
from exotrio.cli.connection import Connection, connection
from exotrio.cli.exit_codes import SUCCESS
from exotrio.cli.groups import Commands
from exotrio.cli.terminal.output import print_as, print_message, table
from exotrio.client import RegisteredNode, StateManager


@click.group(name="nodes", cls=Commands)
def command() -> None:
    """Show which nodes are registered in a namespace."""


@command.command(name="ls")
@options.output
@connection
def ls(output: str, connection: Connection) -> int:
    """List the registered nodes: inputs, outputs, secrets by name, and the runtime that has them.

    JSON: namespace, nodes (name, runtime_name, inputs_schema, outputs_schema, secrets, created_at,
    updated_at).
    """
    nodes = connection.ask(StateManager.nodes)
    shown = [node.model_dump(mode="json", exclude={"id", "namespace"}) for node in nodes]
    heads = ("node", "runtime", "inputs", "outputs", "secrets", "registered")
    count = f"{plural(len(nodes), 'node')} in namespace {connection.namespace}"
    body = {"namespace": connection.namespace, "nodes": shown}
    print_as(output, body, chain(table(heads, map(_row, nodes)), [count]))
    if not nodes and output != "json":
        print_message("runtimes register them: python -m exotrio worker FILE")
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
