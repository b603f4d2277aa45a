"""A claim takes no more than a slow link can bring in time, and at least one state."""

from __future__ import annotations

from typing import Any

import pytest

from exotrio._wire.vocabulary import MAX_CHECKPOINT
from exotrio.manager.engine.claims import MAX_CLAIM_BYTES
from tests.contract.flow import Flow
from tests.contract.native import A, claim, item_for
from tests.support.helpers import declare, ok, place
from tests.support.manager import Manager, recount

both = pytest.mark.parametrize("native", [True, False], ids=["native", "v0"])


async def waiting(manager: Manager, *sizes: int, letter: str = "x") -> None:
    """Make a state with inputs of each size, in bytes."""
    flow = await Flow.deploy(manager.api, place("a", inputs={"p": ""}))
    for size in sizes:
        await flow.trigger(inputs={"p": letter * (size // len(letter.encode()))})


async def take(manager: Manager, native: bool, limit: int = 1000) -> list[Any]:
    if native:
        return await claim(manager.api, {A: limit}, limit=limit)
    states: list[Any] = ok(await manager.api.claim([A], limit))["states"]
    return states


@both
@pytest.mark.parametrize("letter", ["x", "€"])
async def test_a_claim_of_large_states_is_limited_and_the_next_ones_return_the_others(
    manager: Manager, native: bool, letter: str
) -> None:
    await waiting(manager, *[600_000] * 8, letter=letter)
    taken = [await take(manager, native) for _ in range(4)]
    await manager.service.store.read(recount)
    assert [len(states) for states in taken] == [3, 3, 2, 0]
    assert len({state["state_id"] for states in taken for state in states}) == 8


async def test_checkpoints_count_as_much_as_inputs(manager: Manager) -> None:
    await waiting(manager, *[1] * 40)
    value = '{"row": "' + "x" * (MAX_CHECKPOINT - 11) + '"}'
    states = [
        item_for(state, checkpoint={"number": 1, "value": value})
        for state in await take(manager, native=True)
    ]
    ok(await manager.api.release(states=states))
    assert [len(await take(manager, native=True)) for _ in range(3)] == [31, 9, 0]


@both
async def test_a_state_that_is_larger_than_a_claim_comes_alone(manager: Manager, native: bool) -> None:
    await waiting(manager, MAX_CLAIM_BYTES + 1, 10, 10)
    assert [len(await take(manager, native)) for _ in range(2)] == [1, 2]


async def test_a_limited_claim_returns_the_same_states_when_it_is_repeated(manager: Manager) -> None:
    await waiting(manager, *[1_500_000] * 2)
    (first,) = await claim(manager.api, {A: 9}, limit=9, claim_id="c")
    (again,) = await claim(manager.api, {A: 9}, limit=9, claim_id="c")
    assert first["state_id"] == again["state_id"]
    assert first["lease"]["token"] == again["lease"]["token"]


@both
async def test_a_claim_may_name_more_nodes_than_one_statement_has_parts(
    manager: Manager, native: bool
) -> None:
    names = [f"Other_{number}" for number in range(600)]
    ok(await manager.api.register([declare(name, [], ["v"]) for name in names]))
    await waiting(manager, 1)
    if native:
        taken = await claim(manager.api, dict.fromkeys([*names, A], 1))
    else:
        taken = ok(await manager.api.claim([*names, A], 1))["states"]
    assert [state["node_name"] for state in taken] == [A]
