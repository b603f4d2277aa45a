"""Starts runs, after checking that the values fit the graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import click

from exotrio._util.words import listed
from exotrio._wire.vocabulary import to_ms
from exotrio.cli.lookup import find_graph
from exotrio.cli.terminal.words import meant
from exotrio.client import StateManager, ValidationStatus
from exotrio.errors import GraphInvalid
from exotrio.graph import GraphNodeModel, StoreConfigModel


async def start_run(
    manager: StateManager,
    graph: str,
    inputs: Mapping[str, str],
    store: Mapping[str, str],
    *,
    start_delay: float = 0.0,
) -> dict[str, Any]:
    """Start a run, after checking that the values fit the graph, and return the reply."""
    known = await find_graph(manager, graph)
    if known.validation_status is ValidationStatus.INVALID:
        raise GraphInvalid(
            f"graph {graph!r} is invalid, so it cannot be triggered",
            known.validation_errors,
            fix="fix it, or start the runtime that has its nodes; then apply it again",
        )
    check_run_values(graph, known.nodes, known.store_config, inputs, store)
    return await manager.trigger(
        graph, inputs=dict(inputs), store=dict(store), start_delay=to_ms(start_delay)
    )


def check_run_values(
    graph: str,
    nodes: Sequence[GraphNodeModel],
    store_config: StoreConfigModel,
    inputs: Mapping[str, str],
    store: Mapping[str, str],
) -> None:
    """Refuse inputs and store keys that the graph lacks, which would be ignored, and require its keys."""
    followers = {name for node in nodes for name in node.next_nodes or ()}
    roots = [node for node in nodes if node.identifier not in followers and node.unites is None]
    for root in roots[:1]:  # several roots are refused by the state manager
        for name in inputs:
            if name not in root.inputs:
                raise click.UsageError(
                    f"the root of graph {graph!r} ({root.identifier}) has no input {name!r}; it has: "
                    f"{listed(root.inputs)}{meant(name, root.inputs)}"
                )
    readable = list(dict.fromkeys([*store_config.required_keys, *store_config.default_values]))
    for key in store:
        if key not in readable:
            raise click.UsageError(
                f"graph {graph!r} has no store key {key!r}; it has: {listed(readable)}{meant(key, readable)}"
            )
    missing = [key for key in store_config.required_keys if key not in store]
    if missing:
        wanted = " ".join(f"--store {key}=VALUE" for key in missing)
        raise click.UsageError(f"graph {graph!r} needs more of its store: give {wanted}")
