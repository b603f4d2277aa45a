"""``python -m exotrio nodes``: list the registered nodes; pause and resume them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from exotrio._util.times import iso_time
from exotrio._util.words import plural
from exotrio.cli import options
from exotrio.cli.connection import Connection, connection
from exotrio.cli.groups import Commands
from exotrio.cli.lookup import about
from exotrio.client import RegisteredNode, StateManager


@click.group(name="nodes", cls=Commands)
def command() -> None:
    """List the registered nodes of a namespace; pause and resume them."""


@command.command(name="ls")
@connection
def ls(connection: Connection) -> None:
    """List the registered nodes: inputs, outputs, names of secrets, and the Runtime that registered them.

    JSON: namespace, nodes (name, runtime_name, inputs_schema, outputs_schema, secrets, created_at,
    updated_at, paused_at).
    """
    nodes = connection.ask(StateManager.nodes)
    paused = any(node.paused_at for node in nodes)
    connection.print_list(
        ("node", "runtime", "inputs", "outputs", "secrets", "registered", *["paused since"] * paused),
        [(*_row(node), *[iso_time(node.paused_at) if node.paused_at else ""] * paused) for node in nodes],
        f"{plural(len(nodes), 'node')} in namespace {connection.namespace}",
        hint="runtimes register them: python -m exotrio worker FILE",
        nodes=[node.model_dump(mode="json", exclude={"id", "namespace"}) for node in nodes],
    )


@command.command(name="pause")
@options.node
@connection
def pause(node: str, connection: Connection) -> None:
    """Pause NODE: its states are not claimed. Running ones continue; new states and retries wait.

    It stays paused when a runtime registers it again. Pausing it again changes nothing.

    JSON: namespace, node, paused_at.
    """
    paused_at = connection.ask(lambda manager: about(manager, "node", node, manager.pause_node(node)))
    connection.print_pause("node", node, paused_at)


@command.command(name="resume")
@options.node
@connection
def resume(node: str, connection: Connection) -> None:
    """Resume NODE: its waiting states are claimed again.

    JSON: namespace, node, paused_at (null).
    """
    connection.ask(lambda manager: about(manager, "node", node, manager.resume_node(node)))
    connection.print_pause("node", node, None)


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
    fields = []
    for name, declared in properties.items():
        type = declared.get("type", "string") if isinstance(declared, Mapping) else "string"
        fields.append(name if type == "string" else f"{name} ({type})")
    return ", ".join(fields)
