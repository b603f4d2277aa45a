"""What the reply to a claim says about each state."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

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

REPLIED = (
    "seq, run, place, inputs, created_at, updated_at, enqueue_after, claimed_at, token, lease_until,"
    " retry_count, deliveries, suspect, trace, node_id, calls_size, event, checkpoint_size"
)
"""The columns that a reply needs. They are read by position: to find them by their names took a quarter of
the time of the replies."""
RUN, PLACE = 1, 2
NODE, CALLS_SIZE, EVENT, CHECKPOINT_SIZE = -4, -3, -2, -1
V0_FIELDS = ("state_id", "node_name", "identifier", "inputs", "created_at")
"""What v0 shows of a claimed state."""
Reply = dict[str, Any]
"""A claimed state, as the native API shows it."""


def claim_replies(
    tx: Transaction, now: int, alone_from: int, seqs: Sequence[int], rows: Sequence[Row]
) -> list[Reply]:
    """Return the replies for the holder of states, in the order of ``seqs``.

    ``now``: on the clock of leases, ms. ``alone_from``: as in ``Claimer``.
    """
    by_seq = {state[0]: state for state in rows}
    run_of = {seq: state[RUN] for seq, state in by_seq.items()}
    runs = tx.run_facts({*run_of.values()})
    templates = {run: tx.template_of(run, facts) for run, facts in runs.items()}
    for seq, run in run_of.items():
        place = templates[run].places[by_seq[seq][PLACE]]
        if (
            templates[run].version is not None
            and tx.node_id(place.namespace, place.node_name) != by_seq[seq][NODE]
        ):
            # Another state manager has moved the run to another version: this one's runtime would not know
            # the node by the name that it had before.
            tx.catalog.forget_run(run)
            templates[run] = tx.template_of(run, tx.run_facts([run])[run])
    tx.catalog.keep_runs_of(run_of)
    stored = read_checkpoints(
        tx, [seq for seq, state in by_seq.items() if state[CHECKPOINT_SIZE] is not None]
    )
    waited = {seq: (state[RUN], state[EVENT]) for seq, state in by_seq.items() if state[EVENT] is not None}
    values = read_events(tx, waited.values())
    called = read_results(tx, [seq for seq, state in by_seq.items() if state[CALLS_SIZE] is not None])
    replies = [
        _claim_reply(tx, now, alone_from, by_seq[seq], runs[run], templates[run], stored.get(seq))
        for seq, run in ((seq, run_of[seq]) for seq in seqs)
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
    state: Row,
    run: RunFacts,
    template: Template,
    checkpoint: Row | None,
) -> Reply:
    seq, _, place_index, inputs, created_at, updated_at, enqueue_after, claimed_at, *others = state
    token, until, retry_count, deliveries, suspect, trace, *_ = others
    place = template.places[place_index]
    reply: Reply = {
        "state_id": tx.state_id(seq),
        "node_name": place.node_name,
        "identifier": place.identifier,
        "inputs": from_json(inputs, cache_strings="keys"),
        "created_at": timestamp(created_at),
        "graph_name": run.graph_name,
        "run_id": run.run_id,
        "waited_ms": max(0, claimed_at - max(created_at, waits_since(enqueue_after, updated_at, claimed_at))),
        "lease": {
            "token": token,
            "ttl_ms": None if until is None else max(0, until - now),
            "attempt": retry_count + 1,
            "deliveries": deliveries,
            "announce": bool(suspect),
            "alone": deliveries >= alone_from,
        },
    }
    if trace is not None:
        reply["trace"] = trace
    if place.timeout_ms is not None:
        reply["timeout_ms"] = place.timeout_ms
    if place.overrides:
        reply["timeout_overrides"] = True
    if checkpoint is not None:
        reply["checkpoint"] = {key: checkpoint[key] for key in ("number", "value")}
    return reply
