"""The outbox: finished outcomes are on disk before they are sent, and outlive the process.

In real time: a thread writes the file, and Trio's virtual clock would jump while it does.
"""

from __future__ import annotations

import logging
import os
import shutil
import signal
import sqlite3
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio
import trio.testing
from pydantic import BaseModel

from exotrio import (
    BaseNode,
    ConfigurationError,
    DatabaseBusy,
    Graph,
    GraphNodeModel,
    PruneSignal,
    ReQueueAfterSignal,
    Runtime,
    StateManager,
)
from exotrio._link.port import Claim
from exotrio._runtime.held_claim import HeldClaim
from exotrio._runtime.outbox import open_outbox
from exotrio._runtime.outbox_store import OutboxStore
from exotrio.testing import Errored, Pruned, Requeued, run_node
from tests.support.doubles import Call, Delays, Fails, NativeServer, V0Server, reply, running, runtime
from tests.support.helpers import free_port, sql
from tests.support.processes import KEY, Process, Processes, exotrio

SHORT = 0.3


class Says(BaseNode):
    class Outputs(BaseModel):
        text: str

    async def execute(self) -> Any:
        return self.Outputs(text="precious")


class Broken(BaseNode):
    async def execute(self) -> None:
        raise ValueError("broken")


class Prunes(BaseNode):
    async def execute(self) -> None:
        raise PruneSignal({"why": "no"})


class Requeues(BaseNode):
    async def execute(self) -> None:
        raise ReQueueAfterSignal(timedelta(hours=1))


ALL = (Says, Broken, Prunes, Requeues)
REPORTS = ("executed", "errored", "prune", "re-enqueue-after", "outcomes")


@pytest.fixture
def outbox(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("exotrio._shared.deadlines.FLUSH", SHORT)
    return tmp_path / "outbox.db"


def away() -> httpx.Response | Exception:
    return httpx.ConnectError("test: connection refused")


def lost() -> httpx.Response | Exception:
    return httpx.ReadError("test: connection lost")


def crashed(path: Path) -> Path:
    """Return a copy of the file as a process finds it that starts after a kill -9 of this one."""
    copy = path.with_name(f"crashed-{path.name}")
    for end in ("", "-wal"):
        Path(f"{copy}{end}").unlink(missing_ok=True)
        if Path(f"{path}{end}").exists():
            shutil.copy(f"{path}{end}", f"{copy}{end}")
    return copy


def content(path: Path) -> bytes:
    return path.read_bytes()


def overwrite(path: Path, offset: int) -> None:
    data = path.read_bytes()
    path.write_bytes(data[:offset] + b"\xff" * (len(data) - offset))


def count(path: Path) -> int:
    """Return how many outcomes are in a file; also while a runtime uses it."""
    ((number,),) = sql(crashed(path), "SELECT count(*) FROM entries")
    return int(number)


@contextmanager
def open_store(path: Path) -> Iterator[OutboxStore]:
    store = OutboxStore(path, "http://manager", "ns")
    try:
        yield store
    finally:
        store.close({}, ())


async def left_behind(server: V0Server, path: Path, *nodes: type[BaseNode]) -> Runtime:
    """Run one state of each node while reports cannot be delivered; return the stopped runtime."""
    before, server.before = server.before, Fails(REPORTS, away)
    for node in nodes:
        server.add(node.__name__)
    async with running(server, *nodes, outbox=path, grace=0) as rt:
        await server.until(lambda: len(server.routes(*REPORTS)) >= len(nodes))
    server.before = before
    server.calls.clear()
    return rt


# -- the way of an outcome


@pytest.mark.parametrize("make", [V0Server, NativeServer])
async def test_every_outcome_is_on_disk_before_it_is_sent_and_gone_once_it_is_acknowledged(
    outbox: Path, make: type[V0Server]
) -> None:
    server = make()
    seen: list[int] = []

    async def record(call: Call) -> None:
        if call.route in REPORTS:
            seen.append(count(outbox))

    server.before = record
    for node in ALL:
        server.add(node.__name__)
    async with running(server, *ALL, outbox=outbox) as rt:
        await server.until(lambda: not {"CREATED", "QUEUED"} & server.statuses().keys())
    assert seen
    assert 0 not in seen
    assert count(outbox) == 0
    summary = rt.summary
    assert (summary.completed, summary.errored, summary.pruned, summary.requeued) == (1, 1, 1, 1)
    assert (summary.kept, summary.exit_code) == (0, 0)


async def test_only_its_owner_can_read_it(outbox: Path) -> None:
    server = V0Server()
    modes: list[int] = []

    async def record(call: Call) -> None:
        if call.route == "executed":
            modes.extend(os.stat(f"{outbox}{end}").st_mode & 0o777 for end in ("", "-wal"))

    server.before = record
    server.add("Says")
    async with running(server, Says, outbox=outbox):
        await server.until(EXECUTED=1)
    assert modes == [0o600, 0o600]


async def test_a_file_that_others_could_read_is_closed_to_them(outbox: Path) -> None:
    server = V0Server()
    await left_behind(server, outbox, Says)
    os.chmod(outbox, 0o644)
    async with running(server, Says, outbox=outbox):
        await server.until(EXECUTED=1)
    assert os.stat(outbox).st_mode & 0o777 == 0o600


async def test_inputs_are_not_written(outbox: Path) -> None:
    server = V0Server()
    server.before = Fails(REPORTS, away)
    server.add("Says", name="canary-input")
    async with running(server, Says, outbox=outbox, grace=0):
        await server.until(lambda: bool(server.routes("executed")))
    assert b"precious" in content(outbox)
    assert b"canary-input" not in content(outbox)


async def test_outcomes_that_finish_together_share_a_sync(
    outbox: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[int] = []
    write = OutboxStore.write

    def counting(self: OutboxStore, new: Any, *others: Any) -> Any:
        written.append(len(new))
        return write(self, new, *others)

    monkeypatch.setattr(OutboxStore, "write", counting)
    server = V0Server(Says=64)
    async with running(server, Says, outbox=outbox, workers=64, batch_size=64) as rt:
        await server.until(EXECUTED=64)
    assert sum(written) == 64
    assert len([number for number in written if number]) < 32
    assert rt.summary.completed == 64


# -- what the flush could not deliver


@pytest.mark.parametrize("make", [V0Server, NativeServer])
async def test_undelivered_outcomes_are_kept_and_sent_at_the_next_start_before_the_first_claim(
    outbox: Path, make: type[V0Server], caplog: pytest.LogCaptureFixture
) -> None:
    server = make()
    with caplog.at_level(logging.WARNING):
        rt = await left_behind(server, outbox, *ALL)
    assert (rt.summary.kept, rt.summary.abandoned, rt.summary.unknown) == (4, 0, 0)
    assert rt.summary.exit_code == 75
    assert set(rt.summary.left_behind) == set(server.states)
    assert "kept 4" in str(rt.summary)
    assert "is in the outbox and is sent at the next start" in caplog.text

    async with running(server, *ALL, outbox=outbox) as rt:
        await server.until(lambda: bool(server.routes("claim", "enqueue")))
    order = [call.route for call in server.calls]
    first_claim = min(order.index(route) for route in ("claim", "enqueue") if route in order)
    assert first_claim > max(position for position, route in enumerate(order) if route in REPORTS)
    assert server.statuses()["QUEUED"] == 0
    assert all(state.deliveries == 1 for state in server.states.values())
    assert (rt.summary.completed, rt.summary.exit_code) == (1, 0)
    assert count(outbox) == 0


async def test_an_outcome_in_flight_at_the_end_is_kept_since_it_may_be_sent_again(outbox: Path) -> None:
    server = V0Server(Says=1)
    server.after = Delays(("executed",))
    async with running(server, Says, outbox=outbox, grace=0) as rt:
        await server.until(lambda: server.statuses()["EXECUTED"] == 1 or bool(server.routes("executed")))
    assert (rt.summary.kept, rt.summary.unknown) == (1, 0)
    server.after = None
    async with running(server, Says, outbox=outbox) as rt:
        await server.until(lambda: bool(server.routes("enqueue")) and len(server.routes("executed")) == 2)
    assert rt.summary.dropped == 1  # it was recorded by the first: not queued any more
    assert server.states["0" * 24].result == [{"text": "precious"}]


async def test_an_outcome_that_the_server_fails_at_does_not_hold_claims_back_without_a_limit(
    outbox: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("exotrio._runtime.poller.MAX_REPLAY_FAILURES", 2)
    server = V0Server()
    await left_behind(server, outbox, Says)
    server.before = Fails(("executed",), lambda: reply(500), state_ids=frozenset({"0" * 24}))
    [other] = server.add("Says")
    async with running(server, Says, outbox=outbox, grace=0):
        await server.until(lambda: server.states[other].status == "EXECUTED")


# -- requeues, which nothing guards on v0


async def in_flight_at_crash(server: V0Server, path: Path) -> Path:
    """Return the file as it is while the report of a Requeues state is in flight."""
    copies: list[Path] = []

    async def crash(call: Call) -> None:
        if call.route in REPORTS and not copies:
            copies.append(crashed(path))

    server.before = crash
    server.add("Requeues")
    async with running(server, Requeues, outbox=path):
        await server.until(lambda: server.statuses()["DELAYED"] + server.statuses()["REQUEUED"] == 1)
    server.before = None
    server.calls.clear()
    return copies[0]


async def test_a_v0_requeue_that_was_being_sent_is_not_sent_again(
    outbox: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server = V0Server()
    left = await in_flight_at_crash(server, outbox)
    async with running(server, Requeues, outbox=left) as rt:
        await server.until(lambda: bool(server.routes("enqueue")))
    assert not server.routes("re-enqueue-after")
    assert (rt.summary.unknown, rt.summary.exit_code) == (1, 75)
    assert "an earlier process was sending it" in caplog.text
    async with running(server, Requeues, outbox=left) as rt:
        await server.until(lambda: len(server.routes("enqueue")) >= 2)
    assert rt.summary.unknown == 0, "it is said once"


async def test_a_native_requeue_that_was_being_sent_is_sent_again(outbox: Path) -> None:
    server = NativeServer()
    left = await in_flight_at_crash(server, outbox)
    async with running(server, Requeues, outbox=left) as rt:
        await server.until(lambda: bool(server.routes("claim")))
    assert len(server.routes("outcomes")) == 1
    assert (rt.summary.requeued, rt.summary.unknown) == (1, 0)


async def test_a_v0_requeue_is_not_sent_so_late_that_its_answer_would_come_after_the_end(
    outbox: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever is on its way at the end is of unknown fate, and the next process must not send it."""

    async def refuse_slowly(call: Call) -> None:
        if call.route == "re-enqueue-after":
            await trio.sleep(0.1)
            raise httpx.ConnectError("test: connection refused")

    monkeypatch.setattr("random.uniform", lambda low, high: low)  # one attempt follows the other
    server = V0Server(Requeues=1)
    server.before = refuse_slowly
    async with running(server, Requeues, outbox=outbox, grace=0) as rt:
        await server.until(lambda: bool(server.routes("re-enqueue-after")))
    assert (rt.summary.kept, rt.summary.unknown) == (1, 0)
    server.before = None
    async with running(server, Requeues, outbox=outbox) as rt:
        await server.until(DELAYED=1)
    assert rt.summary.requeued == 1


async def test_a_v0_requeue_that_is_on_its_way_at_the_end_is_unknown_and_not_sent_again(
    outbox: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server = V0Server(Requeues=1)
    server.before = Delays(("re-enqueue-after",))
    async with running(server, Requeues, outbox=outbox, grace=0) as rt:
        await server.until(lambda: bool(server.routes("re-enqueue-after")))
    assert (rt.summary.unknown, rt.summary.kept) == (1, 0)
    assert "whether its outcome Requeued arrived is unknown" in caplog.text
    server.before = None
    server.calls.clear()
    async with running(server, Requeues, outbox=outbox) as rt:
        await server.until(lambda: len(server.routes("enqueue")) >= 2)
    assert not server.routes("re-enqueue-after")


# -- a file that cannot be used


async def refused(rt: Runtime) -> Exception:
    with pytest.raises((ConfigurationError, DatabaseBusy)) as caught, trio.fail_after(60):
        await rt.run()
    return caught.value


def write_text(path: Path) -> None:
    path.write_text("no database at all, but long enough to look like something" * 20)


def write_database(path: Path) -> None:
    sql(path, "CREATE TABLE other (value TEXT)")


@pytest.mark.parametrize("write", [write_text, write_database])
async def test_a_foreign_file_is_refused_and_stays_as_it_is(
    outbox: Path, write: Callable[[Path], None]
) -> None:
    write(outbox)
    os.chmod(outbox, 0o644)
    before = content(outbox)
    server = V0Server()
    error = await refused(runtime(server, Says, outbox=outbox))
    assert "not an outbox" in str(error)
    assert str(outbox) in str(error)
    assert (content(outbox), os.stat(outbox).st_mode & 0o777) == (before, 0o644)
    assert not server.calls


async def test_a_damaged_file_is_refused(outbox: Path) -> None:
    await left_behind(V0Server(), outbox, Says)
    overwrite(outbox, 4096)
    assert "is damaged" in str(await refused(runtime(V0Server(), Says, outbox=outbox)))


async def test_an_entry_that_cannot_be_read_stays_and_holds_back_no_other(
    outbox: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server = V0Server()
    await left_behind(server, outbox, Says, Broken)
    sql(outbox, "UPDATE entries SET body = '{}' WHERE id = (SELECT min(id) FROM entries)")
    async with running(server, Says, Broken, outbox=outbox):
        await server.until(lambda: len(server.routes(*REPORTS)) == 1)
    assert count(outbox) == 1
    assert "cannot be read" in caplog.text


async def test_an_entry_with_fields_that_claims_had_in_an_earlier_version_is_sent(outbox: Path) -> None:
    server = V0Server()
    await left_behind(server, outbox, Says)
    sql(outbox, "UPDATE entries SET body = json_set(CAST(body AS TEXT), '$.claim.deliveries', 0)")
    async with running(server, Says, outbox=outbox):
        with trio.fail_after(10):
            await server.until(lambda: len(server.routes(*REPORTS)) == 1)
    assert count(outbox) == 0


def test_a_write_is_synced_before_it_returns(outbox: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    connect = sqlite3.connect

    def less_careful(*args: Any, **options: Any) -> sqlite3.Connection:
        connection = connect(*args, **options)
        connection.execute("PRAGMA synchronous = NORMAL")  # what some systems build SQLite with
        return connection

    monkeypatch.setattr(sqlite3, "connect", less_careful)
    with open_store(outbox) as store:
        (synced,) = store._db.execute("PRAGMA synchronous").fetchone()
    assert synced == 2, "FULL: also a power cut loses nothing"


async def test_a_mark_whose_sending_is_cancelled_is_taken_back(outbox: Path) -> None:
    claim = Claim(state_id="0" * 24, node_name="N", identifier="i", inputs={})
    held = HeldClaim(claim, report=Requeued(60.0))
    opened = await open_outbox(outbox, "http://manager", "ns")
    await opened.put(held)
    async with trio.open_nursery() as nursery:
        written = trio.Event()
        nursery.start_soon(opened.write, lambda held: written.set())
        await written.wait()
        assert await opened.mark([held])
        nursery.cancel_scope.cancel()
    with trio.CancelScope() as scope:
        scope.cancel()
        await opened.mark([held])
    await opened.aclose()
    with open_store(outbox) as again:
        assert [entry.begun for entry in again.left] == [False], "it was not sent, so it may be"


def deep() -> Any:
    data: Any = "leaf"
    for _ in range(300):
        data = {"deeper": data}
    return data


@pytest.mark.parametrize("make", [deep, lambda: {"object": object()}])
async def test_values_that_could_not_be_read_back_are_an_error_of_the_state(make: Any) -> None:
    class Prunes(BaseNode):
        async def execute(self) -> None:
            raise PruneSignal(make())

    outcome = await run_node(Prunes)
    assert isinstance(outcome, Errored)
    assert "cannot be sent as JSON" in outcome.error


@pytest.mark.parametrize("make", [deep, lambda: {"digits": 10**5_000}])
async def test_values_that_could_not_be_read_back_are_not_written(outbox: Path, make: Any) -> None:
    claim = Claim(state_id="0" * 24, node_name="N", identifier="i", inputs={})
    with open_store(outbox) as store:
        written = store.write([(claim, Pruned(make())), (claim, Pruned({"fine": 1}))], {}, ())
    assert written[0] is None
    assert written[1] is not None
    with open_store(outbox) as again:
        assert [entry.outcome for entry in again.left] == [Pruned({"fine": 1})]


async def test_that_an_error_is_not_to_be_retried_its_trace_and_its_lines_are_kept(outbox: Path) -> None:
    lines = [{"at": "2026-01-31T12:00:00.000Z", "level": "stdout", "logger": None, "text": "begun"}]
    claim = Claim(state_id="0" * 24, node_name="N", identifier="i", inputs={})
    outcomes = [
        Errored("once more", trace="00-a-b-01", logs=lines),
        Errored("never", retry=False, trace="00-a-b-01", logs=lines),
    ]
    with open_store(outbox) as store:
        store.write([(claim, outcome) for outcome in outcomes], {}, ())
    with open_store(outbox) as again:
        assert [entry.outcome for entry in again.left] == outcomes
        assert [entry.claim for entry in again.left] == [claim] * 2


@pytest.mark.parametrize("name", ["", "missing/outbox.db"])
async def test_a_place_where_no_file_can_be_is_refused(tmp_path: Path, name: str) -> None:
    assert "cannot be" in str(await refused(runtime(V0Server(), Says, outbox=tmp_path / name)))


@pytest.mark.parametrize("value", ["", 5, b""])
def test_an_argument_that_is_no_path_is_named(value: Any) -> None:
    with pytest.raises(ConfigurationError, match="outbox must be the path of a file"):
        runtime(V0Server(), Says, outbox=value)


async def test_two_runtimes_cannot_share_a_file(outbox: Path) -> None:
    server = V0Server()
    async with running(server, Says, outbox=outbox):
        await server.until(lambda: bool(server.routes("enqueue")))
        error = await refused(runtime(V0Server(), Says, outbox=outbox))
        assert isinstance(error, DatabaseBusy)
        # The failed attempt must not have dropped the lock either, which POSIX locks do easily.
        assert await trio.to_thread.run_sync(in_use_elsewhere, outbox)
    async with running(server, Says, outbox=outbox):
        await trio.lowlevel.checkpoint()


async def test_a_stop_while_the_file_is_opened_leaves_it_free(outbox: Path) -> None:
    for _ in range(20):
        async with running(V0Server(), Says, outbox=outbox):
            await trio.lowlevel.checkpoint()
        # Whether it was opened before the stop or not; the thread of a given-up opening may still be at it.
        with trio.fail_after(60):
            while await trio.to_thread.run_sync(in_use, outbox):
                await trio.lowlevel.checkpoint()


def in_use(path: Path) -> bool:
    try:
        OutboxStore(path, "http://exotrio.embedded", "ns").close({}, ())
    except DatabaseBusy:
        return True
    return False


def in_use_elsewhere(path: Path) -> bool:
    """Ask from another process whether the file is locked."""
    ask = (
        "import pathlib, sys; from exotrio import DatabaseBusy\n"
        "from exotrio._runtime.outbox_store import OutboxStore\n"
        "try: OutboxStore(pathlib.Path(sys.argv[1]), 'http://exotrio.embedded', 'ns')\n"
        "except DatabaseBusy: print('busy')\n"
        "else: print('free')"
    )
    with Process([sys.executable, "-W", "ignore", "-c", ask, str(path)], cwd=path.parent) as process:
        return process.wait().out == "busy\n"


async def test_outcomes_for_another_manager_are_not_sent_to_this_one(outbox: Path) -> None:
    await left_behind(V0Server(), outbox, Says)
    other = Runtime("ns", "test", [Says], "http://user:password@127.0.0.1:9", "key", outbox=outbox)
    text = str(await refused(other))
    assert "namespace ns at http://exotrio.embedded" in text
    assert "namespace ns at http://127.0.0.1:9" in text
    assert "password" not in text


async def test_outcomes_for_another_namespace_are_not_sent_to_this_one(outbox: Path) -> None:
    server = V0Server()
    await left_behind(server, outbox, Says)
    error = await refused(Runtime("other", "test", [Says], transport=server, outbox=outbox))
    assert "for namespace ns at" in str(error)
    assert "for namespace other at" in str(error)


async def test_an_empty_file_may_change_its_owner(outbox: Path) -> None:
    server = V0Server()
    async with running(server, Says, outbox=outbox):
        await server.until(lambda: bool(server.routes("enqueue")))
    async with running(Runtime("other", "test", [Says], transport=server, outbox=outbox)):
        await server.until(lambda: len(server.routes("nodes")) == 2)


# -- a full disk


class FullDisk:
    """Lets the file grow no further, while it is switched on, as SQLite reports it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.on = True
        write = OutboxStore.write

        def failing(store: OutboxStore, *args: Any) -> Any:
            pages = store._db.execute("PRAGMA page_count").fetchone()[0]
            store._db.execute(f"PRAGMA max_page_count = {pages if self.on else 100_000}")
            return write(store, *args)

        monkeypatch.setattr(OutboxStore, "write", failing)


class SaysMuch(BaseNode):
    class Outputs(BaseModel):
        text: str

    async def execute(self) -> Any:
        return self.Outputs(text="much" * 10_000)


async def test_with_a_full_disk_outcomes_are_sent_all_the_same_and_it_is_said_once(
    outbox: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    disk = FullDisk(monkeypatch)
    server = V0Server()
    with caplog.at_level(logging.INFO):
        async with running(server, SaysMuch, outbox=outbox, workers=1) as rt:
            server.add("SaysMuch", 5)
            await server.until(EXECUTED=5)
            disk.on = False
            server.add("SaysMuch", 1)
            await server.until(EXECUTED=6)
    assert (rt.summary.completed, rt.summary.exit_code) == (6, 0)
    errors = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert len(errors) == 1
    assert "not delivered yet: database or disk is full" in errors[0].getMessage()
    assert "works again" in caplog.text


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("can't allocate lock")])
async def test_outcomes_are_sent_though_the_machine_has_no_memory_to_write_them(
    outbox: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    def failing(store: OutboxStore, *args: Any) -> Any:
        raise error

    monkeypatch.setattr(OutboxStore, "write", failing)
    server = V0Server(Says=1)
    async with running(server, Says, outbox=outbox) as rt:
        await server.until(EXECUTED=1)
    assert (rt.summary.completed, rt.summary.exit_code) == (1, 0)
    assert "outcomes are sent without it" in caplog.text


EXHAUSTS = """
import resource, sys, threading, time
import trio
from exotrio import BaseNode, Runtime
from tests.support.doubles import V0Server

class ExhaustsThreads(BaseNode):
    async def execute(self):
        used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + 40 * 2**20, resource.RLIM_INFINITY))
        threads = 0
        try:
            while threads < 1000:
                trio.lowlevel.start_thread_soon(lambda: time.sleep(1000), lambda result: None)
                threads += 1
        except RuntimeError as error:
            print(error, flush=True)

async def stop(call):
    if call.route == "executed":
        runtime.stop()

server = V0Server(ExhaustsThreads=1)
server.after = stop
runtime = Runtime("ns", "rt", [ExhaustsThreads], transport=server, outbox="outbox.db")
print(runtime.start(), flush=True)
"""


def test_a_node_that_uses_up_all_threads_does_not_end_a_runtime_with_an_outbox(tmp_path: Path) -> None:
    with Process([sys.executable, "-c", EXHAUSTS], cwd=tmp_path) as process:
        end = process.wait(code=0)
    assert "can't start new thread" in end.out
    assert "completed 1" in end.out


async def test_a_v0_requeue_waits_until_it_can_be_marked(
    outbox: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failures = 2
    write = OutboxStore.write

    def failing(store: OutboxStore, new: Any, marks: Any, gone: Any) -> Any:
        nonlocal failures
        if any(marks.values()) and failures:
            failures -= 1
            raise sqlite3.OperationalError("database or disk is full")
        return write(store, new, marks, gone)

    monkeypatch.setattr(OutboxStore, "write", failing)
    server = V0Server(Requeues=1)
    async with running(server, Requeues, outbox=outbox) as rt:
        await server.until(DELAYED=1)
        assert failures == 0
    assert (rt.summary.requeued, rt.summary.exit_code) == (1, 0)
    assert len(server.routes("re-enqueue-after")) == 1


# -- kill -9

APP = """
import logging, os, sys
from pathlib import Path
import trio
from exotrio import BaseNode, Runtime

HERE = Path(__file__).parent

class Once(BaseNode):
    class Outputs(BaseNode.Outputs):
        text: str

    async def execute(self):
        with open(HERE / "executions", "a") as ledger:
            ledger.write(f"{os.getpid()}\\n")
        print("begun", flush=True)
        while not (HERE / "go").exists():
            await trio.sleep(0.01)
        return self.Outputs(text="precious")

if __name__ == "__main__":
    logging.basicConfig(level=logging.DEBUG)
    link, *outbox = sys.argv[1:]
    Runtime("ns", "w", [Once], link=link, outbox=outbox[0] if outbox else None).start()
"""

GRAPH = Graph("once", nodes=[GraphNodeModel(node_name="Once", namespace="ns", identifier="once", inputs={})])


@pytest.mark.parametrize("link", ["native", "v0"])
async def test_a_finished_node_is_not_run_again_after_kill_9_of_worker_and_server(
    tmp_path: Path, link: str
) -> None:
    (tmp_path / "app.py").write_text(APP, "utf-8")
    port = free_port()
    uri = f"http://127.0.0.1:{port}"
    env = {"EXOSPHERE_STATE_MANAGER_URI": uri, "EXOSPHERE_API_KEY": KEY}

    with Processes() as processes:

        def serve() -> Process:
            started = exotrio(
                *("server", "--port", str(port), "--key", KEY, "--db", "server.db", "--lease-ttl", "1"),
                cwd=tmp_path,
            )
            processes.enter_context(started)
            started.line("serving ")
            return started

        def work() -> Process:
            command = [sys.executable, "app.py", link, "outbox.db"]
            return processes.enter_context(Process(command, cwd=tmp_path, env=env))

        server, worker = serve(), work()
        worker.line("is registered")
        async with StateManager("ns", uri, KEY) as manager:
            await manager.upsert_graph(GRAPH)
            run_id = (await manager.trigger("once"))["run_id"]
        await trio.to_thread.run_sync(worker.line, "begun")
        server.kill()
        (tmp_path / "go").touch()
        await trio.to_thread.run_sync(worker.line, "its outcome Executed is in the outbox")
        worker.kill()
        assert b"precious" in (tmp_path / "outbox.db-wal").read_bytes()

        serve()
        worker = work()
        async with StateManager("ns", uri, KEY) as manager:
            assert (await manager.wait(run_id, timeout=20, poll_interval=0.1)).status == "SUCCESS"
        worker.signal(signal.SIGTERM)
        assert worker.wait().code == 0
    assert len((tmp_path / "executions").read_text().splitlines()) == 1


@pytest.mark.parametrize("has_outbox", [True, False])
async def test_many_nodes_that_end_at_once_all_find_room(outbox: Path, has_outbox: bool) -> None:
    gate = trio.Event()

    class Together(BaseNode):
        async def execute(self) -> None:
            await gate.wait()

    server = V0Server(Together=12)
    options = {"batch_size": 1, "workers": 12, "poll_interval": 0.01}
    async with running(runtime(server, Together, outbox=outbox if has_outbox else None, **options)):
        await server.until(QUEUED=12)
        await trio.testing.wait_all_tasks_blocked()
        gate.set()
        await server.until(lambda: server.statuses() == {"EXECUTED": 12})


async def test_undelivered_outcomes_are_counted_though_the_state_manager_never_came(outbox: Path) -> None:
    server = V0Server()
    await left_behind(server, outbox, Says)

    async def refuse(call: Call) -> httpx.Response | None:
        raise httpx.ConnectError("away")

    server.before = refuse
    async with running(server, Says, outbox=outbox) as rt:
        await server.until(lambda: bool(server.calls))
    assert (rt.summary.kept, rt.summary.exit_code) == (1, 75)
