"""What the reply to a claim says about each state."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from pydantic_core import from_json

from exotrio._util.times import timestamp
from exotrio.manager.engine.calls import read_results
from exotrio.manager.engine.checkpoints import read_checkpoints
from exotrio.manager.engine.mailbox import read_events
from exotrio.manager.engine.states import waits_since
from exotrio.manager.rules.template import Template
from exotrio.manager.store.catalog import RunFacts
from exotrio.manager.store.driver import Row
from exotrio.manager.store.transaction import Transaction


class _Claimed(NamedTuple):
    """What a reply needs of a state. To read columns of rows by their names took a quarter of the time of the
    replies."""

    seq: int
    run: int
    place: int
    inputs: str
    created_at: int
    updated_at: int
    enqueue_after: int
    claimed_at: int
    token: str | None
    lease_until: int | None
    retry_count: int
    deliveries: int
    suspect: int
    trace: str | None
    node_id: int
    calls_size: int | None
    event: str | None
    checkpoint_size: int | None


_claimed: Callable[[Row], _Claimed] = partial(tuple.__new__, _Claimed)
"""As ``_Claimed._make``, which is Python code, called for each state."""
REPLIED = ", ".join(_Claimed._fields)
"""The columns that ``claim_replies`` needs."""
V0_FIELDS = ("state_id", "node_name", "identifier", "inputs", "created_at")
"""What v0 shows of a claimed state."""
Reply = dict[str, Any]
"""A claimed state, as the native API shows it."""


def claim_replies(
    tx: Transaction,
    now: int,
    alone_from: int,
    seqs: Sequence[int],
    rows: Sequence[Row],
    runs: Mapping[int, RunFacts],
) -> list[Reply]:
    """Return the replies for the holder of states, in the order of ``seqs``.

    ``now``: on the clock of leases, ms. ``alone_from``: as in ``Claimer``. ``runs`` has those of the states.
    """
    states = {state.seq: state for state in map(_claimed, rows)}
    templates = {run: tx.template_of(run, facts) for run, facts in runs.items()}
    for state in states.values():
        run, place = state.run, templates[state.run].places[state.place]
        if (
            templates[run].version is not None
            and tx.node_id(place.namespace, place.node_name) != state.node_id
        ):
            # Another state manager has moved the run to another version: this one's runtime would not know
            # the node by the name that it had before.
            tx.catalog.forget_run(run)
            templates[run] = tx.template_of(run, tx.run_facts([run])[run])
    tx.catalog.keep_runs_of({seq: state.run for seq, state in states.items()})
    stored = read_checkpoints(tx, [seq for seq, state in states.items() if state.checkpoint_size is not None])
    waited = {seq: (state.run, state.event) for seq, state in states.items() if state.event is not None}
    values = read_events(tx, waited.values())
    called = read_results(tx, [seq for seq, state in states.items() if state.calls_size is not None])
    replies = [
        _claim_reply(tx, now, alone_from, state, runs[state.run], templates[state.run], stored.get(state.seq))
        for state in map(states.__getitem__, seqs)
    ]
    for seq, reply in zip(seqs, replies, strict=True) if waited else ():
        if seq in waited:
            reply["event"] = {"name": waited[seq][1], "value": values.get(waited[seq])}
    for seq, reply in zip(seqs, replies, strict=True) if called else ():
        if seq in called:
            reply["children"] = called[seq]
    return replies


def _claim_reply(
    tx: Transaction,
    now: int,
    alone_from: int,
    state: _Claimed,
    run: RunFacts,
    template: Template,
    checkpoint: Row | None,
) -> Reply:
    place, until = template.places[state.place], state.lease_until
    waits = waits_since(state.enqueue_after, state.updated_at, state.claimed_at)
    reply: Reply = {
        "state_id": tx.state_id(state.seq),
        "node_name": place.node_name,
        "identifier": place.identifier,
        "inputs": from_json(state.inputs, cache_strings="keys"),
        "created_at": timestamp(state.created_at),
        "graph_name": run.graph_name,
        "run_id": run.run_id,
        "waited_ms": max(0, state.claimed_at - max(state.created_at, waits)),
        "lease": {
            "token": state.token,
            "ttl_ms": None if until is None else max(0, until - now),
            "attempt": state.retry_count + 1,
            "deliveries": state.deliveries,
            "announce": bool(state.suspect),
            "alone": state.deliveries >= alone_from,
        },
    }
    if state.trace is not None:
        reply["trace"] = state.trace
    if place.timeout_ms is not None:
        reply["timeout_ms"] = place.timeout_ms
    if place.overrides:
        reply["timeout_overrides"] = True
    if checkpoint is not None:
        reply["checkpoint"] = {key: checkpoint[key] for key in ("number", "value")}
    return reply
