"""Show that the tests of this folder notice when a safeguard is missing.

Each mutation takes one safeguard out of a private copy of exotrio and runs the combination of point and
fault that should miss it, which the tests have too: it has to fail. Takes some seconds for each::

    python -m tests.chaos.point_mutations [WORDS OF A NAME ...]
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.chaos.mutation import Mutation, mutated

CHECKOUT = Path(__file__).parents[2]

MUTATIONS = {
    "fencing of outcomes off": Mutation(
        "manager/engine/outcomes.py",
        "    if state.token != token:\n        return False\n",
        "",
        ("a delay longer than the lease before the send of claim on native",),
    ),
    "fencing of renewals off": Mutation(
        "manager/engine/leases.py",
        'if state is None or state["token"] != beat.token else state',
        "if state is None else state",
        ("a delay longer than the lease after the send of secrets on native",),
    ),
    "release by claim id off": Mutation(
        "_link/native.py",
        "        with self._shields.shield(RELEASE_TIMEOUT) as shield, shield:\n",
        "        return\n        with self._shields.shield(RELEASE_TIMEOUT) as shield, shield:\n",
        ("a stop with time after the send of claim on native",),
    ),
    "a claim repeated under another id": Mutation(
        "_link/native.py",
        'request.model_copy(update={"wait_ms": 0})',
        'request.model_copy(update={"wait_ms": 0, "claim_id": uuid4().hex})',
        ("connection reset after the send of claim on native",),
    ),
    "rule 3 off: a requeue or release of unknown fate is repeated": Mutation(
        "_link/v0.py",
        "                if error.sent:\n                    return Settlement(Fate.UNKNOWN",
        "                if False:\n                    return Settlement(Fate.UNKNOWN",
        ("connection reset after the send of requeue on v0",),
    ),
    "the shield of v0 claims off": Mutation(
        "_link/v0.py",
        "                    scope=shield,\n",
        "",
        ("a cancelled scope before execute on v0",),
    ),
    "retries of the reporter off": Mutation(
        "_runtime/reporter.py",
        "            case Fate.RETRY | Fate.KEY_REFUSED:\n",
        "            case Fate.RETRY | Fate.KEY_REFUSED:\n"
        "                self._end(held, Ending.ABANDONED)\n                return\n",
        ("connection refused before the send of report on native",),
    ),
    "heartbeats off": Mutation(
        "_runtime/heartbeat.py",
        "else await self._send()\n",
        "else self._interval\n",
        ("a delay longer than the lease in execute on native",),
    ),
    "the sweeper off": Mutation(
        "manager/background.py",
        "await store.write(managers.sweep, manager, now, terms, None if store.is_shared else last)",
        "managers.Swept()",
        ("a kill of the worker in execute on native",),
    ),
    "a refusal believed, whoever answers": Mutation(
        "_link/auto.py",
        "        if refused:\n            self._sure = False\n",
        "        if False:\n            self._sure = False\n",
        ("a 404 in JSON before the send of report on v0",),
    ),
    "a clock that is set back unnoticed": Mutation(
        "manager/store/clock.py",
        "            set_back(self._connection, now, -step)\n",
        "            pass\n",
        ("a clock set back by an hour after the commit of claim_once_ready on native",),
    ),
    "a cancelled node reported as an error": Mutation(
        "_execution/executor.py",
        "        report = execution.report\n",
        '        report = Errored("cancelled") if execution.cancelled else execution.report\n',
        ("a cancelled scope in execute on native",),
    ),
}


def main() -> None:
    """Run the mutations named on the command line, or all; exit with 1 if one goes unnoticed."""
    words = sys.argv[1:]
    unnoticed = 0
    for name, mutation in MUTATIONS.items():
        if all(word in name for word in words):
            noticed = is_noticed(mutation)
            unnoticed += not noticed
            print(f"{name}: {'' if noticed else 'NOT '}noticed by {mutation.cases[0]}", flush=True)
    sys.exit(1 if unnoticed else 0)


def is_noticed(mutation: Mutation) -> bool:
    """Return whether its case fails once ``mutation`` is made."""
    (case,) = mutation.cases
    with tempfile.TemporaryDirectory(prefix="exotrio-mutation-") as folder:
        path = os.pathsep.join([str(mutated(Path(folder), mutation)), str(CHECKOUT)])
        ended = subprocess.run(
            [sys.executable, "-m", "tests.chaos.points", "--seeds", "0", "--only", case],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": path},
            capture_output=True,
            text=True,
            timeout=1_800,
        )
    failed = f"FAILED {case}: " in ended.stderr
    if failed is (ended.returncode == 0):
        raise SystemExit(f"{case}: the campaign broke down:\n{ended.stderr[-2_000:]}")
    return failed


if __name__ == "__main__":
    main()
