"""Show that the tests notice each missing safeguard: ``python -m tests.mutations [WORD ...]``.

Takes the entries whose promise or tests contain every WORD (default: all, half an hour). Exits 1 if no
test of an entry fails.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.mutations import Mutation, copy_mutated, read_table

CHECKOUT = Path(__file__).parents[2]
TIMEOUT = 300.0
"""Seconds after which tests that still run count as failed: some safeguards end what would hang."""
CHAOS_TRIES = 3
"""Runs of tests with real faults: whether a fault meets the missing safeguard depends on the moment."""


def failing_tests(mutation: Mutation) -> list[str]:
    """Return the tests of an entry that fail without its safeguard."""
    modules = sorted({name.partition("::")[0] for name in mutation.tests})
    names = " or ".join(name.partition("::")[2].partition("[")[0] for name in mutation.tests)
    # By default pytest puts the checkout in front of the copy, also for processes that get this import path.
    options = ["-n", "0", "-q", "--tb=no", "-p", "no:cacheprovider", "-m", "", "-k", names]
    # By default pytest puts the checkout in front of the copy, also for processes that get this import path.
    options += ["--import-mode=append", *(f"tests/{module}.py" for module in modules)]
    with tempfile.TemporaryDirectory() as folder:
        copy_mutated(mutation, Path(folder))
        path = os.pathsep.join([folder, str(CHECKOUT)])
        for _ in range(CHAOS_TRIES if modules[0].startswith("chaos/") else 1):
            try:
                ended = subprocess.run(
                    [sys.executable, "-P", "-m", "pytest", *options],
                    cwd=CHECKOUT,
                    env=os.environ | {"PYTHONPATH": path},
                    capture_output=True,
                    text=True,
                    timeout=TIMEOUT,
                )
            except subprocess.TimeoutExpired:
                return ["a test that hangs"]
            assert ended.returncode in (0, 1), ended.stdout + ended.stderr
            if ended.returncode == 1:
                break
    lines = ended.stdout.splitlines()
    return [line.split(" ")[1] for line in lines if line.startswith(("FAILED", "ERROR"))]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.mutations", description=__doc__)
    parser.add_argument("words", nargs="*", metavar="WORD")
    words = parser.parse_args().words
    unnoticed = 0
    for mutation in read_table():
        text = " ".join([mutation.promise, *mutation.tests]).lower()
        if not mutation.changes or not all(word.lower() in text for word in words):
            continue
        failing = failing_tests(mutation)
        unnoticed += not failing
        print(f"{f'{len(failing)} failed' if failing else 'NOT NOTICED':<14}{mutation.promise}", flush=True)
        for test in failing:
            print(f"    {test}", flush=True)
    return 1 if unnoticed else 0


if __name__ == "__main__":
    sys.exit(main())
