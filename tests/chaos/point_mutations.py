"""Show that the tests of this folder notice when a safeguard is missing.

Each mutation takes one safeguard out of a private copy of exotrio and runs the combination of point and
fault that should miss it, which the tests have too: it has to fail. Takes some seconds for each::

    python -m tests.chaos.point_mutations [WORDS OF A NAME ...]
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

CHECKOUT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Mutation:
    """A safeguard to take out, and the ``case`` that has to fail then."""

    name: str
    module: str
    old: str
    new: str
    case: str


MUTATIONS = (
    Mutation(
        "fencing of outcomes off",
        "manager/engine/outcomes.py",
        "    if state.token != token:\n        return False\n",
        "",
        "a delay longer than the lease before the send of claim on native",
    ),
    Mutation(
        "fencing of renewals off",
        "manager/engine/leases.py",
        'if state is None or state["token"] != beat.token else state',
        "if state is None else state",
        "a delay longer than the lease after the send of secrets on native",
    ),
    Mutation(
        "release by claim id off",
        "_link/native.py",
        "        with self._shields.shield(RELEASE_TIMEOUT) as shield, shield:\n",
        "        return\n        with self._shields.shield(RELEASE_TIMEOUT) as shield, shield:\n",
        "a stop with time after the send of claim on native",
    ),
    Mutation(
        "a claim repeated under another id",
        "_link/native.py",
        'request.model_copy(update={"wait_ms": 0})',
        'request.model_copy(update={"wait_ms": 0, "claim_id": uuid4().hex})',
        "connection reset after the send of claim on native",
    ),
    Mutation(
        "rule 3 off: a requeue or release of unknown fate is repeated",
        "_link/v0.py",
        "                if error.sent:\n                    return Settlement(Fate.UNKNOWN",
        "                if False:\n                    return Settlement(Fate.UNKNOWN",
        "connection reset after the send of requeue on v0",
    ),
    Mutation(
        "the shield of v0 claims off",
        "_link/v0.py",
        "                    scope=shield,\n",
        "",
        "a cancelled scope before execute on v0",
    ),
    Mutation(
        "retries of the reporter off",
        "_runtime/reporter.py",
        "            case Fate.RETRY | Fate.KEY_REFUSED:\n",
        "            case Fate.RETRY | Fate.KEY_REFUSED:\n"
        "                self._end(held, Ending.ABANDONED)\n                return\n",
        "connection refused before the send of report on native",
    ),
    Mutation(
        "heartbeats off",
        "_runtime/heartbeat.py",
        "            pause = await self._send()\n",
        "            pause = self._interval\n",
        "a delay longer than the lease in execute on native",
    ),
    Mutation(
        "the sweeper off",
        "manager/background.py",
        "await store.write(managers.sweep, clock(), terms, last)",
        "managers.Swept()",
        "a kill of the worker in execute on native",
    ),
    Mutation(
        "a refusal believed, whoever answers",
        "_link/auto.py",
        "        if refused:\n            self._sure = False\n",
        "        if False:\n            self._sure = False\n",
        "a 404 in JSON before the send of report on v0",
    ),
    Mutation(
        "a clock that is set back unnoticed",
        "manager/store/clock.py",
        "            set_back(self._connection, now, -step)\n",
        "            pass\n",
        "a clock set back by an hour after the commit of claim_once_ready on native",
    ),
    Mutation(
        "a cancelled node reported as an error",
        "_execution/executor.py",
        "return attempt.outcome\n",
        'return attempt.outcome or (Errored("cancelled") if execution.cancelled else None)\n',
        "a cancelled scope in execute on native",
    ),
)


def main() -> None:
    """Run the mutations named on the command line, or all; exit with 1 if one goes unnoticed."""
    words = sys.argv[1:]
    unnoticed = 0
    for mutation in MUTATIONS:
        if all(word in mutation.name for word in words):
            noticed = is_noticed(mutation)
            unnoticed += not noticed
            print(f"{mutation.name}: {'' if noticed else 'NOT '}noticed by {mutation.case}", flush=True)
    sys.exit(1 if unnoticed else 0)


def mutated(mutation: Mutation) -> str:
    """Return the text of the module once ``mutation`` is made."""
    text = (CHECKOUT / "exotrio" / mutation.module).read_text("utf-8")
    if text.count(mutation.old) != 1:
        raise ValueError(f"{mutation.name}: {mutation.module} no longer holds its text exactly once")
    return text.replace(mutation.old, mutation.new)


def is_noticed(mutation: Mutation) -> bool:
    """Return whether its case fails once ``mutation`` is made."""
    with tempfile.TemporaryDirectory(prefix="exotrio-mutation-") as folder:
        copy = Path(folder)
        for part in ("exotrio", "tests"):
            shutil.copytree(CHECKOUT / part, copy / part, ignore=shutil.ignore_patterns("__pycache__"))
        (copy / "exotrio" / mutation.module).write_text(mutated(mutation), "utf-8")
        ended = subprocess.run(
            [sys.executable, "-m", "tests.chaos.points", "--seeds", "0", "--only", mutation.case],
            cwd=copy,
            env={**os.environ, "PYTHONPATH": folder},
            capture_output=True,
            text=True,
            timeout=1_800,
        )
    failed = f"FAILED {mutation.case}: " in ended.stderr
    if failed is (ended.returncode == 0):
        raise SystemExit(f"{mutation.name}: the campaign broke down:\n{ended.stderr[-2_000:]}")
    return failed


if __name__ == "__main__":
    main()
