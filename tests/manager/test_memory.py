"""What a state manager keeps in memory has a bound, however many runs, runtimes and requests there were."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence, Set
from functools import partial
from types import MethodType
from uuid import uuid4

import pytest
import trio

from exotrio.manager.engine import workers
from exotrio.manager.store import base, catalog
from exotrio.manager.store.postgres import pipeline
from tests.contract.flow import Flow
from tests.contract.native import claim_one, executed_item, item_for, report
from tests.support.helpers import node_name, ok, place, refused
from tests.support.manager import ENGINES, Manager, open_manager

BOUND = 8
"""Of each cache here. They hold up to 10,000 entries otherwise."""
OPERATIONS = 30
"""Of each round: enough to fill the caches."""

GIVEN_UP_MS = 500


@pytest.mark.parametrize("engine", ENGINES)
async def test_nothing_is_kept_of_each_run_runtime_or_request(
    engine: str, db: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base, "TALLY_INTERVAL_MS", 0)
    monkeypatch.setattr(catalog, "MAX_KEPT", BOUND)
    monkeypatch.setattr(catalog, "MAX_STATES_KEPT", BOUND)
    monkeypatch.setattr(pipeline, "MAX_PREPARED", BOUND)
    monkeypatch.setattr(workers, "MAX_WORKERS", BOUND)
    async with open_manager(db) as manager:
        flow = await Flow.deploy(manager.api, place("a", "b", inputs={"i": "initial"}), place("b"))
        rounds = []
        for _ in range(3):
            for _ in range(OPERATIONS):
                await _operate(manager, flow)
            # A claim that was given up is forgotten when its time is over, which was before that of this one.
            ok(await manager.api.native_claim({node_name("a"): 1}, wait_ms=GIVEN_UP_MS))
            rounds.append(_held_by(manager.service))
        first, second, third = rounds
        grows = {
            at: (first[at], second[at], count)
            for at, count in third.items()
            if count - second[at] >= OPERATIONS and second[at] - first[at] >= OPERATIONS
        }
        assert grows == {}
        assert any(at.endswith("._runs_of_states") for at in third), "the caches are not found"


async def _operate(manager: Manager, flow: Flow) -> None:
    """Let a new runtime execute a new run, wait for runs that never begin, and send what is refused."""
    api, name = manager.api, str(uuid4())
    await flow.trigger(inputs={"i": name}, store={})
    claimed = {"limits": {node_name("a"): 1, node_name("b"): 1}, "worker_id": name}
    for _ in range(2):
        state = await claim_one(api, **claimed)
        beat = item_for(state, running=True, checkpoint={"number": 1, "value": "{}"})
        ok(await api.heartbeat(name, states=[beat]))
        assert await report(api, executed_item(state)) == ["ok"]
    ok(await api.native_claim({node_name("a"): 1}, wait_ms=1, worker_id=name, run_id=name))
    with trio.move_on_after(0.01):
        await api.native_claim({node_name("b"): 1}, wait_ms=GIVEN_UP_MS, worker_id=name, run_id=name)
    refused(await api.native_run(name), 404)
    assert await report(api, executed_item(state | {"state_id": uuid4().hex[:24]})) != ["ok"]
    ok(await api.overview())
    ok(await manager.remote.find_runs(size=BOUND))


def _held_by(root: object) -> Counter[str]:
    """Return how many items each container has that an object reaches through objects of exotrio."""
    found: Counter[str] = Counter()
    seen: set[int] = set()
    waiting: list[tuple[str, object]] = [(type(root).__name__, root)]
    while waiting:
        at, each = waiting.pop()
        if id(each) in seen:
            continue
        seen.add(id(each))
        if isinstance(each, Sequence | Set | Mapping) and not isinstance(each, str | bytes | memoryview):
            found[at] += len(each)
            items = [*each.keys(), *each.values()] if isinstance(each, Mapping) else [*each]
            waiting += [(f"{at}[]", item) for item in items]
        else:
            waiting += [(f"{at}.{name}", value) for name, value in _attributes(each)]
    return found


def _attributes(each: object) -> Iterator[tuple[str, object]]:
    if isinstance(each, MethodType):
        yield "self", each.__self__
    elif isinstance(each, partial):
        yield from (("function", each.func), ("arguments", each.args), ("keywords", each.keywords))
    elif type(each).__module__.startswith("exotrio."):
        yield from getattr(each, "__dict__", {}).items()
        for base in type(each).__mro__:
            slots = base.__dict__.get("__slots__", ())
            for name in (slots,) if isinstance(slots, str) else slots:
                private = name.startswith("__") and not name.endswith("__")
                yield name, getattr(each, f"_{base.__name__.lstrip('_')}{name}" if private else name, None)
