"""Benchmarks: ``python -m tests.bench [NAME ...] [--runs N] [-o json] [--sdk-python PYTHON] [--peers]
[--against REV]``.

``python -m tests.bench arena`` runs jobs on PostgreSQL under faults and load, ``python -m tests.bench peers``
makes the table of exotrio and systems like it, ``python -m tests.bench scale`` says how far a state manager
goes; each has a separate ``--help``.

Each figure is the median of several rounds with its range; what is compared is measured in the same
round. Machines differ and are noisy: compare figures of one table with each other, not with those of
another day, and two commits with ``--against``, which runs both in alternate rounds.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.bench import (
    cancelling,
    fair,
    fan,
    history,
    keys,
    latency,
    limits,
    peers,
    postgres,
    programs,
    starting,
    stock,
    stop,
    throughput,
    waiting,
)
from tests.bench.against import compare
from tests.bench.arena import command as arena
from tests.bench.figures import Plan, Sample, as_json, as_table, comparison_table, gather
from tests.bench.scale import command as scale

Case = Callable[[Plan], Iterator[Sample]]

CASES: dict[str, Case] = {
    "process": throughput.process,
    "tcp": throughput.tcp,
    "v0": throughput.v0,
    "starting": starting.starting,
    "latency": latency.process,
    "latency-tcp": latency.tcp,
    "postgres": postgres.postgres,
    "join": fan.joined,
    "growth": fan.growth,
    "history": history.history,
    "limits": limits.limits,
    "keys": keys.keys,
    "waiting": waiting.waiting,
    "cancel": cancelling.cancelling,
    "fair": fair.fair,
    "import": programs.imports,
    "worker": programs.worker,
    "stock": stock.stock,
    "stop": stop.stop,
}
ONCE = {"history", "keys", "stop"}
"""Cases that take all their samples at once, since what they need takes long to make."""


def measure(plan: Plan, names: list[str]) -> Iterator[Sample]:
    """Yield the samples of all rounds; every round goes through all cases."""
    for number in range(plan.runs):
        for name in names:
            if number == 0 or name not in ONCE:
                print(f"round {number + 1} of {plan.runs}: {name}", file=sys.stderr, flush=True)
                yield from CASES[name](plan)


COMMANDS: dict[str, Callable[[list[str]], None]] = {
    "arena": arena.main,
    "peers": peers.main,
    "scale": scale.main,
}
"""Cases with separate tables; each explains its arguments by ``--help``."""


def main() -> None:
    if sys.argv[1:] and (command := COMMANDS.get(sys.argv[1])):
        command(sys.argv[2:])
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"default: all of {' '.join(CASES)}")
    parser.add_argument("--runs", type=int, default=Plan.runs, help="rounds")
    parser.add_argument("--states", type=int, default=Plan.states, help="size of the fan-outs for throughput")
    parser.add_argument("--sdk-python", help="Python of an environment with exospherehost")
    parser.add_argument("--seconds", type=float, default=Plan.work_seconds, help="work of a node in stop")
    parser.add_argument(
        "--peers", action="store_true", help="in stop also measure other systems, which pip installs for it"
    )
    parser.add_argument("--against", metavar="REV", help="compare with another commit of this repository")
    parser.add_argument("-o", "--output", choices=["table", "json"], default="table")
    options = parser.parse_args()
    if unknown := set(options.names) - CASES.keys():
        parser.error(f"there is no case {' '.join(sorted(unknown))}; there are {' '.join(CASES)}")
    with tempfile.TemporaryDirectory() as folder:
        if options.against is not None:
            arguments = [*options.names, "--states", str(options.states)]
            print(comparison_table(compare(options.against, arguments, options.runs, Path(folder))))
            return
        plan = Plan(
            folder=Path(folder),
            runs=options.runs,
            states=options.states,
            work_seconds=options.seconds,
            sdk_python=options.sdk_python,
            peers=options.peers,
        )
        figures = gather(measure(plan, options.names or list(CASES)))
    print(as_json(figures) if options.output == "json" else as_table(figures))


if __name__ == "__main__":
    main()
