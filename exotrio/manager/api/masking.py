"""The step between reading outcomes from a request and recording them, for both APIs."""

from __future__ import annotations

from collections.abc import Sequence

from exotrio._wire.native import OutcomeItem
from exotrio.manager.engine.masking import has_texts, mask, secrets_to_mask
from exotrio.manager.service import Service


async def masked(service: Service, items: Sequence[OutcomeItem]) -> list[OutcomeItem]:
    """Return outcomes with the secrets of their graphs masked in errors and log lines."""
    state_ids = [item.state_id for item in items if has_texts(item)]
    if not state_ids:
        return list(items)
    secrets = await service.store.read(secrets_to_mask, state_ids, service.cipher)
    return await service.compute(mask, items, secrets) if secrets else list(items)
