"""``runtimes``: which there are, draining them, and their task trees; with real workers where that counts."""

from __future__ import annotations

import json
import re
import signal
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from exotrio._wire.overview import RuntimeInfo
from exotrio.cli.commands.runtimes import Fate, wait_until_gone
from exotrio.cli.lookup import find_runtimes
from exotrio.client._state_manager import StateManager
from exotrio.errors import NotFound
from tests.support import gated
from tests.support.client_double import Server as Double
from tests.support.client_double import worker
from tests.support.commands import NODES, Cli, fails
from tests.support.gated import Log, until
from tests.support.http_doubles import answer
from tests.support.pages import GUIDE, PRODUCTION, block, commands
from tests.support.processes import Process, Processes, Server, server

BEATS_EVERY_SECOND = ("--lease-ttl", "3")


class Place:
    """A state manager, and workers of it."""

    def __init__(self, folder: Path, processes: Processes) -> None:
        self.folder = folder
        self._processes = processes
        (folder / "nodes.py").write_text(NODES, "utf-8")
        self.server = processes.server(folder, *BEATS_EVERY_SECOND)

    def worker(self, *options: str, app: str = "nodes.py", **env: str) -> Process:
        process = self._processes.start(
            "worker", app, *options, cwd=self.folder, env={**self.server.env, **env}
        )
        process.line("running")
        return process


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with Processes() as processes:
        place = Place(tmp_path_factory.mktemp("place"), processes)
        place.worker("--health-tasks")
        yield place


@pytest.fixture
def cli(bare: Cli, place: Place) -> Cli:
    """Commands in a namespace with a worker that shows its tasks."""
    return bare.at(place.server)


def heard(cli: Cli, count: int = 1) -> list[dict[str, Any]]:
    """Return the live runtimes once there are so many, and all have sent a heartbeat and a claim."""

    def live() -> list[dict[str, Any]]:
        runtimes = [each for each in cli.json("runtimes", "ls")["runtimes"] if each["live"]]
        return (
            runtimes
            if len(runtimes) == count and all(each["workers"] and each["nodes"] for each in runtimes)
            else []
        )

    return until(live, f"{count} runtimes")


# -- ls


def test_runtimes_are_listed_with_what_they_do(cli: Cli, place: Place) -> None:
    (shown,) = heard(cli)
    host, process, unique = re.fullmatch(r"r@(.+):(\d+):([0-9a-f]{12})", shown["worker_id"]).groups()  # type: ignore[union-attr]
    assert (shown["runtime"], shown["phase"], shown["workers"]) == ("r", "running", 4)
    assert shown["nodes"] == ["Lock", "Split", "Work"]
    end = cli("runtimes", "ls", code=0)
    heads, line, count = end.out.splitlines()
    expected = "runtime worker phase busy free buffered reporting held at risk heartbeat nodes"
    assert " ".join(heads.split()) == expected
    assert re.fullmatch(
        rf"r +r@{re.escape(host)}:{process}:{unique} +running +0 +4 +0 +0 +0 +0 +\d+ s ago"
        " +Lock, Split, Work",
        line,
    )
    assert count == "1 runtime in namespace n"


def test_without_runtimes_it_says_how_to_start_one(cli: Cli, place: Place) -> None:
    cli.set(EXOSPHERE_NAMESPACE="empty")
    end = cli("runtimes", "ls")
    assert end.out == "0 runtimes in namespace empty\n"
    assert "worker FILE" in end.err
    assert cli.json("runtimes", "ls") == {"namespace": "empty", "runtimes": [], "v0": []}


def test_runtimes_of_v0_are_shown_as_far_as_they_are_known(cli: Cli, place: Place) -> None:
    cli.set(EXOSPHERE_NAMESPACE="old")
    headers = {"x-api-key": place.server.env["EXOSPHERE_API_KEY"], "content-type": "application/json"}
    nodes = [{"name": name, "inputs_schema": {}, "outputs_schema": {}, "secrets": []} for name in "AB"]
    for method, path, content in (
        ("PUT", "nodes", {"runtime_name": "r", "nodes": nodes}),
        ("POST", "states/enqueue", {"nodes": ["B", "A"], "batch_size": 1}),
    ):
        url = f"{place.server.uri}/v0/namespace/old/{path}"
        body = json.dumps(content).encode()
        with urllib.request.urlopen(urllib.request.Request(url, body, headers, method=method)):
            pass
    end = cli("runtimes", "ls")
    assert re.match(r"unnamed, through v0: A, B, last \d+ s ago\n", end.out)
    assert cli.json("runtimes", "ls")["v0"][0]["nodes"] == ["A", "B"]


# -- tasks


def test_a_task_tree_is_printed_by_name_and_by_the_beginning_of_the_id(cli: Cli) -> None:
    (shown,) = heard(cli)
    end = cli("runtimes", "tasks", "r", code=0)
    assert end.out.startswith("r\n")
    assert "\n  poll\n" in end.out
    worker_id = shown["worker_id"]
    beginning = worker_id.rpartition(":")[2][:6]
    shown = cli.json("runtimes", "tasks", beginning)
    assert (shown["worker_id"], shown["runtime"]) == (worker_id, "r")
    assert shown["tasks"].startswith("r\n")


def test_a_task_tree_that_does_not_come_in_time_is_an_error(cli: Cli) -> None:
    heard(cli)
    end = cli("runtimes", "tasks", "r", "--timeout", "0", code=1)
    assert "no task tree came from r@" in end.err
    assert "wait longer with --timeout" in end.err


# -- drain


def test_a_runtime_is_drained_by_the_last_part_of_its_id_and_waited_for(
    cli: Cli, place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    process = place.worker()
    both = heard(cli, 2)
    (other,) = [each for each in both if not each["shows_tasks"]]
    fails(cli("runtimes", "tasks", other["worker_id"]), 3, "does not show its tasks", "--health-tasks")
    fails(cli("runtimes", "tasks", "r"), 6, "2 runtimes match 'r'", "name one of them")

    unique = other["worker_id"].rpartition(":")[2]
    end = cli("runtimes", "drain", unique[:8], "--wait", code=0)
    assert end.out == f"stopped: {other['worker_id']}\n"
    assert process.wait().code == 0
    states = {each["worker_id"]: each["phase"] for each in cli.json("runtimes", "ls")["runtimes"]}
    assert sorted(states.values()) == ["running", "stopped"]
    again = cli.json("runtimes", "drain", other["worker_id"], "--wait")
    assert again["runtimes"] == [], "it has stopped already"

    # The receipt of its stop, as the guide shows it.
    for each in (block(GUIDE, "runtimes stops --since"), block(PRODUCTION, "runtimes stops --since")):
        (command,) = commands(each.code)
        listed = cli.json(*command)
    (stop,) = listed["stops"]
    assert (stop["worker_id"], stop["runtime"]) == (other["worker_id"], "r")
    assert (stop["why"], stop["exit_code"], stop["vanished"]) == ("a drain from the API", 0, False)
    assert 0 < stop["took_ms"] < 30_000
    assert stop["began_at"] < stop["ended_at"]
    assert listed["total"]["stops"] == 1
    heads, line, total = cli("runtimes", "stops", code=0).out.splitlines()
    guide = block(GUIDE, "\nstopped ").code.splitlines()
    assert heads.split() == guide[0].split()
    assert re.fullmatch(
        rf"\d+ s ago +r +{re.escape(other['worker_id'])} +a drain from the API +\S+ m?s +drain .* m?s"
        r" +0 +0 +0 +- +0 +0",
        line,
    )
    assert re.sub(r"[\d.]+ m?s\b", "T", total) == (
        "1 stop: T in all, T at most; 0 nodes finished, 0 handed over, 0 cut; no work lost;"
        " 0 states undelivered"
    )
    names: dict[str, Any] = {"StateManager": StateManager}
    exec(compile(block(GUIDE, "await manager.stops(").code, GUIDE, "exec", dont_inherit=True), names)
    capsys.readouterr()
    trio.run(names["show_cost"], StateManager("n"))
    assert capsys.readouterr().out == f"{total}\n"
    fails(cli("runtimes", "stops", "--since", "2"), 2, "'2' is not a duration", "60s, 5m, 12h or 30d")


def test_a_drain_continues_after_the_wait_has_timed_out(cli: Cli, place: Place) -> None:
    (place.folder / "gated.py").write_text(gated.APP, "utf-8")
    process = place.worker(app="gated.py")
    cli.set(EXOSPHERE_NAMESPACE=gated.NAMESPACE)
    cli.write("gated_graph.py", "from tests.support.gated import graph")
    assert cli("graph", "apply", "gated_graph.py").code == 0
    assert cli("trigger", "gated").code == 0
    log = Log(place.folder)
    log.until("begin", gated.WORKERS)
    command = ("runtimes", "drain", "w", "-n", gated.NAMESPACE, "--wait")
    with Processes() as processes:
        waiting = processes.start(*command, cwd=place.folder, env=place.server.env)
        waiting.line("^w@.*: draining; 2 running, 0 buffered")
        interrupted = waiting.stop(signal.SIGINT, code=130)
    assert "Traceback" not in interrupted.err
    end = cli("runtimes", "drain", "--all", "--wait", "--timeout", "0.2", code=75)
    assert re.fullmatch(r"still running: w@\S+\n", end.out)
    assert cli.json("runtimes", "ls")["runtimes"][0]["phase"] == "draining"
    (place.folder / "open-w").touch()
    assert process.wait().code == 0
    assert cli.json("runtimes", "drain", "--all")["runtimes"] == []


def test_a_mistyped_name_drains_no_runtime(cli: Cli) -> None:
    heard(cli)
    fails(cli("runtimes", "drain", "R"), 6, "there is no runtime 'R'; did you mean 'r'?", "there are: r")
    fails(cli("runtimes", "tasks", "zebra"), 6, "there is no runtime 'zebra'", "there are: r")
    fails(cli("runtimes", "drain"), 2, "name the runtimes to drain, or give --all")
    fails(cli("runtimes", "drain", "r", "--all"), 2)
    fails(cli("runtimes", "drian", "r"), 2, "Did you mean 'drain'?")
    assert cli.json("runtimes", "ls")["runtimes"][0]["asked_to_drain"] is False


def test_a_prefix_of_two_ids_drains_neither() -> None:
    two = [RuntimeInfo.model_validate(worker(worker_id=f"runner@host:{pid}:{pid}a1b2c3")) for pid in (17, 18)]
    with pytest.raises(NotFound, match="2 runtimes match 'runner@'"):
        find_runtimes(two, "runner@")
    assert find_runtimes(two, "runner@host:17") == two[:1]


def listed(*workers: dict[str, Any]) -> Any:
    return answer(200, {"workers": list(workers), "v0": []})


ASKED = worker(asked_to_drain=True)


async def fate(manager: StateManager) -> Fate:
    return (await wait_until_gone(manager, ["w"], 60.0))["w"]


async def test_a_runtime_that_falls_silent_has_not_stopped(
    autojump_clock: MockClock, capsys: pytest.CaptureFixture[str]
) -> None:
    silent = worker(live=False, heard_ms=61_000, holds=3)
    server = Double(native=True).on("GET workers", listed(ASKED), listed(silent))
    assert await fate(server.client) is Fate.SILENT
    assert "silent for 1 min, and it holds 3 states until their leases end" in capsys.readouterr().err


async def test_a_runtime_has_stopped_when_it_reports_it_or_is_unknown_for_long(
    autojump_clock: MockClock,
) -> None:
    says_so = Double(native=True).on("GET workers", listed(ASKED), listed(worker(phase="stopped")))
    assert await fate(says_so.client) is Fate.STOPPED
    is_gone = Double(native=True).on("GET workers", listed(ASKED), listed())
    assert await fate(is_gone.client) is Fate.STOPPED
    stays = Double(native=True).on("GET workers", listed(ASKED))
    assert await fate(stays.client) is Fate.PRESENT


async def test_a_restarted_state_manager_is_asked_to_drain_again(
    autojump_clock: MockClock,
) -> None:
    server = Double(native=True).on("POST drain", answer(200, {"worker_id": "w", "command": "drain"}))
    after = (listed(), listed(worker()), listed(ASKED), listed(worker(phase="draining")))
    server.on("GET workers", listed(ASKED), *after, listed(worker(phase="stopped")))
    assert await fate(server.client) is Fate.STOPPED
    assert server.calls().count("POST drain") == 1


# -- other state managers


@pytest.fixture(scope="module")
def v0_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with server(tmp_path_factory.mktemp("v0"), "--v0-only") as running:
        yield running


@pytest.mark.parametrize("command", ["ls", "stops", "drain --all", "tasks r"])
def test_a_state_manager_that_speaks_only_v0_knows_no_runtimes(
    bare: Cli, v0_server: Server, command: str
) -> None:
    v0 = bare.at(v0_server)
    fails(v0("runtimes", *command.split()), 3, "speaks only v0, which cannot do that", "exotrio's server")
