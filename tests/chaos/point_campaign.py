"""The long run of faults at points: every combination once, then as many random sequences as wanted."""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Iterator

import trio
from trio.testing import MockClock

from tests.chaos.point_invariants import check
from tests.chaos.point_world import World
from tests.chaos.points import Case, deterministic_cases, random_case


def main() -> None:
    """Run a campaign, print its figures, and exit with 1 if anything was lost."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.points", description=__doc__)
    parser.add_argument("--seeds", type=int, default=500, help="random sequences; 500 by default")
    parser.add_argument("--first", type=int, default=0, help="the first seed; 0 by default")
    parser.add_argument("--random-only", action="store_true", help="leave the combinations out")
    parser.add_argument("--only", default="", help="of the combinations, those whose name contains this")
    options = parser.parse_args()
    began = time.monotonic()
    struck: Counter[str] = Counter()
    totals: Counter[str] = Counter()
    failed = 0
    for name, case, seed in _cases(options):
        world = World(case, seed)
        try:
            trio.run(world.live, check, clock=MockClock(autojump_threshold=0))
        except Exception as error:
            failed += 1
            print(f"FAILED {name}: {_text(error)}", file=sys.stderr, flush=True)
        struck.update(strike.fault.value for strike in world.struck)
        totals["runs"] += 1
        totals["states executed"] += len(world.executions)
        totals["executions"] += sum(world.executions.values())
        totals["leases ended"] += world.expired
        totals["outcomes acknowledged"] += len(world.acknowledged)
    totals["executed again"] = totals["executions"] - totals["states executed"] - 2 * totals["runs"]
    for what, number in (*totals.items(), *struck.most_common(), ("failed", failed)):
        print(f"{number:10,}  {what}")
    print(f"{time.monotonic() - began:10,.0f}  seconds")
    sys.exit(1 if failed else 0)


def _cases(options: argparse.Namespace) -> Iterator[tuple[str, Case, int]]:
    if not options.random_only:
        for case in deterministic_cases():
            if options.only in str(case):
                yield str(case), case, options.first
    for seed in range(options.first, options.first + options.seeds):
        case = random_case(seed)
        yield f"seed {seed} on {case.api} ({case})", case, seed


def _text(error: BaseException) -> str:
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return f"{type(error).__name__}: {error}"
