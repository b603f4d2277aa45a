"""The long form: ``python -m tests.chaos --states 10000 --worker-kills 200 --server-kills 20 --cuts 50
--zombies 30 --terms 100 [--v0-only] [--seed N]``.

Real processes on this machine; every figure of the table is counted from the journal of executions,
the HTTP API, the proxy between them, and the database. Exits 1 if an invariant is broken.
"""

from __future__ import annotations

import argparse
import logging
import math
import sys
import tempfile
from functools import partial
from pathlib import Path

import trio

from tests.chaos.campaign import campaign
from tests.chaos.graph import EXECUTED
from tests.chaos.plan import CUT, SERVER_KILL, TERM, WORKER_KILL, ZOMBIE, Plan
from tests.chaos.proxy import KINDS


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    add = partial(parser.add_argument, type=int)
    add("--states", default=1_000, help="states to execute, at least")
    add("--worker-kills", default=20, help="kill -9 of a worker, replaced at once")
    add("--server-kills", default=4, help="kill -9 of the state manager, restarted at once")
    add("--cuts", default=10, help="all connections broken")
    add("--zombies", default=4, help="SIGSTOP for longer than the lease, then SIGCONT")
    add("--terms", default=10, help="SIGTERM of a worker, replaced at once")
    add("--requests", help="of each fault of a single request: " + ", ".join(KINDS) + "; default: as --cuts")
    add("--processes", default=4, help="worker processes")
    add("--seed", default=0)
    parser.add_argument("--gap", type=float, default=1.2, help="seconds between faults of processes")
    parser.add_argument("--lease-ttl", type=float, default=3.0)
    parser.add_argument("--claim-timeout", type=float, default=10.0, help="with --v0-only")
    parser.add_argument("--v0-only", action="store_true", help="a state manager without the native API")
    parser.add_argument("--outbox", action="store_true", help="give workers a durable outbox")
    parser.add_argument("--folder", type=Path, help="keep logs, journal and database here")
    o = parser.parse_args()
    logging.basicConfig(level=logging.ERROR)
    requests = o.cuts if o.requests is None else o.requests
    plan = Plan(
        runs=math.ceil(o.states / EXECUTED),
        faults={
            WORKER_KILL: o.worker_kills,
            SERVER_KILL: o.server_kills,
            ZOMBIE: o.zombies,
            TERM: o.terms,
            CUT: o.cuts,
            **dict.fromkeys(KINDS, requests),
        },
        v0_only=o.v0_only,
        seed=o.seed,
        processes=o.processes,
        gap=o.gap,
        lease_ttl=o.lease_ttl,
        claim_timeout=o.claim_timeout,
        # A v0 claim cannot be renewed, so there no node may take longer than it holds.
        long=0.4 * o.claim_timeout if o.v0_only else 1.5 * o.lease_ttl,
        outbox=o.outbox,
        patience=120.0,
    )
    with tempfile.TemporaryDirectory() as temporary:
        folder = o.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        figures = trio.run(campaign, plan, folder)
    print(figures)
    return 1 if figures.problems else 0


if __name__ == "__main__":
    sys.exit(main())
