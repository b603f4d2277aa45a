from __future__ import annotations

import pytest

from exotrio._wire.native import HeartbeatRequest
from exotrio.manager.engine import workers
from exotrio.manager.queries.workers import progress_of, workers_of
from tests.support.manager import Manager


@pytest.mark.parametrize("lost", ["a", "z"])
async def test_progress_is_that_of_the_runtime_which_was_heard_of_last(manager: Manager, lost: str) -> None:
    store, now, terms = manager.service.store, manager.service.monotonic(), manager.service.terms
    for worker_id, fraction, ago in ((lost, 0.9, 120_000), ("m", 0.1, 0)):
        state = {"state_id": "S", "token": "t", "running": True, "progress": {"fraction": fraction}}
        body = {"worker_id": worker_id, "runtime": "r", "phase": "running", "states": [state]}
        beat = HeartbeatRequest.model_validate(body)
        await store.write(workers.heartbeat, "n", beat, now - ago, terms)
    found = await store.look(lambda view: progress_of(workers_of(view, "n", now)))
    assert found["S"].fraction == 0.1
