"""Does a test notice when a safeguard is missing? ``python -m tests.security [WORDS OF A PROMISE ...]``.

Takes one safeguard out at a time, in a copy of the package, and runs the tests that should miss it; one
of them has to fail. Exits 1 if none did. Some minutes for all.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.chaos.mutation import mutated
from tests.security.points import POINTS, Change, Point

CHECKOUT = Path(__file__).parents[2]
RUN = "import sys, exotrio, pytest; sys.exit(pytest.main(sys.argv[1:]))"
"""Imports the copy first: pytest puts the checkout in front of it."""
HANG = 300.0
"""Seconds after which tests that still run have noticed too: what is missing is what would end them."""


def failures(point: Point, change: Change) -> list[str]:
    """Return the tests of a point that fail without its safeguard."""
    modules = {name.partition("::")[0] for name in point.tests}
    wanted = " or ".join(name.partition("::")[2] for name in point.tests)
    options = ["-n", "0", "-q", "--tb=no", "-p", "no:cacheprovider", "-k", wanted]
    options += [f"tests/{module}.py" for module in sorted(modules)]
    with tempfile.TemporaryDirectory() as folder:
        path = os.pathsep.join([str(mutated(Path(folder), change)), str(CHECKOUT)])
        try:
            ended = subprocess.run(
                [sys.executable, "-P", "-c", RUN, *options],
                cwd=CHECKOUT,
                env=os.environ | {"PYTHONPATH": path},
                capture_output=True,
                text=True,
                timeout=HANG,
            )
        except subprocess.TimeoutExpired:
            return ["it hangs"]
    assert ended.returncode in (0, 1), ended.stdout + ended.stderr
    return [line.split(" ")[1] for line in ended.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.security", description=__doc__)
    parser.add_argument("words", nargs="*", metavar="WORD")
    words = parser.parse_args().words
    missed = 0
    for point in POINTS:
        if not all(word.lower() in point.promise.lower() for word in words):
            continue
        if point.without is None:
            print(f"kept by a library   {point.promise}", flush=True)
            continue
        found = failures(point, point.without)
        missed += not found
        shown = f"{len(found)} of its tests" if found else "NOT NOTICED"
        print(f"{shown:<20}{point.promise}", flush=True)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
