"""The same workload through the stock SDK and through exotrio, on our server speaking only v0."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.bench.figures import Plan, Sample
from tests.bench.places import ROOT, apart, environment_of

SCRIPT = Path(__file__).with_name("stock_runs.py")


def stock(plan: Plan) -> Iterator[Sample]:
    """One-node runs at default settings. Needs ``--sdk-python``; without it only exotrio is measured."""
    pythons = {"exotrio": sys.executable}
    if plan.sdk_python is not None:
        pythons["exospherehost"] = plan.sdk_python
    rates = {}
    for package, interpreter in pythons.items():
        with apart(plan.folder, "--v0-only") as where:
            done = subprocess.run(
                [interpreter, SCRIPT, package, str(plan.stock_runs)],
                env={**os.environ, **environment_of(where), "PYTHONPATH": str(ROOT)},
                capture_output=True,
                text=True,
                timeout=600,
            )
        assert done.returncode == 0, done.stderr[-2000:]
        rates[package] = float(done.stdout)
        name = f"{plan.stock_runs} one-node runs, v0, {package}"
        yield Sample(name, rates[package], "states/s")
    if plan.sdk_python is not None:
        ratio = rates["exotrio"] / rates["exospherehost"]
        yield Sample("one-node runs, v0, exotrio over exospherehost", ratio, "x", min_goal=30)
