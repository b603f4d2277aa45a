"""A graph as text and as JSON."""

from __future__ import annotations

import time
from typing import Any

from exotrio._util.cron import next_occurrence_ms
from exotrio._util.times import iso_time, timestamp
from exotrio._wire.graphs import GraphReply
from exotrio.cli.terminal.output import pairs
from exotrio.graph import GraphNodeModel, RetryPolicyModel

NEXT_RUNS = 3
"""Next occurrences that are printed for each cron trigger."""


def graph_as_json(name: str, namespace: str, graph: GraphReply) -> dict[str, Any]:
    """Return a graph as v0 returns it, with its name and the next times of its triggers."""
    return {
        "name": name,
        "namespace": namespace,
        **graph.model_dump(mode="json", exclude={"id", "name", "namespace"}),
        "next_runs": {each: next_runs(each) for each in _expressions(graph)},
    }


def graph_as_lines(name: str, namespace: str, graph: GraphReply) -> list[str]:
    """Return the lines for a graph: nodes with their next nodes, settings, and every problem."""
    lines = [headline(name, namespace, graph), f"updated: {iso_time(graph.updated_at)}", "nodes:"]
    for node in graph.nodes:
        lines += _node(node, namespace)
    lines.append(f"secrets: {', '.join(graph.secrets) or 'none'}")
    lines.append(f"retry policy: {_policy(graph.retry_policy)}")
    store = graph.store_config
    if store.required_keys:
        lines.append(f"store, required: {', '.join(store.required_keys)}")
    if store.default_values:
        lines.append("store, defaults:")
        lines += pairs(store.default_values, "  ")
    lines += cron_lines(graph)
    if graph.validation_errors:
        lines += ["problems:", *(f"  - {problem}" for problem in graph.validation_errors)]
    return lines


def headline(name: str, namespace: str, graph: GraphReply) -> str:
    """Return one line about a graph."""
    count = len(graph.nodes)
    nodes = "1 node" if count == 1 else f"{count} nodes"
    return f"graph {name} of namespace {namespace}: {graph.validation_status.value}, {nodes}"


def cron_lines(graph: GraphReply) -> list[str]:
    """Return a line for each cron trigger, with its next times."""
    return [f"cron: {each}  next {', '.join(next_runs(each)) or 'never'}" for each in _expressions(graph)]


def next_runs(expression: str) -> list[str]:
    """Return the next times of a cron expression, in UTC; fewer if there are no more."""
    found: list[str] = []
    after: int | None = int(time.time() * 1000)
    while after is not None and len(found) < NEXT_RUNS:
        after = next_occurrence_ms(expression, after)
        if after is not None:
            found.append(timestamp(after, "seconds"))
    return found


def _expressions(graph: GraphReply) -> list[str]:
    return list(dict.fromkeys(trigger.value.expression for trigger in graph.triggers))


def _node(node: GraphNodeModel, namespace: str) -> list[str]:
    kind = node.node_name if node.namespace == namespace else f"{node.node_name} of {node.namespace}"
    head = f"  {node.identifier} ({kind})"
    if node.unites:
        head += f" unites {node.unites.identifier} ({node.unites.strategy.value})"
    if node.next_nodes:
        head += f" -> {', '.join(node.next_nodes)}"
    return [head, *pairs(node.inputs, "    ")]


def _policy(policy: RetryPolicyModel) -> str:
    if policy.max_retries == 0:
        return "no retries"
    cap = "" if policy.max_delay is None else f", at most {policy.max_delay} ms"
    exponent = f", exponent {policy.exponent}" if policy.strategy.value.startswith("EXPONENTIAL") else ""
    backoff = f"backoff {policy.backoff_factor} ms{exponent}{cap}"
    return f"{policy.strategy.value}, {policy.max_retries} retries, {backoff}"
