"""Whether the inputs and the store that a run is to get fit its graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import click

from exotrio.cli.terminal.words import listed, meant
from exotrio.graph import GraphNodeModel, StoreConfigModel


def check_run_values(
    graph: str,
    nodes: Sequence[GraphNodeModel],
    store_config: StoreConfigModel,
    inputs: Mapping[str, str],
    store: Mapping[str, str],
) -> None:
    """Refuse inputs that the root lacks, and store keys that nothing can read: both would be ignored.

    Raises:
        UsageError: there are such, or a required key of the store is not given.
    """
    followers = {name for node in nodes for name in node.next_nodes or ()}
    roots = [node for node in nodes if node.identifier not in followers and node.unites is None]
    for root in roots[:1]:  # of several, the state manager will complain
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
