"""Claims at a state manager that speaks only v0, read run by run, and findings about them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from exotrio._util.times import format_coarse
from exotrio._util.words import listed, one_line, plural
from exotrio.client import RunStatus, StateManager, StateNode, StateStatus
from exotrio.manager.rules.findings import Finding, are, info

MAX_RUNS = 1_000
"""Newest runs that are searched for unfinished ones."""
MAX_OPENED = 50
"""Unfinished runs whose states are read."""
MAX_STATES = 50_000
"""States of all these runs together."""
MAX_DATED = 20
"""Claimed states whose times of creation are requested, one request each."""


@dataclass(slots=True)
class V0Claims:
    """Claimed and waiting states, by node."""

    claimed: Counter[str] = field(default_factory=Counter)
    waiting: Counter[str] = field(default_factory=Counter)
    pending_runs: int = 0
    """Number of unfinished runs among the newest ``MAX_RUNS``."""
    opened: int = 0
    """Number of them whose states were read."""
    created: dict[str, datetime] = field(default_factory=dict)
    """When claimed states were created; v0 does not show when they were claimed."""
    runs: int = 0
    """Number of all runs that were searched."""


async def find_v0_claims(manager: StateManager) -> V0Claims:
    """Return the claims of a namespace, within the limits above."""
    claims = V0Claims()
    runs = (await manager.runs(1, MAX_RUNS)).runs
    pending = [run for run in runs if run.status is RunStatus.PENDING]
    claims.runs, claims.pending_runs = len(runs), len(pending)
    claimed: list[tuple[str, str, StateNode]] = []
    left = MAX_STATES
    for run in pending[::-1]:  # the oldest first: they have the stuck states
        left -= run.total_count
        if claims.opened == MAX_OPENED or left < 0:
            break
        claims.opened += 1
        for state in (await manager.run(run.run_id)).nodes:
            if state.status is StateStatus.QUEUED:
                claims.claimed[state.node_name] += 1
                claimed.append((run.graph_name, run.run_id, state))
            elif state.status is StateStatus.CREATED:
                claims.waiting[state.node_name] += 1
    for graph, run_id, state in claimed[:MAX_DATED]:
        created = (await manager.state(graph, run_id, state.id)).created_at
        claims.created[state.id] = _creation(state.id, created)
    return claims


def _creation(state_id: str, created_at: datetime) -> datetime:
    # Exosphere's own state manager sends its local time without a zone, which was read as UTC. Its ids, from
    # MongoDB, begin with four bytes of Unix seconds.
    try:
        begin_of_id = datetime.fromtimestamp(int(state_id[:8], 16), UTC)
    except ValueError:
        return created_at
    return begin_of_id if abs(begin_of_id - created_at) < timedelta(hours=15) else created_at


def v0_findings(claims: V0Claims, now: datetime, stale: float, *, ours: bool) -> list[Finding]:
    """Return findings about a state manager that speaks only v0.

    Args:
        now: Time by the clock of the state manager.
        stale: Seconds after which a claimed state counts as stuck.
        ours: It is an exotrio server.
    """
    findings = []
    if count := claims.claimed.total():
        nodes = listed((f"{one_line(name)} {n:,}" for name, n in claims.claimed.most_common()), 5)
        ages = {state_id: (now - created).total_seconds() for state_id, created in claims.created.items()}
        what = f"{plural(count, 'state')} {are(count)} QUEUED ({nodes})"
        if ages:
            what += f"; the first of them was created {format_coarse(max(ages.values()))} ago"
        unknown = "v0 does not show which runtime holds them"
        stuck = [state_id for state_id, age in ages.items() if age >= stale]
        if not stuck:
            findings.append(info(what, f"{unknown}; fine while their runtimes run them"))
        else:
            fix = f"`states retry` each of {', '.join(map(one_line, stuck))}"
            fix = "restart the server with --claim-timeout SECONDS" if ours else fix
            findings.append(Finding(what, f"{unknown}. If their runtime is gone: {fix}"))
    if claims.opened < claims.pending_runs:
        what = f"of {claims.pending_runs:,} unfinished runs the oldest {claims.opened:,} were read"
        findings.append(info(what))
    return findings
