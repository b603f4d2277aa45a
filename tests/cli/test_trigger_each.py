"""``trigger --each``: a run for each line of a file, at our state manager and at one that speaks only v0."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
import trio

from exotrio._wire.vocabulary import MAX_BATCH
from tests.support.balancer import Balancer
from tests.support.commands import Cli, fails
from tests.support.helpers import declare
from tests.support.processes import TEST_TIMEOUT, Ended, Process, Server, exotrio, server

GRAPH = {
    "secrets": {},
    "nodes": [{"node_name": "A", "namespace": "n", "identifier": "a", "inputs": {"p": "x", "q": "y"}}],
    "store_config": {"default_values": {"k": "v"}},
}


@pytest.fixture(scope="module", params=["native", "v0"])
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    options = ["--v0-only"] if request.param == "v0" else []
    with server(tmp_path_factory.mktemp(request.param), *options) as running:
        inputs = {
            "p": {"type": "string"},
            "q": {"type": "string", "contentSchema": {"maxLength": 9, "type": "string"}},
        }
        body = {"runtime_name": "r", "nodes": [declare("A", inputs=inputs)]}
        running.ask("PUT", "/v0/namespace/n/nodes/", body)
        running.ask("PUT", "/v0/namespace/n/graph/g", GRAPH)
        yield Place(running, request.param == "native")


only_native = pytest.mark.parametrize("place", ["native"], indirect=True)


@dataclass
class Place:
    """A state manager with a graph."""

    running: Server
    native: bool

    @property
    def total(self) -> int:
        total: int = self.running.ask("GET", "/v0/namespace/n/runs/1/1")["total"]
        return total

    def inputs(self, run_id: str) -> dict[str, str]:
        """Return the inputs of the first node of a run."""
        (state,) = self.running.ask("GET", f"/v0/namespace/n/states/run/{run_id}/graph")["nodes"]
        shown = self.running.ask("GET", f"/v0/namespace/n/graph/g/run/{run_id}/node/{state['id']}")
        inputs: dict[str, str] = shown["inputs"]
        return inputs


@pytest.fixture
def cli(bare: Cli, place: Place) -> Cli:
    return bare.at(place.running)


def lines(*runs: Any) -> str:
    return "".join(json.dumps(run) + "\n" for run in runs)


# -- what is started and printed


def test_each_line_is_a_run_and_the_ids_are_printed_in_their_order(cli: Cli, place: Place) -> None:
    before = place.total
    cli.write("runs.jsonl", lines({"inputs": {"p": "1"}}, {}, {"inputs": {"p": "3"}, "store": {"k": "w"}}))
    end = cli("trigger", "g", "--each", "runs.jsonl")
    assert (end.code, end.err) == (0, ""), end
    assert [place.inputs(run_id)["p"] for run_id in end.out.split()] == ["1", "x", "3"]
    assert place.total == before + 3


def test_the_other_options_are_defaults_for_the_lines(cli: Cli, place: Place) -> None:
    text = lines({"inputs": {"p": "line"}}, {"inputs": {"q": "line"}}).rstrip("\n")  # without an end
    reply = cli.json("trigger", "g", "--each", cli.write("runs.jsonl", text), "-i", "p=option")
    assert reply.keys() == {"graph", "run_ids"}
    assert [place.inputs(run_id) for run_id in reply["run_ids"]] == [
        {"p": "line", "q": "y"},
        {"p": "option", "q": "line"},
    ]


def test_the_start_can_be_delayed(cli: Cli, place: Place) -> None:
    file = cli.write("runs.jsonl", lines({}))
    (run_id,) = cli.json("trigger", "g", "--each", file, "--start-delay", "3600")["run_ids"]
    place.running.ask("POST", "/v0/namespace/n/states/enqueue", {"nodes": ["A"], "batch_size": 1_000})
    shown = place.running.ask("GET", f"/v0/namespace/n/states/run/{run_id}/graph")
    assert shown["execution_summary"]["CREATED"] == 1, "it could be claimed"


@only_native
def test_lines_come_from_standard_input_and_from_pipes(cli: Cli, place: Place) -> None:
    for text in (lines({"inputs": {"p": "ü"}}), "\ufeff" + lines({"inputs": {"p": "ü"}})):
        (run_id,) = cli.json("trigger", "g", "--each", "-", stdin=text)["run_ids"]
        assert place.inputs(run_id)["p"] == "ü"
    reading, writing = os.pipe()
    with os.fdopen(writing, "wb") as pipe:
        pipe.write(lines({"inputs": {"p": "piped"}}).encode())
    try:
        (run_id,) = cli.json("trigger", "g", "--each", f"/dev/fd/{reading}")["run_ids"]
    finally:
        os.close(reading)
    assert place.inputs(run_id)["p"] == "piped"


def test_a_file_without_lines_starts_nothing(cli: Cli, place: Place) -> None:
    before = place.total
    end = cli("trigger", "g", "--each", "-")
    assert (end.code, end.out, end.err) == (0, "", "standard input has no lines: no run was started\n")
    assert cli.json("trigger", "g", "--each", "-") == {"graph": "g", "run_ids": []}
    assert place.total == before


@only_native
def test_more_lines_than_one_request_may_have_are_started(cli: Cli, place: Place) -> None:
    before = place.total
    count = 2 * MAX_BATCH + 7
    cli.write("runs.jsonl", lines(*({"inputs": {"p": str(number)}} for number in range(count))))
    run_ids = cli("trigger", "g", "--each", "runs.jsonl").out.split()
    assert len(set(run_ids)) == place.total - before == count
    for number in (0, MAX_BATCH, count - 1):
        assert place.inputs(run_ids[number])["p"] == str(number)


@only_native
def test_a_key_in_a_line_or_an_option_starts_its_run_once(cli: Cli, place: Place) -> None:
    before = place.total
    keys = [f"order {uuid4()}" for _ in range(3)]
    first = cli.json("trigger", "g", "--run-key", keys[0], "-i", "p=1")
    assert first["created"]
    end = cli("trigger", "g", "--run-key", keys[0], "-i", "p=1")
    assert (end.code, end.out.strip()) == (0, first["run_id"])
    assert f"the run with the key {keys[0]!r} existed already: nothing was started" in end.err
    assert not cli.json("trigger", "g", "--run-key", keys[0], "-i", "p=1")["created"]
    fails(cli("trigger", "g", "--run-key", keys[0], "-i", "p=2"), 3, first["run_id"], "with other inputs")
    text = lines(*({"key": key, "inputs": {"p": "1"}} for key in keys))
    end = cli("trigger", "g", "--each", "-", stdin=text)
    assert (end.code, end.out.split()[0]) == (0, first["run_id"])
    assert "not started again: 1 of 3 runs existed already" in end.err
    assert place.total == before + 3
    for command in (("runs", "show", keys[0]), ("runs", "ls", "--run-key", keys[0])):
        shown = cli(*command).out
        assert first["run_id"] in shown
        assert keys[0] in shown


def test_a_key_has_to_be_valid_and_needs_exotrios_state_manager(cli: Cli, place: Place) -> None:
    before = place.total
    for line, problem in (
        ({"key": "k" * 257}, "key: has 257 characters; at most 256 are allowed"),
        ({"key": 17}, "key: Input should be a valid string"),
        ({"key": "k", "run_id": str(uuid4())}, "it has a key and a run_id"),
    ):
        fails(cli("trigger", "g", "--each", "-", stdin=lines({}, line)), 2, f"line 2: {problem}")
    twice = lines({"key": "k"}, {"key": "k"})
    fails(cli("trigger", "g", "--run-key", "k", "--each", "-"), 2, 'give a "key" in the lines')
    fails(cli("trigger", "g", "--run-key", " k"), 2, "the --run-key is empty, or has blanks at its ends")
    if place.native:
        fails(cli("trigger", "g", "--each", "-", stdin=twice), 2, "line 2: its key is that of line 1, too")
    else:
        fails(cli("trigger", "g", "--run-key", "k"), 3, "cannot be started by a key", "speaks only v0")
        fails(cli("trigger", "g", "--each", "-", stdin=twice), 2, "line 1: it has a key", "speaks only v0")
        fails(cli("runs", "ls", "--run-key", "k"), 3, "speaks only v0")
    assert place.total == before


def test_the_api_key_is_not_accepted_as_the_key_of_a_run(cli: Cli, place: Place) -> None:
    before, file = place.total, cli.write("other.key", "the-key-of-a-file\n")
    for key, command in (
        (os.environ["EXOSPHERE_API_KEY"], ("trigger", "g")),
        (os.environ["EXOSPHERE_API_KEY"], ("runs", "ls")),
        ("the-key-of-a-file", ("trigger", "g", "--key-file", file)),
    ):
        end = cli(*command, "--run-key", key)
        fails(end, 2, "the --run-key is the API key", "given with --key-file or EXOSPHERE_API_KEY")
        assert key not in end.err
    assert place.total == before


# -- what is refused, before anything is started


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("", "it is empty"),
        ("{", "it is not JSON"),
        ("[]", "must be an object, with the fields inputs, store, key, run_id"),
        ('{"input": {}}', "input: there is no such field; did you mean 'inputs'?"),
        ('{"inputs": []}', 'inputs: it is not a JSON object such as {"name": "value"}'),
        ('{"store": {"k": 1}}', "store: the value of 'k' is not text; write it in quotes"),
        (json.dumps({"inputs": dict.fromkeys("abcdefghijkl", 1)}), "'a' is not text; write it in quotes\n"),
        (json.dumps(dict.fromkeys(map(str, range(99)))), " and 89 more\n"),
        ('{"run_id": "x"}', "run_id: badly formed hexadecimal UUID string"),
        ('{"run_id": 5}', "run_id: Input should be a valid string"),
        ('{"inputs": {"pp": ""}}', "has no input 'pp'; it has: p, q; did you mean 'p'?"),
        ('{"store": {"kk": ""}}', "has no store key 'kk'"),
        ('{"inputs": {"q": "0123456789"}}', "a text, length at most 9; it is a text of 10 characters"),
    ],
)
def test_a_bad_line_is_named_before_anything_is_started(
    cli: Cli, place: Place, line: str, message: str
) -> None:
    before = place.total
    cli.write("runs.jsonl", lines(*[{}] * 2_000) + line + "\n" + lines({}))
    fails(cli("trigger", "g", "--each", "runs.jsonl"), 2, "line 2,001: ", message)
    assert place.total == before


@only_native
def test_an_id_that_is_given_twice_is_named_with_both_lines(cli: Cli, place: Place) -> None:
    run_id = str(uuid4())
    cli.write("runs.jsonl", lines({"run_id": run_id}, {}, {"run_id": run_id.upper()}))
    fails(cli("trigger", "g", "--each", "runs.jsonl"), 2, "line 3: its run_id is that of line 1, too")


@only_native
def test_an_error_names_ten_lines_and_no_value(cli: Cli) -> None:
    secret = '{"inputs": {"p": "hunter2"'
    end = cli("trigger", "g", "--each", cli.write("runs.jsonl", f"{secret}\n" * 30))
    fails(end, 2, "not every line of runs.jsonl is a run of graph 'g'", "no run was started")
    assert re.findall(r"line (\d+)", end.err) == [str(number) for number in range(1, 11)]
    assert "hunter2" not in end.err


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ("trigger g --each gone", 2, "'gone' cannot be read: No such file"),
        ("trigger g --each .", 2, "'.' cannot be read"),
        ("trigger g --each - -i p=@-", 2, "standard input is read twice"),
        ("trigger g --each - --follow", 2, "--follow is for one run"),
        ("trigger g --each - --batch x", 2, "'x' is not a valid UUID"),
        (f"trigger g --batch {UUID(int=1)}", 2, "--batch is for the runs of --each"),
        ("trigger gg --each -", 6, "there is no graph 'gg'; did you mean 'g'?"),
    ],
)
@only_native
def test_options_that_cannot_be_combined_are_refused(
    cli: Cli, arguments: str, code: int, message: str
) -> None:
    end = cli(*arguments.split(), code=code)
    assert message in end.err


# -- again


@only_native
def test_a_batch_given_again_starts_no_run_twice(cli: Cli, place: Place) -> None:
    before = place.total
    own = str(uuid4())
    first, second = lines({}, {"run_id": own}), lines({}, {"run_id": own}, {})
    command = ("trigger", "g", "--each", "-", "--batch", str(uuid4()))
    ids = cli.json(*command, stdin=first)["run_ids"]
    assert ids[1] == own
    again = cli.json(*command, stdin=second)["run_ids"]
    assert again[:2] == ids
    assert place.total == before + 3
    assert cli.json("trigger", "g", "--each", "-", stdin=first)["run_ids"][0] not in again


def test_a_batch_is_refused_where_it_cannot_be_repeated(cli: Cli, place: Place) -> None:
    end = cli("trigger", "g", "--each", "-", "--batch", str(uuid4()), stdin=lines({}))
    if place.native:
        assert end.code == 0, end
    else:
        fails(end, 3, "--batch cannot be used: the state manager speaks only v0")


class Holding(Balancer):
    """Lets the first lists of runs pass, and holds the one after them."""

    def __init__(self, *ports: int, passes: int) -> None:
        super().__init__(*ports)
        self.held = trio.Event()
        self._left = passes

    async def _forward(self, source: trio.SocketStream, target: trio.SocketStream) -> None:
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            async for data in source:
                if re.match(rb"POST \S+/(runs|trigger) ", data):
                    if not self._left:
                        self.held.set()
                        await trio.sleep_forever()
                    self._left -= 1
                await target.send_all(data)


COMMAND = ("trigger", "g", "--each", "runs.jsonl", "--namespace", "n")


@asynccontextmanager
async def interrupted(folder: Path, place: Place, *, count: int, passes: int) -> AsyncIterator[Interrupted]:
    """Start so many runs, the requests for which are held once so many of them have passed."""
    (folder / "runs.jsonl").write_text(lines(*[{}] * count))
    holding = Holding(int(place.running.uri.rpartition(":")[2]), passes=passes)
    async with trio.open_nursery() as nursery:
        await nursery.start(holding.serve)
        env = {**place.running.env, "EXOSPHERE_STATE_MANAGER_URI": holding.uri}
        with exotrio(*COMMAND, cwd=folder, env=env) as process:
            await holding.held.wait()
            yield Interrupted(process, nursery.cancel_scope)
            nursery.cancel_scope.cancel()


@dataclass
class Interrupted:
    """A command whose requests are held; ``connections`` cancelled cuts them."""

    process: Process
    connections: trio.CancelScope

    async def ended(self) -> Ended:
        with trio.CancelScope(shield=True), trio.fail_after(TEST_TIMEOUT):
            return await trio.to_thread.run_sync(self.process.wait)
        raise AssertionError("unreachable")


async def repeated(end: Ended, folder: Path, place: Place) -> Ended:
    """Give the command once more, as the end of the first one says."""
    again = re.search(r"to continue, repeat the command with (--batch \S+): no run is started twice", end.err)
    assert again, end
    with exotrio(*COMMAND, *again[1].split(), cwd=folder, env=place.running.env) as process:
        end = await trio.to_thread.run_sync(process.wait)
    assert end.code == 0, end
    return end


async def test_ctrl_c_prints_how_many_runs_were_started(tmp_path: Path, place: Place) -> None:
    before, count = place.total, 5 * MAX_BATCH if place.native else 50
    async with interrupted(tmp_path, place, count=count, passes=2) as command:
        command.process.signal(signal.SIGINT)
        end = await command.ended()
    assert (end.code, end.out) == (130, ""), end
    match = re.match(
        r"interrupted: ([\d,]+) of ([\d,]+) runs were started, and more may have been\n", end.err
    )
    assert match, end
    assert match[2] == f"{count:,}"
    assert int(match[1].replace(",", "")) <= place.total - before < count
    if not place.native:
        assert "it speaks only v0: see `runs ls` for the runs that were started" in end.err
        return
    end = await repeated(end, tmp_path, place)
    assert len(set(end.out.split())) == place.total - before == count


@only_native
async def test_a_lost_connection_prints_how_to_continue(tmp_path: Path, place: Place) -> None:
    before, count = place.total, 3 * MAX_BATCH
    async with interrupted(tmp_path, place, count=count, passes=1) as command:
        command.connections.cancel()
        end = await command.ended()
    assert (end.code, end.out) == (4, ""), end
    await repeated(end, tmp_path, place)
    assert place.total - before == count
