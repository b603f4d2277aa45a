"""Finding states, page by page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict, Unpack

from exotrio._wire.operations import ListedState
from exotrio._wire.vocabulary import StateStatus
from exotrio.client._state_manager import StateManager

PAGE = 1_000


class Wanted(TypedDict, total=False):
    """Which states, as ``StateManager.states`` takes it."""

    run: str | None
    graph: str | None
    node: str | None
    identifier: str | None
    status: Sequence[StateStatus]


async def list_states(
    manager: StateManager, limit: int, **wanted: Unpack[Wanted]
) -> tuple[list[ListedState], bool]:
    """Return the newest states that match, and whether there may be more.

    Raises:
        RequestRefused: the server speaks only v0, and no run was named.
        ManagerError: as its other subclasses say.
    """
    states: list[ListedState] = []
    before: str | None = None
    while True:
        # A page may be short, or empty, and yet not the last: the server bounds how far it looks for one.
        page = await manager.states(limit=min(PAGE, limit - len(states)), before=before, **wanted)
        states += page.states
        before = page.next
        if before is None or len(states) >= limit:
            return states, before is not None
