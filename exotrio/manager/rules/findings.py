"""What needs attention, by an overview and a checkup. ``doctor`` and the dashboard show it. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from exotrio._util.database_url import DatabaseUrl
from exotrio._util.times import format_coarse, format_duration, iso_time
from exotrio._util.words import bytes_text, listed, one_line, plural
from exotrio._wire.checkup import (
    Checkup,
    DatabaseState,
    Disagreement,
    HeldClaims,
    HorizonHolder,
    LostLeases,
    ManagerState,
    PostgresState,
    UnstartedRun,
)
from exotrio._wire.limits import LimitInfo
from exotrio._wire.overview import NodeLoad, Overview, RuntimeInfo
from exotrio._wire.releases import VersionInfo
from exotrio.graph import split_name

CLOCK_OFF = 2.0
"""Seconds by which clocks may differ."""
LONG_DUE = 300.0
"""Seconds after which a due state needs an explanation."""
LATE = 2 / 3
"""Part of a lease after which a heartbeat is late: two are missing."""
OVERDUE = 30.0
"""Seconds after the end of a lease within which another runtime should have claimed the state."""
MIN_FREE_DISK = 512 * 1024 * 1024
MAX_LOG = 1024 * 1024 * 1024
SLOW_COMMIT = 0.05
"""Seconds. A separate disk takes one to ten milliseconds."""
LONG_HORIZON = 300.0
"""Seconds for which a transaction may keep dead rows from being removed."""
OLD_HORIZON = 1_000_000
"""Transactions, where the time is not known."""
MANY_DEAD = 100_000
"""Dead rows of a table, if they are more than a fifth of the others."""
NEARLY_ALL = 0.9
"""Part of the connections."""
MAX_KEPT = 4 * 1024 * 1024 * 1024
"""Bytes of PostgreSQL's log that a replication slot may keep."""
SILENT = 30.0
"""Seconds after which other state managers take over what one held."""
_OFF = {
    "autovacuum": "dead rows are never removed",
    "fsync": "a crash of its machine can destroy the database",
    "full_page_writes": "a crash of its machine can destroy the database",
    "synchronous_commit": "a crash loses outcomes that runtimes take for recorded",
}
_FAILED_RUNS = ("runs",)
_RUNTIMES = ("runtimes",)
_WORKER = "python -m exotrio worker FILE"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing to know, in one line, what to do about it, and whether it needs attention or is
    information; and the page of the dashboard that shows it, as the parts of its address."""

    what: str
    fix: str = ""
    attention: bool = True
    page: tuple[str, ...] = ()


def info(what: str, fix: str = "", page: tuple[str, ...] = ()) -> Finding:
    return Finding(what, fix, attention=False, page=page)


def are(count: int) -> str:
    return "is" if count == 1 else "are"


def python_findings(version: tuple[int, int, int]) -> list[Finding]:
    """Return a finding about a version of Python with a known vulnerability that concerns servers."""
    if not ((3, 11) <= version < (3, 11, 10) or (3, 12) <= version < (3, 12, 6)):
        return []
    what = (
        f"Python {'.'.join(map(str, version))} has CVE-2024-7592: a client can stop a program that reads"
        " cookies with http.cookies. The state manager does not, but nodes and other servers may"
    )
    return [info(what, "update to Python 3.11.10, 3.12.6 or newer")]


def database_url_findings(url: DatabaseUrl) -> list[Finding]:
    """Return a finding about a PostgreSQL on another machine, if connections may be without TLS."""
    mode = url.unencrypted_sslmode
    if mode is None:
        return []
    what = f"sessions with {url.shown} may be unencrypted, passwords and values too: sslmode is {mode!r}"
    return [info(what, "add ?sslmode=verify-full&sslrootcert=FILE to the URL, or at least sslmode=require")]


def overview_findings(overview: Overview, lease_ttl: float, unwritable: str = "") -> list[Finding]:
    """Return findings about nodes and runtimes; a lease holds ``lease_ttl`` seconds without a heartbeat.

    ``unwritable`` is as in ``Checkup``.
    """
    candidates = [_of_node(node, overview.runtimes) for node in overview.nodes]
    candidates += [_of_limit(limit) for limit in overview.limits]
    candidates += [_of_version(version) for version in overview.versions]
    candidates += [_of_runtime(runtime, lease_ttl, unwritable) for runtime in overview.runtimes]
    findings = [finding for finding in candidates if finding is not None]
    if failed := overview.errored:
        what = f"{plural(failed, 'state')} failed for good within 24 h"
        # Their runs may not have ended, and are not FAILED before that.
        listing = "`states ls --status ERRORED --status NEXT_CREATED_ERROR`"
        fix = f"{listing} lists them, `states show STATE` names a run; see `runs retry RUN`"
        findings.append(info(what, fix, _FAILED_RUNS))
    return findings


def _of_limit(limit: LimitInfo) -> Finding | None:
    name, page = one_line(limit.name), ("limits", limit.name)
    waits = f"{plural(limit.waiting, 'state')} {'waits' if limit.waiting == 1 else 'wait'}"
    if limit.stops:
        what = f"limit {name} is 0, which stops all that names it"
        options = [f" --{part} 1" for part in ("at_most", "starts") if getattr(limit, part) == 0]
        fix = f"`limits set {name}{''.join(options).replace('_', '-')}`, or more, lets them run"
        return Finding(
            f"{what}, and {waits}" if limit.waiting else what, fix, attention=limit.waiting > 0, page=page
        )
    if not limit.waiting:
        return None
    what, fix = f"{waits} for limit {name} ({limit.text()})", f"`limits show {name}` lists them"
    if limit.held:
        what += f", which {plural(limit.held, 'state')} hold{'s' if limit.held == 1 else ''}"
        what += f", {limit.stopping:,} of them stopping" if limit.stopping else ""
    elif limit.starts is not None:
        what += f", which had all starts of the last {format_duration(limit.period or 0)}"
    return info(what, fix, page)


def _of_version(version: VersionInfo) -> Finding | None:
    name = one_line(version.version)
    if version.runs and not version.runtimes:
        what = f"{plural(version.runs, 'run')} in flight {are(version.runs)} pinned to version {name}"
        return Finding(
            f"{what}, and no live runtime has it",
            f"start one: {_WORKER} --code-version {name}; or move the runs: `runs repin --version {name}"
            " --to NEW`",
            page=_RUNTIMES,
        )
    if version.needed or not version.runtimes:
        return None
    what = f"nothing needs version {name} any more: {plural(version.runtimes, 'runtime')} may be stopped"
    return info(what, "`versions ls` lists versions", _RUNTIMES)


def _of_node(node: NodeLoad, runtimes: Sequence[RuntimeInfo]) -> Finding | None:
    name, page = one_line(node.name), ("nodes", node.name)
    if node.paused_at is not None:
        what = f"node {name} is paused since {iso_time(node.paused_at)}"
        wait = "waits" if node.waiting == 1 else "wait"
        waits = f", and {plural(node.waiting, 'state')} {wait} for it" if node.waiting else ""
        return Finding(
            what + waits, f"`nodes resume {name}` lets it run again", attention=bool(waits), page=page
        )
    oldest = format_duration(node.oldest_due)
    due = f"{plural(node.eligible, 'state')} of {name} {are(node.eligible)} due, the first for {oldest}"
    if node.eligible and not node.offered_by:
        version = split_name(node.name)[1]
        worker = _WORKER if version is None else f"{_WORKER} --code-version {version}"
        return Finding(
            f"{due}: no live runtime has {name}", f"start a runtime that has it: {worker}", page=page
        )
    if node.unserved and node.offered_by:
        wait = "waits" if node.unserved == 1 else "wait"
        what = (
            f"{plural(node.unserved, 'state')} of {name} {wait}, and the runtimes that have it only work on"
        )
        return Finding(f"{what} other runs", f"start one that works on all: {_WORKER}", page=page)
    offering = [runtime for runtime in runtimes if runtime.live and node.name in runtime.nodes]
    if node.waiting and offering and _all_drain(node, offering):
        wait = "waits" if node.waiting == 1 else "wait"
        what = f"{plural(node.waiting, 'state')} of {name} {wait}, and all runtimes that have it drain"
        return Finding(what, f"start another runtime that has it: {_WORKER}", page=page)
    if node.waiting and not node.offered_by:
        what = f"{plural(node.waiting, 'state')} of {name} will be due later: no live runtime has {name}"
        if node.limited:
            what = (
                f"{plural(node.limited, 'state')} of {name} {are(node.limited)} due, and waited for a limit"
            )
            fix = f"start a runtime that has it: {_WORKER}"
            return Finding(f"{what}: no live runtime has {name}", fix, page=page)
        return info(what, f"start a runtime that has it before: {_WORKER}", page)
    if node.eligible and node.oldest_due >= LONG_DUE:
        offers = listed(map(one_line, dict.fromkeys(node.offered_by)), 5)
        why = _why([runtime for runtime in offering if runtime.run_id is None] or offering)
        what = f"{due}, although {offers} has it{why}"
        return Finding(what, "start more runtimes, or give them more workers", page=page)
    return None


def _all_drain(node: NodeLoad, offering: Sequence[RuntimeInfo]) -> bool:
    """Whether no runtime claims states of a node any more, as far as these are all that have it."""
    return len(offering) == len(node.offered_by) and not any(each.claims for each in offering)


def _why(runtimes: Sequence[RuntimeInfo]) -> str:
    """Return why states wait that these runtimes could claim; empty if only others could, through v0."""
    if not runtimes:
        return ""
    running = [runtime for runtime in runtimes if runtime.phase == "running"]
    if not running:
        return ": no runtime that has it claims new states"
    if free := sum(runtime.free or 0 for runtime in running):
        return f": {plural(free, 'worker')} {are(free)} free, so it waits for a limit of its class"
    return ": all their workers are busy"


def _of_runtime(runtime: RuntimeInfo, lease_ttl: float, unwritable: str) -> Finding | None:
    name = f"runtime {one_line(runtime.runtime)} ({one_line(runtime.worker_id)})"
    last_heard = f"was last heard of {format_coarse(runtime.heard_ago)} ago"
    holds = f" and holds {plural(runtime.holds, 'state')}" if runtime.holds else ""
    later = "its states run elsewhere once their leases have ended"
    if runtime.phase == "stopped":
        return Finding(f"{name} stopped{holds}", later, page=_RUNTIMES) if holds else None
    if unwritable and (runtime.heard_ago > lease_ttl * LATE or not runtime.live):
        fix = "the state manager could not store its heartbeats: its database cannot be written"
        return Finding(f"{name} {last_heard}{holds}", fix, page=_RUNTIMES)
    if not runtime.live:
        fix = "was it killed, suspended or disconnected, its key refused, or does a node hold Python's GIL?"
        fix += f" {later}" if holds else ""
        return Finding(f"{name} {last_heard}{holds}", fix, attention=bool(holds), page=_RUNTIMES)
    if runtime.heard_ago > lease_ttl * LATE:
        fix = "its heartbeats are late: check the load of its machine, and the network"
        return Finding(f"{name} {last_heard}{holds}", fix, page=_RUNTIMES)
    if not runtime.claims:
        return info(f"{name} is {one_line(runtime.phase)}{holds}", page=_RUNTIMES)
    return None


def checkup_findings(checkup: Checkup, version: str, stale: float) -> list[Finding]:
    """Return findings about the checkup. After ``stale`` seconds a claim without a lease counts as stuck."""
    findings = [finding for claims in checkup.claims for finding in _of_claims(claims, stale)]
    findings += _of_leases(checkup.leases)
    findings += map(_of_disagreement, checkup.disagreements)
    findings += map(_of_unstarted, checkup.unstarted)
    if checkup.unwritable:
        findings.append(_of_error(checkup.unwritable))
    if checkup.version != version:
        what = f"the state manager is exotrio {checkup.version}, and this is {version}"
        findings.append(info(what, "upgrade the older one"))
    if checkup.database is None:
        what = "the database and the state managers that share it were not examined"
        findings.append(info(what, "a key with the scope read:* or admin sees their condition"))
        return findings
    return [*findings, *_of_database(checkup.database)]


def _of_error(text: str) -> Finding:
    what, _, fix = text.partition("; ")
    return Finding(one_line(what), one_line(fix))


def _of_claims(claims: HeldClaims, stale: float) -> Iterator[Finding]:
    name = one_line(claims.node)
    if count := claims.leaseless:
        what = (
            f"{plural(count, 'state')} of {name} {are(count)} QUEUED without a lease, claimed through v0;"
            f" the first {format_coarse(claims.oldest_leaseless)} ago"
        )
        fix = (
            "v0 does not tell which runtime claimed them. If it is gone, restart the server with"
            " --claim-timeout SECONDS, longer than any node runs, and they run elsewhere"
        )
        if claims.oldest_leaseless >= stale:
            yield Finding(what, fix)
        else:
            yield info(what, "fine while their runtime runs them")
    if claims.overdue_for > OVERDUE:
        ago = format_coarse(claims.overdue_for)
        what = f"{plural(claims.overdue, 'lease')} of {name} ended {ago} ago or less,"
        fix = "the state manager is late: check its log, its load and its disk"
        yield Finding(f"{what} and no other runtime got the states", fix)


def _of_disagreement(disagreement: Disagreement) -> Finding:
    versions = "; ".join(
        f"{listed(map(one_line, version.runtimes), 5)}: {one_line(version.fields)}"
        for version in disagreement.versions
    )
    what = f"live runtimes have different versions of {one_line(disagreement.node)}: {versions}"
    fix = "each state runs in any of them; stop the old one when it is no longer needed"
    return info(what, fix, _RUNTIMES)


def _of_unstarted(unstarted: UnstartedRun) -> Finding:
    graph, other, why = one_line(unstarted.graph), one_line(unstarted.on_failure), one_line(unstarted.problem)
    fix, page = f"store graph {other} again, or graph {graph} without on_failure", ("graphs", unstarted.graph)
    if unstarted.run_id is None:
        return Finding(f"a run of graph {graph} that fails starts no run of {other}: {why}", fix, page=page)
    what = f"run {unstarted.run_id} of graph {graph} failed, and no run of {other} could be started: {why}"
    return Finding(what, fix, page=("runs", unstarted.run_id))


def _of_leases(leases: LostLeases) -> Iterator[Finding]:
    if leases.poison:
        what = f"{plural(leases.poison, 'state')} became errors within the hour: each ended several runtimes"
        fix = "`runs retry RUN` retries them, once the cause is found (memory?)"
        yield Finding(what, fix, page=_FAILED_RUNS)
    if lost := leases.lost - leases.poison:
        what = f"{plural(lost, 'lease')} ended without an outcome within the hour: the states run again"
        fix = "runtimes were killed, suspended or disconnected, or nodes held Python's GIL, until these ended"
        yield info(what, fix, _RUNTIMES)


def _of_database(database: DatabaseState) -> Iterator[Finding]:
    if database.postgres is not None:
        yield from _of_postgres(database.postgres)
    if database.in_memory:
        what = "the database is in memory: it is lost when the state manager ends"
        yield info(what, "keep it in a file with --db FILE")
    if database.free_disk is not None and database.free_disk < MIN_FREE_DISK:
        what = f"the disk of the database has only {bytes_text(database.free_disk)} left"
        fix = "free space: a full disk stops claims and outcomes. `server --keep 30d` deletes old runs"
        yield Finding(what, fix)
    if database.commit_time is not None and database.commit_time > SLOW_COMMIT:
        what = f"a commit takes {format_duration(database.commit_time)}, and every outcome waits for one"
        fix = "give the database a faster disk (not one of a network), or less other work; then look again"
        yield Finding(what, fix)
    if database.log_size > MAX_LOG:
        what = f"the write-ahead log of the database has {bytes_text(database.log_size)}"
        yield info(what, "its space is reused, and freed when the server is restarted")


def _of_postgres(postgres: PostgresState) -> Iterator[Finding]:
    yield from map(_of_error, postgres.refused)
    for name in map(one_line, postgres.switched_off):
        yield Finding(f"{name} is off in PostgreSQL: {_OFF.get(name, 'it protects data')}", "turn it on")
    if (horizon := postgres.horizon) is not None:
        yield from _of_horizon(horizon)
    for table in postgres.tables:
        if table.dead > max(MANY_DEAD, table.rows / 5):
            what = f"table {one_line(table.name)} has {table.dead:,} dead rows and {table.rows:,} others"
            fix = (
                "end what keeps them, if a finding names it; else VACUUM it, and raise autovacuum_max_workers"
            )
            yield Finding(f"{what}, which slows claims down", fix)
    for slot in postgres.slots:
        if slot.kept > MAX_KEPT:
            what = f"replication slot {one_line(slot.name)} keeps {bytes_text(slot.kept)} of PostgreSQL's log"
            is_gone = "" if slot.active else ", and its consumer is not connected"
            fix = "start its consumer, or drop it with pg_drop_replication_slot before the disk is full"
            yield Finding(what + is_gone, fix)
    if postgres.connections >= postgres.max_connections * NEARLY_ALL:
        what = f"{postgres.connections} of {postgres.max_connections} connections to PostgreSQL are in use"
        yield Finding(what, "raise max_connections, or put pgbouncer before it")
    yield from _of_managers(postgres.managers)


def _of_horizon(horizon: HorizonHolder) -> Iterator[Finding]:
    held = horizon.held_for
    if horizon.transactions <= OLD_HORIZON if held is None else held <= LONG_HORIZON:
        return
    since = f"{horizon.transactions:,} transactions" if held is None else format_coarse(held)
    what = f"{one_line(horizon.holder)} keeps dead rows from being removed, for {since} now"
    fix = "end it (pg_terminate_backend, ROLLBACK PREPARED, pg_drop_replication_slot): tables grow meanwhile"
    yield Finding(what, fix)


def _of_managers(managers: Sequence[ManagerState]) -> Iterator[Finding]:
    for manager in managers:
        if manager.seen_ago > SILENT:
            ago = format_coarse(manager.seen_ago)
            what = f"state manager {one_line(manager.id)} was last heard of {ago} ago"
            yield info(what, "if it does not run any more, the others take over what it held")
        elif abs(manager.clock_ahead) > CLOCK_OFF:
            by = format_duration(abs(manager.clock_ahead))
            way = "ahead of" if manager.clock_ahead > 0 else "behind"
            what = f"the clock of state manager {one_line(manager.id)} is {by} {way} PostgreSQL's"
            yield info(what, "its log has other times; all that is stored has PostgreSQL's")
    versions = sorted({one_line(manager.version) for manager in managers if manager.seen_ago <= SILENT})
    if len(versions) > 1:
        what = f"state managers of several versions share the database: {listed(versions)}"
        yield info(what, "fine during a rolling update")
