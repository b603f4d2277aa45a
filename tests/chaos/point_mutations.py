"""Show that the tests of this folder notice when a safeguard is missing.

Each mutation takes one safeguard out of a private copy of exotrio and runs the combinations of
point and fault that should miss it; some have to fail. Takes some seconds for each::

    python -m tests.chaos.point_mutations [WORDS OF A NAME ...]
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

CHECKOUT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Mutation:
    """A safeguard to take out, and ``only``: the combinations to run, by a part of their names."""

    name: str
    module: str
    old: str
    new: str
    only: str


MUTATIONS = (
    Mutation(
        "fencing of outcomes off",
        "manager/engine/outcomes.py",
        "    if state.token != token:\n        return False\n",
        "",
        "longer than the lease",
    ),
    Mutation(
        "fencing of renewals off",
        "manager/engine/leases.py",
        'if state is None or state["token"] != beat.token else state',
        "if state is None else state",
        "longer than the lease",
    ),
    Mutation(
        "release by claim id off",
        "_link/native.py",
        "        with self._shields.shield(RELEASE_TIMEOUT) as shield, shield:\n",
        "        return\n        with self._shields.shield(RELEASE_TIMEOUT) as shield, shield:\n",
        "of claim on native",
    ),
    Mutation(
        "a claim repeated under another id",
        "_link/native.py",
        'request.model_copy(update={"wait_ms": 0})',
        'request.model_copy(update={"wait_ms": 0, "claim_id": uuid4().hex})',
        "of claim on native",
    ),
    Mutation(
        "rule 3 off: a requeue or release of unknown fate is repeated",
        "_link/v0.py",
        "                if error.sent:\n                    return Settlement(Fate.UNKNOWN",
        "                if False:\n                    return Settlement(Fate.UNKNOWN",
        "of requeue on v0",
    ),
    Mutation(
        "the shield of v0 claims off",
        "_link/v0.py",
        "                    scope=shield,\n",
        "",
        "of claim on v0",
    ),
    Mutation(
        "retries of the reporter off",
        "_runtime/reporter.py",
        "            case Fate.RETRY | Fate.KEY_REFUSED:\n",
        "            case Fate.RETRY | Fate.KEY_REFUSED:\n"
        "                self._end(held, Ending.ABANDONED)\n                return\n",
        "of report on",
    ),
    Mutation(
        "heartbeats off",
        "_runtime/heartbeat.py",
        "            pause = await self._send()\n",
        "            pause = self._interval\n",
        "execute on native",
    ),
    Mutation(
        "the sweeper off",
        "manager/background.py",
        "await store.write(managers.sweep, clock(), terms, last)",
        "managers.Swept()",
        "a kill of the worker in execute",
    ),
    Mutation(
        "a refusal believed, whoever answers",
        "_link/auto.py",
        "        if refused:\n            self._sure = False\n",
        "        if False:\n            self._sure = False\n",
        "a 404 in JSON before the send of re",
    ),
    Mutation(
        "a clock that is set back unnoticed",
        "manager/store/clock.py",
        "            set_back(self._connection, now, -step)\n",
        "            pass\n",
        "a clock set back",
    ),
    Mutation(
        "a cancelled node reported as an error",
        "_execution/executor.py",
        "return attempt.outcome\n",
        'return attempt.outcome or (Errored("cancelled") if execution.cancelled else None)\n',
        "in execute",
    ),
)


def main() -> None:
    """Run the mutations named on the command line, or all; exit with 1 if one goes unnoticed."""
    words = sys.argv[1:]
    unnoticed = 0
    for mutation in MUTATIONS:
        if all(word in mutation.name for word in words):
            failures = failures_with(mutation)
            unnoticed += not failures
            print(f"{mutation.name}: {sum(failures.values())} failures", flush=True)
            for point, number in failures.most_common(5):
                print(f"    {number:4}  {point}", flush=True)
    sys.exit(1 if unnoticed else 0)


def mutated(mutation: Mutation) -> str:
    """Return the text of the module once ``mutation`` is made."""
    text = (CHECKOUT / "exotrio" / mutation.module).read_text("utf-8")
    if text.count(mutation.old) != 1:
        raise ValueError(f"{mutation.name}: {mutation.module} no longer holds its text exactly once")
    return text.replace(mutation.old, mutation.new)


def failures_with(mutation: Mutation) -> Counter[str]:
    """Return where the cases fail, and how many there, once ``mutation`` is made."""
    with tempfile.TemporaryDirectory(prefix="exotrio-mutation-") as folder:
        copy = Path(folder)
        for part in ("exotrio", "tests"):
            shutil.copytree(CHECKOUT / part, copy / part, ignore=shutil.ignore_patterns("__pycache__"))
        (copy / "exotrio" / mutation.module).write_text(mutated(mutation), "utf-8")
        ended = subprocess.run(
            [sys.executable, "-m", "tests.chaos.points", "--seeds", "0", "--only", mutation.only],
            cwd=copy,
            env={**os.environ, "PYTHONPATH": folder},
            capture_output=True,
            text=True,
            timeout=1_800,
        )
    cases = [line.split(": ")[0] for line in ended.stderr.splitlines() if line.startswith("FAILED ")]
    if bool(cases) is (ended.returncode == 0):
        raise SystemExit(f"{mutation.name}: the campaign broke down:\n{ended.stderr[-2_000:]}")
    return Counter(_point(case) for case in cases)


def _point(case: str) -> str:
    """Return what stands behind the fault's name."""
    words = case.split()
    first = max(words.index(word) for word in ("before", "after", "in") if word in words)
    return " ".join(words[first:])


if __name__ == "__main__":
    main()
