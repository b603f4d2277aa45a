"""The long form: ``python -m tests.chaos --states 10000 --worker-kills 200 --server-kills 20 --cuts 50
--zombies 30 --terms 100 --hups 30 --gateways 20 --failures 10 --clocks 20 [--v0-only] [--seed N]``; on
PostgreSQL with ``--managers 3 --suspended 5 --database-crashes 10 --hangs 5 --sessions 100 --commit-cuts 100
--dues 100``. One day: ``--hours 24 [--managers 3] --folder DIR``.

Real processes on this machine; every figure of the table is counted from the journal of executions,
the HTTP API, the proxy between them, and the database. Exits 1 if an invariant is broken.
"""

from __future__ import annotations

import argparse
import logging
import math
import signal
import sys
import tempfile
from functools import partial
from pathlib import Path

import trio

from tests.chaos.campaign import campaign
from tests.chaos.graph import EXECUTED
from tests.chaos.plan import BY_USERS, MAX_FAILING, MAX_WINDOW, Fault, Plan, long_plan
from tests.chaos.proxy import KINDS

MAX_LONG = 12.0
"""Seconds that a node takes at most: well below the 20 s of grace."""

FAULTS = {
    Fault.WORKER_KILL: ("--worker-kills", 20, "kill -9 of a worker, replaced at once"),
    Fault.SERVER_KILL: ("--server-kills", 4, "kill -9 of the state manager, restarted at once"),
    Fault.CUT: ("--cuts", 10, "all connections broken"),
    Fault.ZOMBIE: ("--zombies", 4, "SIGSTOP for longer than the lease, then SIGCONT"),
    Fault.TERM: ("--terms", 10, "SIGTERM of a worker, replaced at once"),
    Fault.HUP: ("--hups", 4, "SIGHUP of a worker, replaced at once"),
    Fault.GATEWAY: ("--gateways", 4, f"up to {MAX_WINDOW:g} s in which all is answered 404 in JSON"),
    Fault.FAILING: (
        "--failures",
        4,
        f"up to {MAX_FAILING:g} s in which everything, or each report, is answered 500 in HTML or in JSON",
    ),
    Fault.CLOCK: ("--clocks", 4, "the state manager's wall clock set back or ahead, by an hour or 40 days"),
    Fault.PAUSE: ("--pauses", 4, "a node paused for up to 2 s"),
    Fault.SUSPENDED: (
        "--suspended",
        0,
        "SIGSTOP of a state manager for longer than the lease (several only)",
    ),
    Fault.RESTORE: (
        "--restores",
        0,
        "a backup restored while workers live (on a file; no clocks or pauses)",
    ),
    Fault.DATABASE_CRASH: ("--database-crashes", 0, "PostgreSQL ended at once, and restarted"),
    Fault.FAILOVER: ("--failovers", 0, "a standby takes over that has not received the last commits"),
    Fault.SYNC_FAILOVER: ("--sync-failovers", 0, "a synchronous standby takes over"),
    Fault.DATABASE_HUNG: (
        "--hangs",
        0,
        "SIGSTOP of PostgreSQL for longer than a state manager waits for it, then SIGCONT",
    ),
    Fault.SESSION_END: ("--sessions", 0, "sessions of PostgreSQL ended, one at a time"),
    Fault.COMMIT_CUT: (
        "--commit-cuts",
        0,
        "connections to PostgreSQL cut just before or just after a COMMIT",
    ),
    Fault.SCHEDULE_DUE: ("--dues", 20, "a schedule is due (several state managers only)"),
    Fault.CANCEL: ("--cancels", 20, "a run cancelled, or a child of one"),
    Fault.RETRY: ("--retries", 5, "a failed run and its failed state retried at once, by several users"),
    Fault.PRIORITY: ("--priorities", 5, "the priority of a run changed"),
    Fault.LIMIT: ("--limits", 5, "a limit reduced for up to 6 s, possibly to 0"),
    Fault.REPIN: ("--repins", 5, "a run moved to another version"),
    Fault.DELETE: ("--deletions", 5, "a graph deleted with its runs, half of them cancelled first"),
}
"""Each with its option, how many there are by default, and what it is."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    add = partial(parser.add_argument, type=int)
    add("--states", default=1_000, help="states to execute, at least")
    for fault, (option, default, text) in FAULTS.items():
        add(option, dest=fault, metavar="N", default=default, help=text)
    add("--managers", default=0, help="state managers on one PostgreSQL; 0: one on a file")
    add("--requests", help="of each fault of a single request: " + ", ".join(KINDS) + "; default: as --cuts")
    add("--processes", default=4, help="worker processes")
    add("--seed", default=0)
    parser.add_argument("--gap", type=float, default=1.2, help="seconds between faults of processes")
    parser.add_argument("--lease-ttl", type=float, default=3.0, help="seconds")
    parser.add_argument("--claim-timeout", type=float, default=10.0, help="seconds, with --v0-only")
    parser.add_argument("--v0-only", action="store_true", help="a state manager without the native API")
    parser.add_argument("--outbox", action="store_true", help="give workers a durable outbox")
    parser.add_argument("--folder", type=Path, help="keep logs, journal and database here")
    parser.add_argument(
        "--hours",
        type=float,
        help="watch for so long, with one fault a minute and a low load; the numbers of faults do not count",
    )
    o = parser.parse_args()
    logging.basicConfig(level=logging.ERROR)
    # nohup has it ignored, and what is ignored here is ignored by workers, too: SIGHUP would not stop them.
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    if o.hours is not None:
        if o.v0_only or not o.hours > 0:
            parser.error("--hours has to be more than 0, and does not go with --v0-only")
        plan = long_plan(
            o.hours, managers=o.managers, seed=o.seed, processes=o.processes, lease_ttl=o.lease_ttl
        )
        return run(plan, o.folder)
    faults: dict[str, int] = {fault: getattr(o, fault) for fault in FAULTS}
    if o.v0_only:
        faults[Fault.PAUSE] = 0
    if faults[Fault.FAILOVER]:
        # A failover may lose that a node was paused.
        faults[Fault.PAUSE] = 0
    if not o.managers:
        faults[Fault.SCHEDULE_DUE] = 0
    if o.managers or o.v0_only:
        faults[Fault.RESTORE] = 0
    if o.v0_only or any(faults[kind] for kind in (Fault.RESTORE, Fault.FAILOVER, Fault.SYNC_FAILOVER)):
        # What users were told must not be undone.
        faults |= dict.fromkeys(BY_USERS, 0)
    if faults[Fault.RESTORE]:
        # Ids are not assigned again as long as the clock is right; and a pause may be restored, too.
        faults |= {Fault.CLOCK: 0, Fault.PAUSE: 0}
    plan = Plan(
        runs=math.ceil(o.states / EXECUTED),
        faults={**faults, **dict.fromkeys(KINDS, faults[Fault.CUT] if o.requests is None else o.requests)},
        managers=o.managers,
        v0_only=o.v0_only,
        seed=o.seed,
        processes=o.processes,
        gap=o.gap,
        lease_ttl=o.lease_ttl,
        claim_timeout=o.claim_timeout,
        # A v0 claim cannot be renewed, so there no node may take longer than it holds, and a buffer full of
        # long ones has to be done by then. And none may take longer than the grace of a stop: it would be
        # cancelled and begun again, or hold the loop until it is killed.
        long=min(MAX_LONG, 0.2 * o.claim_timeout if o.v0_only else 1.5 * o.lease_ttl),
        outbox=o.outbox,
        settling_time=120.0,
    )
    return run(plan, o.folder)


def run(plan: Plan, kept: Path | None) -> int:
    with tempfile.TemporaryDirectory() as temporary:
        folder = kept or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        figures = trio.run(campaign, plan, folder)
    print(figures)
    return 1 if figures.problems else 0


if __name__ == "__main__":
    sys.exit(main())
