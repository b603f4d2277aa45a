"""Does the short form find what it is there to find? ``python -m tests.chaos.mutations [NAME ...]``.

Switches one safeguard off at a time, in a copy of the package, and prints which case of the short form
failed because of it. Exits 1 if one was not found.
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
from pathlib import Path

import trio

from tests.chaos.mutation import Mutation, mutated
from tests.chaos.short import CASES

MUTATIONS = {
    "schedules once": Mutation(
        "manager/engine/runs.py",
        "    if take_duty(tx, DUTY) is None:\n",
        "    if False:\n",
        ("every fault, three on PostgreSQL",),
    ),
    "fencing": Mutation(
        "manager/engine/outcomes.py",
        "if state.token != token:",
        "if (state.token is None) != (token is None):",
        ("every fault",),
    ),
    "heartbeats": Mutation(
        "_link/native.py",
        "        results: list[HeartbeatResult] = []\n",
        "        return HeartbeatAnswer((HeartbeatResult.OK,) * len(heartbeat.states), 60.0, frozenset())\n"
        "        results: list[HeartbeatResult] = []\n",
        ("every fault", "SIGTERM only"),
    ),
    "release on drain": Mutation(
        "_link/native.py",
        "            settlements |= await self._release(released)\n",
        "            settlements |= dict.fromkeys(released, Settlement(Fate.SETTLED))\n",
        ("SIGTERM only",),
    ),
    "outbox": Mutation(
        "_runtime/outbox_store.py",
        "None if body is None else self._db",
        "None if body is not None else self._db",
        ("outbox", "outbox, v0 only"),
    ),
    "ids after a restore": Mutation(
        "manager/store/sqlite/commits.py",
        "max(highest, number_at(clock())) + GAP",
        "highest + 1",
        # Whether a worker still holds what an id is assigned to again depends on moments.
        ("restored backup",) * 3,
        # One of them is enough while nothing else fails.
        (Mutation("_runtime/ledger.py", " and known.is_of(claim)", ""),),
    ),
    "lease expiry": Mutation(
        "manager/engine/leases.py", "    if not seqs:\n", "    if seqs or True:\n", ("every fault",)
    ),
    "pausing": Mutation(
        "manager/engine/claims.py",
        " AND (SELECT paused_at FROM nodes WHERE id = ?) IS NULL",
        " AND (SELECT paused_at FROM nodes WHERE id = -coalesce(?, 0)) IS NULL",
        ("every fault",),
    ),
    "keys of runs": Mutation(
        "manager/engine/runs.py",
        "(run_id, *of_each, run.origin, run.key, None if run.key is None else run.digest())",
        "(run_id, *of_each, run.origin, None, None)",
        ("SIGTERM only",),
    ),
    "repeating reports": Mutation(
        "_runtime/reporter.py",
        "            case Fate.RETRY | Fate.KEY_REFUSED:\n",
        "            case Fate.RETRY | Fate.KEY_REFUSED:\n"
        "                self._end(held, Ending.ABANDONED)\n                return\n",
        ("every fault",),
    ),
    "probes": Mutation(
        "_runtime/server_errors.py",
        "        return item.counted > 0 and self._passed < item.failed_at\n",
        "        return False\n",
        ("outage of 500s, v0 only",),
    ),
}


def find(mutation: Mutation) -> tuple[str, list[str]] | None:
    """Return the case that failed because of a mutation, and how; None if none did."""
    for case in mutation.cases:
        with tempfile.TemporaryDirectory() as package, tempfile.TemporaryDirectory() as folder:
            mutated(Path(package), *mutation.all)
            problems = trio.run(CASES[case], Path(folder), Path(package))
        if problems:
            return case, problems
    return None


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.mutations", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(MUTATIONS))
    logging.basicConfig(level=logging.CRITICAL)
    missed = 0
    for name in parser.parse_args().names or MUTATIONS:
        found = find(MUTATIONS[name])
        if found is None:
            missed += 1
            print(f"{name:<20} NOT FOUND", flush=True)
        else:
            case, problems = found
            first = problems[0].splitlines()[0]
            print(f"{name:<20} found by '{case}', {len(problems)} broken invariants: {first}", flush=True)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
