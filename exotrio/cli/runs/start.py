"""Starting a run of a graph with values that were checked first."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from exotrio._wire.vocabulary import ValidationStatus, to_ms
from exotrio.cli.input.run_values import check_run_values
from exotrio.cli.lookup.resources import find_graph
from exotrio.client._state_manager import StateManager
from exotrio.errors import GraphInvalid


async def start_run(
    manager: StateManager,
    graph: str,
    inputs: Mapping[str, str],
    store: Mapping[str, str],
    *,
    start_delay: float = 0.0,
) -> dict[str, Any]:
    """Start a run and return the reply.

    Args:
        start_delay: Seconds before its first node may run.

    Raises:
        UsageError: the values do not fit the graph.
        GraphInvalid: the graph cannot be triggered.
        NotFound: there is no such graph; the error says which there are.
        ManagerError: as its other subclasses say.
    """
    known = await find_graph(manager, graph)
    if known.validation_status is ValidationStatus.INVALID:
        raise GraphInvalid(
            f"graph {graph!r} is invalid, so it cannot be triggered",
            known.validation_errors,
            fix="mend it and apply it again; or start the runtime that has its nodes, and apply it again",
        )
    check_run_values(graph, known.nodes, known.store_config, inputs, store)
    return await manager.trigger(
        graph, inputs=dict(inputs), store=dict(store), start_delay=to_ms(start_delay)
    )
