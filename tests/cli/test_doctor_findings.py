"""The findings of ``doctor``, and how it reads outboxes."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path

import pytest

from exotrio._http.endpoint import Endpoint
from exotrio._link.port import Claim
from exotrio._nodes.outcome import Executed, Outcome
from exotrio._runtime.outbox_store import OutboxStore
from exotrio._util.words import bytes_text
from exotrio._wire.checkup import Checkup, DatabaseState
from exotrio._wire.graphs import GraphInfo
from exotrio.cli.doctor.examine import examine_outbox
from exotrio.cli.doctor.findings import clock_text, of_clock, of_graphs, of_speed
from exotrio.cli.doctor.report import Report, as_text
from exotrio.cli.doctor.server import Clock, Kind, Server
from exotrio.cli.doctor.settings import Settings
from exotrio.manager.rules.findings import (
    LONG_DUE,
    MAX_LOG,
    MIN_FREE_DISK,
    Finding,
    checkup_findings,
    overview_findings,
    python_findings,
)
from tests.support.helpers import sql
from tests.support.overviews import node, overview, runtime

TTL = 60.0
MOMENT = "2026-01-31T12:00:00.123Z"
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def one(findings: list[Finding], *parts: str, attention: bool = True) -> None:
    """Check that there is one finding, and what it says."""
    (finding,) = findings
    assert finding.attention is attention, finding
    for part in parts:
        assert part in f"{finding.what}\n{finding.fix}", finding


def of_nodes(*nodes: dict[str, object], runtimes: list[dict[str, object]] | None = None) -> list[Finding]:
    runtimes = [runtime()] if runtimes is None else runtimes
    return overview_findings(overview(errored=0, nodes=list(nodes), runtimes=runtimes), TTL)


# -- nodes and runtimes


def test_nodes_that_make_progress_have_no_finding() -> None:
    assert (
        of_nodes(node("A", waiting=5, eligible=5, oldest_ms=1_000, running=3), node("B", offered_by=[])) == []
    )


def test_work_that_no_runtime_offers_is_stuck() -> None:
    waits = node("A\x1b", waiting=3, eligible=2, oldest_ms=240_000, offered_by=[])
    one(of_nodes(waits), "2 states of A\\x1b are due, the first for 4 min", "no live runtime", "worker FILE")
    one(of_nodes({**waits, "eligible": 1}), "1 state of A\\x1b is due, the first for 4 min")
    one(of_nodes(node("A", waiting=1, offered_by=[])), "1 state of A will be due later", attention=False)


def test_work_of_runs_that_no_runtime_works_on_is_stuck() -> None:
    waits = node("A", waiting=3, eligible=3, oldest_ms=1_000, offered_by=["r (only for run 1)"], unserved=2)
    what = "2 states of A wait, and the runtimes that have it only work on other runs"
    one(of_nodes(waits, runtimes=[runtime(run_id="1")]), what, "start one that works on all", "worker FILE")
    assert of_nodes({**waits, "unserved": 0}) == []


def test_work_is_stuck_if_all_runtimes_that_have_it_drain() -> None:
    waits = node("Scan", waiting=7, eligible=7, oldest_ms=1_000)
    what = "7 states of Scan wait, and all runtimes that have it drain"
    drains = runtime(phase="draining")
    for waiting in (waits, node("Scan", waiting=7)):  # those in the second one wait for limits
        one(of_nodes(waiting, runtimes=[drains])[:1], what, "start another", "worker FILE")
    for also, runtimes in (("r", [drains, runtime(phase="starting")]), ("a client of v0", [drains])):
        served = of_nodes({**waits, "offered_by": ["r", also]}, runtimes=runtimes)
        assert [finding.attention for finding in served] == [False], "one claims its states"


def test_runs_of_a_version_that_no_runtime_has_need_attention_and_a_version_may_be_stopped() -> None:
    def of(**fields: object) -> list[Finding]:
        version = {"version": "1", "runtimes": 2, "runs": 3, "oldest_ms": None, "graphs": [], "needed": True}
        return overview_findings(overview(errored=0, nodes=[], versions=[{**version, **fields}]), TTL)

    assert of() == []
    one(of(runtimes=0), "3 runs in flight are pinned to version 1, and no live runtime has it", "runs repin")
    assert of(runtimes=0, runs=0, graphs=["g"]) == [], "nothing waits yet"
    may_stop = "nothing needs version 1 any more: 2 runtimes may be stopped"
    one(of(runs=0, needed=False), may_stop, attention=False)


def test_a_paused_node_needs_attention_if_states_wait_for_it() -> None:
    paused = {"paused_at": "2026-01-01T00:00:00.000Z", "offered_by": []}
    waits = node("A", waiting=2, **paused)
    one(
        of_nodes(waits),
        "node A is paused since 2026-01-01T00:00:00.000Z, and 2 states wait",
        "nodes resume A",
    )
    one(of_nodes(node("A", **paused)), "node A is paused", attention=False)


def test_limits_for_which_states_wait_are_named_and_those_of_0_need_attention() -> None:
    def of_limit(**fields: object) -> list[Finding]:
        limit = {"name": "l\x1b", "at_most": 5, "held": 5, "waiting": 0, "graphs": [], "updated_at": MOMENT}
        return overview_findings(overview(errored=0, nodes=[], limits=[{**limit, **fields}]), TTL)

    assert of_limit() == []
    one(
        of_limit(waiting=118),
        "118 states wait for limit l\\x1b (5 at once), which 5 states hold",
        "`limits show l\\x1b`",
        attention=False,
    )
    one(
        of_limit(waiting=1, keyed=True, stopping=2),
        "1 state waits for limit l\\x1b (5 at once for each key), which 5 states hold, 2 of them stopping",
        attention=False,
    )
    rate = {"at_most": None, "starts": 2, "period_ms": 60_000, "held": 0, "waiting": 3}
    one(
        of_limit(**rate),
        "3 states wait for limit l\\x1b (2 starts in 1 min), which had all starts of the last 1 min",
        "`limits show l\\x1b`",
        attention=False,
    )
    one(of_limit(at_most=0, held=0), "limit l\\x1b is 0, which stops all", "`limits set l", attention=False)
    one(of_limit(starts=0, period_ms=1_000, waiting=1), "which stops all that names it, and 1 state waits")


@pytest.mark.parametrize(
    ("runtimes", "why"),
    [
        ([runtime(busy=4), runtime(busy=4), runtime(busy=0, nodes=["B"])], ": all their workers are busy"),
        (
            [runtime(busy=3, buffered=0), runtime(busy=4, live=False)],
            ": 1 worker is free, so it waits for a limit of its class",
        ),
        (
            [runtime(busy=4, nodes=["Scan"]), runtime(busy=0, nodes=["Scan"], run_id="1")],
            ": all their workers are busy",
        ),
        ([runtime(phase="draining"), runtime(run_id="1")], ": no runtime that has it claims new states"),
        # As far as is known: it is offered through v0.
        ([runtime(busy=0, nodes=["B"])], ""),
    ],
)
def test_states_that_wait_long_although_runtimes_have_the_node_get_a_reason(
    runtimes: list[dict[str, object]], why: str
) -> None:
    waits = node("Scan", waiting=9, eligible=9, oldest_ms=LONG_DUE * 1000)
    (finding, *_) = of_nodes(waits, runtimes=runtimes)
    assert finding.attention
    assert finding.what.endswith(f"although r has it{why}")


@pytest.mark.parametrize(
    ("fields", "attention", "message"),
    [
        ({"live": False, "heard_ms": 90_000}, True, "was last heard of 1 min ago and holds 5 states"),
        ({"live": False, "heard_ms": 90_000, "holds": 0}, False, "was last heard of 1 min ago"),
        ({"heard_ms": 41_000}, True, "heartbeats are late"),
        ({"phase": "stopped", "live": False}, True, "stopped and holds 5 states"),
        ({"phase": "draining"}, False, "is draining and holds 5 states"),
    ],
)
def test_an_unusual_runtime_is_named(fields: dict[str, object], attention: bool, message: str) -> None:
    one(of_nodes(runtimes=[runtime(**fields)]), "Greeter (w-1)", message, attention=attention)


@pytest.mark.parametrize("fields", [{"heard_ms": 41_000}, {"live": False, "heard_ms": 90_000}])
def test_heartbeats_that_cannot_be_stored_are_not_blamed_on_the_runtime(fields: dict[str, object]) -> None:
    silent = overview(errored=0, nodes=[], runtimes=[runtime(**fields)])
    (finding,) = overview_findings(silent, TTL, "d.db could not be written: disk is full; free it")
    assert finding.attention
    assert finding.fix == "the state manager could not store its heartbeats: its database cannot be written"


def test_a_stopped_runtime_without_claims_has_no_finding() -> None:
    assert of_nodes(runtimes=[runtime(phase="stopped", live=False, holds=0)]) == []


def test_failed_states_are_information() -> None:
    one(
        overview_findings(overview(nodes=[], errored=1), TTL),
        "1 state failed",
        "failed for good",
        attention=False,
    )


# -- what the state manager says of itself


def checkup(**fields: object) -> Checkup:
    disk = {"in_memory": False, "size": 1, "log_size": 0, "schema_version": 3, "free_disk": 10**12}
    usual = {"at_ms": 0, "version": "1", "lease_ttl_ms": TTL * 1000, "claim_timeout_ms": None, "claims": []}
    return Checkup.model_validate({**usual, "leases": {"lost": 0, "poison": 0}, "database": disk, **fields})


def claims(**fields: int) -> list[dict[str, object]]:
    usual = {"leased": 3, "local": 0, "timed": 1, "leaseless": 0, "oldest_leaseless_ms": 0}
    return [{"node": "A", **usual, "overdue": 0, "overdue_ms": 0, **fields}]


def database(**fields: object) -> dict[str, object]:
    shown = checkup().database
    assert shown is not None
    return {**shown.model_dump(exclude_unset=True), **fields}


def postgres(**fields: object) -> dict[str, object]:
    """Return a database on PostgreSQL that is well, but for these fields."""
    usual = {
        "version": "18.1",
        "connections": 17,
        "max_connections": 97,
        "switched_off": [],
        "horizon": {"holder": "session 7", "transactions": 900_000, "held_ms": 2_000},
        "tables": [{"name": "states", "rows": 1_000_000, "dead": 190_000}],
        "slots": [{"name": "standby", "active": True, "kept": 16_000_000}],
        "managers": [manager(f"m-{number}") for number in range(3)],
    }
    return database(postgres={**usual, **fields})


def manager(name: str, **fields: object) -> dict[str, object]:
    usual = {"version": "1", "schema_version": 3, "clock_ahead_ms": 12, "seen_ms": 4_000}
    return {"id": name, **usual, **fields}


def test_a_healthy_state_manager_has_no_finding() -> None:
    assert checkup_findings(checkup(claims=claims(overdue=1, overdue_ms=4_000)), "1", 900) == []
    assert checkup_findings(checkup(database=postgres()), "1", 900) == []


def test_checkups_of_newer_and_older_state_managers_can_be_read() -> None:
    newer = checkup(database=database(in_future="?")).database
    assert newer is not None
    assert newer.postgres is None
    assert "postgres" not in DatabaseState.model_validate(database()).model_fields_set


@pytest.mark.parametrize(
    ("fields", "attention", "message"),
    [
        (
            {"claims": claims(leaseless=2, oldest_leaseless_ms=901_000)},
            True,
            "2 states of A are QUEUED without a lease, claimed through v0; the first 15 min ago",
        ),
        ({"claims": claims(leaseless=1, oldest_leaseless_ms=899_000)}, False, "1 state of A is QUEUED"),
        ({"claims": claims(overdue=2, overdue_ms=60_000)}, True, "2 leases of A ended 1 min ago"),
        ({"leases": {"lost": 5, "poison": 5}}, True, "5 states became errors within the hour"),
        (
            {"leases": {"lost": 2, "poison": 0}},
            False,
            "2 leases ended without an outcome within the hour: the states run again",
        ),
        (
            {
                "disagreements": [
                    {
                        "node": "A",
                        "versions": [
                            {"fields": "(a) -> ()", "runtimes": ["r (1)", "r (2)"]},
                            {"fields": "(a, b=) -> ()", "runtimes": ["r (3)"]},
                        ],
                    }
                ]
            },
            False,
            "live runtimes have different versions of A: r (1), r (2): (a) -> (); r (3): (a, b=) -> ()",
        ),
        ({"version": "2"}, False, "the state manager is exotrio 2, and this is 1"),
        ({"database": database(in_memory=True, free_disk=None)}, False, "in memory"),
        ({"database": database(free_disk=MIN_FREE_DISK - 1)}, True, "only 537 MB left"),
        ({"database": database(commit_ms=51)}, True, "a commit takes 51 ms, and every outcome waits for one"),
        ({"database": database(log_size=MAX_LOG + 1)}, False, "write-ahead log of the database has 1.1 GB"),
        ({"database": postgres(switched_off=["fsync"])}, True, "fsync is off in PostgreSQL: a crash"),
        (
            {"database": postgres(horizon={"holder": "session 7", "transactions": 9, "held_ms": 600_000})},
            True,
            "session 7 keeps dead rows from being removed, for 10 min now",
        ),
        (
            {"database": postgres(horizon={"holder": "slot s", "transactions": 10**7, "held_ms": None})},
            True,
            "slot s keeps dead rows from being removed, for 10,000,000 transactions now",
        ),
        (
            {"database": postgres(tables=[{"name": "counts", "rows": 9_000, "dead": 200_000}])},
            True,
            "table counts has 200,000 dead rows and 9,000 others",
        ),
        (
            {"database": postgres(slots=[{"name": "standby", "active": False, "kept": 2**33}])},
            True,
            "replication slot standby keeps 8.6 GB of PostgreSQL's log, and its consumer is not connected",
        ),
        ({"database": postgres(refused=["h:1 is refused: it is old; stop it"])}, True, "it is old\nstop it"),
        ({"database": postgres(connections=90)}, True, "90 of 97 connections to PostgreSQL are in use"),
        (
            {"database": postgres(managers=[manager("m-1"), manager("m-2", clock_ahead_ms=-600_000)])},
            False,
            "the clock of state manager m-2 is 10 min behind PostgreSQL's",
        ),
        (
            {"database": postgres(managers=[manager("m-1", seen_ms=60_000)])},
            False,
            "state manager m-1 was last heard of 1 min ago",
        ),
        (
            {"database": postgres(managers=[manager(f"m-{v}", version=v) for v in ("1.0", "1.1")])},
            False,
            "state managers of several versions share the database: 1.0, 1.1",
        ),
    ],
)
def test_each_problem_of_a_state_manager_is_a_finding(
    fields: dict[str, object], attention: bool, message: str
) -> None:
    one(checkup_findings(checkup(**fields), "1", 900), message, attention=attention)


def test_the_report_shows_a_postgresql_database() -> None:
    server = Server(kind=Kind.NATIVE)
    shown = checkup(database=postgres())
    settings = Settings(endpoint=Endpoint("http://m", None))
    text = as_text(Report(settings, where="http://m", server=server, checkup=shown))
    assert "database: PostgreSQL 18.1, 1 bytes, schema 3, 17 of 97 connections in use\n" in text
    assert "dead rows: states 190,000\n" in text
    assert "3 state managers: exotrio 1 (3)\n" in text


def listed(status: str, *errors: str) -> GraphInfo:
    stored = {"name": "g", "namespace": "n", "nodes": [], "secrets": {}, "triggers": [], "retry_policy": {}}
    times = {"created_at": MOMENT, "updated_at": MOMENT, "store_config": {}}
    checked = {"validation_status": status, "validation_errors": errors}
    return GraphInfo.model_validate({**stored, **times, **checked})


def test_a_graph_that_cannot_be_triggered_is_named_with_its_problems() -> None:
    one(
        of_graphs([listed("VALID"), listed("INVALID", "node 'a': gone")]),
        "graph g is INVALID: node 'a': gone",
    )
    one(of_graphs([listed("PENDING")]), "graph g is still being validated", attention=False)


def triggered(zone: str | None, **fields: object) -> list[GraphInfo]:
    trigger = {"type": "CRON", "value": {"expression": "0 9 * * *", "timezone": zone}}
    return [GraphInfo.model_validate({**listed("VALID").model_dump(), "triggers": [trigger], **fields})]


def test_triggers_in_time_zones_are_shown_with_their_problems() -> None:
    due = {"CRON_TZ=Asia/Kolkata 0 9 * * *": "2026-01-01T03:30:00.000Z"}
    assert of_graphs(triggered(None) + triggered("UTC") + triggered("Asia/Kolkata", scheduled={})) == []
    message = "graph g is triggered in Asia/Kolkata, next at 2026-01-01T09:00:00+05:30 (2026-01-01T03:30:00Z)"
    one(of_graphs(triggered("Asia/Kolkata", scheduled=due)), message, attention=False)
    one(
        of_graphs(triggered("Asia/Kolkata")),
        "has a trigger in Asia/Kolkata, and this state manager may ignore",
    )
    one(
        of_graphs(triggered("Mars", scheduled={})),
        "graph g has no valid time zone, 'Mars': its trigger is in UTC",
    )


# -- clocks


def test_clocks_count_as_different_only_where_that_is_certain() -> None:
    assert of_clock(Clock(2.4, 0.5)) == []
    one(of_clock(Clock(-3.0, 0.5)), "3.0 s behind this machine's, give or take 500 ms", "NTP")
    assert clock_text(Clock(0.2, 0.5)) == "that of this machine, give or take 500 ms"
    assert clock_text(Clock(0.0, 0.0002)).endswith("give or take 1 ms"), "never exact"


def test_slow_answers_are_information() -> None:
    assert of_speed(0.5) == []
    one(of_speed(1.5), "responses take 1.5 s", attention=False)


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 bytes"), (999, "999 bytes"), (4_200, "4.2 KB"), (537_000_000, "537 MB"), (10**13, "10,000.0 GB")],
)
def test_bytes_are_shown_in_a_suitable_unit(count: int, text: str) -> None:
    assert bytes_text(count) == text


# -- outboxes


def outcome(state_id: str) -> tuple[Claim, Outcome]:
    claim = Claim(
        state_id=state_id, node_name="A", identifier="a", graph_name="g", run_id="r", inputs={},
        token="t", attempt=1,
    )  # fmt: skip
    return claim, Executed([{"text": "precious"}])


def test_outcomes_in_an_outbox_are_counted_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "outbox.db"
    store = OutboxStore(path, "http://manager", "n")
    first, *_ = store.write([outcome("s1"), outcome("s2")], {}, [])
    assert first is not None
    store.write([], {first: True}, [])
    one([examine_outbox(path)], "is in use by a runtime", attention=False)
    store.close({}, ())
    for _ in range(2):
        one(
            [examine_outbox(path)],
            "holds 2 outcomes for namespace n at http://manager, 1 of which may have arrived",
            "start its runtime again",
        )
    again = OutboxStore(path, "http://manager", "n")
    assert len(again.left) == 2
    again.close({}, [entry.id for entry in again.left])
    one([examine_outbox(path)], "is empty", attention=False)
    assert os.listdir(tmp_path) == ["outbox.db"]


def test_outcomes_of_a_process_that_was_killed_are_found(tmp_path: Path) -> None:
    store = OutboxStore(tmp_path / "outbox.db", "http://manager", "n")
    store.write([outcome("s1")], {}, [])
    for name in ("outbox.db", "outbox.db-wal"):  # as it is before it is closed
        (tmp_path / f"copy-{name}").write_bytes((tmp_path / name).read_bytes())
    store.close({}, ())
    one([examine_outbox(tmp_path / "copy-outbox.db")], "holds 1 outcome")


def test_a_file_that_is_not_an_outbox_is_a_finding(tmp_path: Path) -> None:
    one([examine_outbox(tmp_path / "absent")], "there is no outbox")
    assert not (tmp_path / "absent").exists()
    (tmp_path / "text").write_text("no database at all, and long enough to be none " * 40)
    one([examine_outbox(tmp_path / "text")], "cannot be read")
    sql(tmp_path / "other.db", "CREATE TABLE t (x)")
    one([examine_outbox(tmp_path / "other.db")], "is not an outbox of exotrio")


# -- Python


@pytest.mark.parametrize("version", [(3, 11, 0), (3, 11, 9), (3, 12, 0), (3, 12, 5)])
def test_a_python_with_the_vulnerable_cookie_parser_is_named(version: tuple[int, int, int]) -> None:
    named = "Python " + ".".join(map(str, version))
    one(python_findings(version), named, "CVE-2024-7592", "update to Python 3.11.10", attention=False)


@pytest.mark.parametrize("version", [(3, 11, 10), (3, 12, 6), (3, 13, 0), (3, 14, 1)])
def test_a_newer_python_has_no_finding(version: tuple[int, int, int]) -> None:
    assert python_findings(version) == []
