"""One state as text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from exotrio._util.times import iso_time
from exotrio.cli.terminal.output import pairs
from exotrio.client import StateDetail, StateHistory


def state_as_lines(state: StateDetail) -> list[str]:
    """Return the lines for a state: run and node, values, error, attempts and events."""
    lines = [
        f"state {state.id}: {state.status.value}",
        f"place: {state.identifier} ({state.node_name})",
        f"run: {state.run_id} of graph {state.graph_name}",
    ]
    if state.parents:
        lines.append("after: " + ", ".join(f"{name} ({parent})" for name, parent in state.parents.items()))
    lines += _times(state)
    lines += _values("inputs", state.inputs)
    lines += _values("outputs", state.outputs)
    if state.error:
        lines += ["error:", *(f"  {line}" for line in state.error.split("\n"))]
    if isinstance(state, StateHistory):
        lines += _history(state)
    return lines


def _times(state: StateDetail) -> list[str]:
    if not isinstance(state, StateHistory):
        return [f"created: {iso_time(state.created_at)}", f"updated: {iso_time(state.updated_at)}"]
    by = f" by {state.worker}" if state.worker else ""
    times = [
        ("created", state.created_at, ""),
        ("claimed", state.claimed_at, by),
        ("finished", state.finished_at, ""),
    ]
    return [f"{what}: {iso_time(at)}{by}" for what, at, by in times if at]


def _values(what: str, values: Mapping[str, Any]) -> list[str]:
    if not values:
        return []
    return [f"{what}:", *pairs(values, "  ")]


def _history(state: StateHistory) -> list[str]:
    lines = _values("pruned with", state.data or {})
    if state.holder:
        ttl = "" if state.holder.ttl is None else f", lease for {state.holder.ttl:.0f} s"
        lines.append(f"held by: {state.holder.worker or 'a v0 runtime'}{ttl}")
    if state.deliveries:
        lines.append(f"runtimes in a row that ended while they ran it: {state.deliveries}")
    if len(state.attempts) > 1:
        lines.append("attempts:")
        for attempt in state.attempts:
            how = (
                "by hand"
                if attempt.by_hand
                else f"retry {attempt.retry_count}"
                if attempt.retry_count
                else "first"
            )
            this = "  <- this one" if attempt.id == state.id else ""
            created = iso_time(attempt.created_at)
            lines.append(f"  {attempt.id} {attempt.status.value}, {how}, {created}{this}")
    if state.events:
        lines.append("events:")
        lines += [
            f"  {iso_time(event.at)} {event.kind}" + (f" ({event.worker})" if event.worker else "")
            for event in state.events
        ]
    return lines
