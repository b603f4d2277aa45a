"""The graph of the chaos tests.

A run is ``seed`` -> ``fan`` (ten outputs) -> ten ``step`` and ten ``note``; ``join`` unites all of it.
Some steps and notes fail, prune, requeue, take long or block the loop, as their index says.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from exotrio import Graph, RetryPolicyModel

NAMESPACE = "chaos"
FAN_OUT = 10
CANARY = "CANARY"
"""Name of the secret that must be seen nowhere."""
FAILING, LONG, BLOCKING, PRUNING, REQUEUEING = "3", "7", "8", "5", "9"
"""Indexes of items that do not simply succeed; the first three only in some runs."""
STATES = {"seed": 1, "fan": FAN_OUT, "step": FAN_OUT, "note": FAN_OUT, "join": 1}
"""States of one run by identifier, less retries. Those of ``fan`` are one execution and its siblings."""
EXECUTED = 2 * FAN_OUT + 3
"""How many of them are executed."""
EDGES = {("seed", "fan"): FAN_OUT, ("fan", "step"): FAN_OUT, ("fan", "note"): FAN_OUT, ("seed", "join"): 1}
"""Edges of one run. The siblings of ``fan`` share their parent; a united state hangs from its target."""
MAX_RETRIES = 3
VERSIONS = "1", "2"
"""Of the workers, in turn; those of v0 have none."""
MAX_NOTES = 3
"""Of ``note`` at once, in all runs together."""

ORDERS: Sequence[Mapping[str, Any]] = (
    {},
    {"priority": "high"},
    {"weight": 3.0},
    {"priority": "low", "weight": 0.5},
    {"fair_key": "customer"},
    {"fair_key": "customer", "priority": "high", "weight": 2.0},
)
"""Priorities, weights and fairness keys of runs: a campaign has runs with each."""


def in_order(number: int) -> Mapping[str, Any]:
    """Return in which order the states of a run are to be claimed; the same each time it is triggered."""
    return ORDERS[number % len(ORDERS)]


def version_of(number: int, runs: int) -> str | None:
    """Return the version to which one of so many runs is pinned; None for any.

    The last two have the same, since ``pausing`` compares when they are claimed.
    """
    number = min(number, runs - 2)
    return (VERSIONS[0], None, VERSIONS[1])[(number + number // 3) % 3]


def blocks(run: str, index: str) -> bool:
    """Whether this step may block the event loop of its runtime."""
    return index == BLOCKING and int(run) % 8 == 1


def graph_name(version: str | None) -> str:
    """Return the name of the graph whose runs are pinned to a version, or to none."""
    return "chaos" if version is None else f"chaos-{version}"


def graph(secret: str, version: str | None, *, has_limits: bool) -> Graph:
    """Return the graph of such runs. A server that speaks only v0 knows no limits."""
    policy = RetryPolicyModel(max_retries=MAX_RETRIES, backoff_factor=100)
    made = Graph(
        graph_name(version),
        namespace=NAMESPACE,
        secrets={CANARY: secret},
        retry_policy=policy,
        version=version,
    )
    seed = made.add("Seed", run="")
    fan = made.add("Fan", run=seed.run)
    step = made.add("Step", run=fan.run, index=fan.index)
    notes = [made.limit("notes", at_most=MAX_NOTES)] if has_limits else []
    made.add("Note", run=fan.run, index=fan.index, limits=notes)
    made.add("Join", unites=seed, run=seed.run, indexes=step.every.index)
    return made
