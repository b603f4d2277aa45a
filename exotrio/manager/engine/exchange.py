"""What a busy runtime asks for: to record outcomes and claim what is due then, in one use case."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from exotrio._wire.native import ItemReply, OutcomeItem
from exotrio.manager.engine.claims import Claimed, Claimer, claim_due
from exotrio.manager.engine.outcomes import record_batch
from exotrio.manager.store.effects import WithEffects
from exotrio.manager.store.transaction import Transaction


def record_and_claim(
    tx: Transaction,
    namespace: str,
    items: Sequence[OutcomeItem],
    limits: Mapping[str, int],
    limit: int,
    claimer: Callable[[], Claimer],
) -> WithEffects[tuple[list[ItemReply], Claimed]]:
    """Record outcomes as ``record_batch`` does, then claim as ``claim_due`` does: oldest first.

    What follows these outcomes is claimed with the rest, in its order: a runtime that is always busy does not
    overtake older states. ``claimer`` returns who claims, as of now.
    """
    replies, of_outcomes = record_batch(tx, namespace, items)
    claimed, effects = claim_due(tx, namespace, limits, limit, claimer())
    effects.add(of_outcomes)
    for seq in claimed.seqs:
        # Not announced: no other runtime can claim it.
        effects.claimable.pop(seq, None)
    return WithEffects((replies, claimed), effects)
