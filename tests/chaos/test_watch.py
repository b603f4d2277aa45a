"""What the watch of a long campaign records, and when it says that a quantity rises."""

from __future__ import annotations

import math
import os
import random
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pytest
import trio

from exotrio.manager import serve
from tests.chaos.cluster import until
from tests.chaos.watch import LOG, Watch, trend, verdicts
from tests.support.processes import KEY

noise = random.Random(1)
NOISY = [100 + noise.gauss(0, 3) for _ in range(120)]


@pytest.mark.parametrize(
    ("values", "verdict"),
    [
        (NOISY, "flat"),
        ([value + 0.2 * minute for minute, value in enumerate(NOISY)], "RISES"),
        ([value - minute for minute, value in enumerate(NOISY)], "flat"),
        ([100 + 0.05 * minute for minute in range(120)], "flat"),
        ([min(minute, 60) + value for minute, value in enumerate(NOISY)], "flat"),
        ([minute * 10 for minute in range(29)], "RISES"),
        ([minute * 10 for minute in range(28)], "too short"),
        ([*([math.nan] * 60), *range(1, 61)], "RISES"),
    ],
    ids=["noise", "a leak", "falls", "too little to matter", "warms up", "just", "short", "gaps"],
)
def test_what_rises_over_the_last_half_by_more_than_noise_is_named(
    values: Sequence[float], verdict: str
) -> None:
    found = trend(values)
    assert found is not None
    assert str(found).startswith(f"{verdict}: mean ")
    assert found.rises == (verdict == "RISES")


@pytest.mark.parametrize(("minutes", "verdict"), [(108, "too short"), (109, "RISES")])
def test_that_memory_rises_is_said_only_once_the_first_hour_is_left_out(minutes: int, verdict: str) -> None:
    names = "state manager, MiB", "state manager, descriptors"
    memory, descriptors = verdicts(
        [dict.fromkeys(names, float(minute)) for minute in range(minutes)]
    ).values()
    assert str(memory).startswith(f"{verdict}: mean ")
    assert str(descriptors).startswith("RISES: mean ")


def test_of_two_values_nothing_is_said() -> None:
    assert trend([1, 2, 3]) is None
    assert verdicts([]) == {}


async def test_each_minute_is_recorded_with_what_is_used_and_how_long_requests_take(tmp_path: Path) -> None:
    async with trio.open_nursery() as nursery:
        run = partial(serve, port=0, db=tmp_path / "state.db", key=KEY, grace=0.1)
        (uri,) = await nursery.start(run)
        watch = Watch(
            folder=tmp_path,
            uri=uri,
            pids=lambda: {"state manager": os.getpid()},
            executions=lambda: 10,
            interval=0.3,
            probe_interval=0.01,
        )
        nursery.start_soon(watch.run)
        with trio.fail_after(60):
            await until(lambda: any(all(value > 0 for value in each.values()) for each in watch.minutes))
        nursery.cancel_scope.cancel()
    last = watch.minutes[-1]
    assert last["database, bytes for each execution"] > 4096 / 10
    assert set(verdicts(watch.minutes)) == set(last) - {"minute", "executions", LOG}
    assert watch.log_problems() == []
    watch.minutes[-1][LOG] = 64.5
    assert watch.log_problems() == ["the write-ahead log has 64 MiB"]
    head, *lines = (tmp_path / "minutes.csv").read_text().splitlines()
    assert head.startswith("minute,executions,")
    assert len(lines) == len(watch.minutes)
