"""``trigger``, ``runs``, ``states`` and ``nodes``, at our state manager and at one that speaks only v0."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import pytest

from tests.contract.native import item_for
from tests.support.commands import NODES, Cli, fails, with_worker
from tests.support.helpers import NO_RETRY, declare
from tests.support.processes import Server, exotrio


@pytest.fixture(scope="module", params=["native", "v0"])
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    options = ["--v0-only"] if request.param == "v0" else []
    folder = tmp_path_factory.mktemp(request.param)
    with with_worker(folder, *options) as running:
        yield Place(running, request.param == "native")


only_native = pytest.mark.parametrize("place", ["native"], indirect=True)
"""For what does not depend on the state manager."""


@dataclass
class Place:
    """A state manager with a worker, and the runs that tests of the same kind share."""

    running: Server
    native: bool
    succeeded: str = ""
    failed: str = ""


@pytest.fixture
def cli(bare: Cli, place: Place) -> Cli:
    """Commands in a namespace with the graph ``fan``, one run of which succeeded and one failed."""
    cli = bare.at(place.running)
    cli.write("nodes.py", NODES)
    if not place.failed:
        assert cli("graph", "apply", "nodes.py").code == 0
        place.succeeded = cli("trigger", "fan", "--follow").out.split()[0]
        place.failed = cli("trigger", "fan", "--follow", "--store", "bad=1").out.split()[0]
    return cli


def waiting_run(cli: Cli) -> str:
    """Return a run that waits for a long time before its first node."""
    run_id: str = cli.json("trigger", "fan", "--start-delay", "3600")["run_id"]
    return run_id


# -- trigger


def test_the_id_of_the_run_is_printed_and_nothing_else(cli: Cli) -> None:
    end = cli("trigger", "fan", code=0)
    assert end.err == ""
    run_id = end.out.strip()
    assert cli.json("runs", "show", run_id)["graph_name"] == "fan"
    reply = cli.json("trigger", "fan")
    assert reply == {"run_id": reply["run_id"], "graph": "fan", "status": "CREATED", "created": True}


@only_native
def test_an_ended_run_is_followed_by_its_key(cli: Cli) -> None:
    for _ in range(2):
        end = cli("trigger", "fan", "--run-key", "order-17", "--follow")
        assert (end.code, ", key order-17)" in end.out) == (0, True), end
    end = cli("runs", "watch", "order-17", "-o", "json")
    assert json.loads(end.out)["key"] == "order-17"


def test_following_shows_progress_and_the_result_and_returns_an_exit_code(cli: Cli) -> None:
    good = cli("trigger", "fan", "--follow", "-i", "count=1", code=0)
    run_id, summary = good.out.splitlines()[:2]
    assert summary.startswith("SUCCESS: 2 states in ")
    assert good.out.endswith("work:\n  text: <0>\n")
    assert good.err.endswith("split 1/1  work 1/1\n")
    bad = cli("trigger", "fan", "--follow", "--store", "bad=0", code=1)
    assert "\nFAILED: 4 states in " in bad.out
    failed = bad.out.splitlines().index("  Traceback (most recent call last):") - 1
    assert bad.out.splitlines()[failed].endswith("ValueError: \\x1b[31mcannot work on 0")
    assert ", in execute\n      raise ValueError(f" in bad.out
    assert cli("runs", "watch", run_id[:8]).out.startswith("SUCCESS: 2 states in ")


@only_native
def test_a_partial_result_says_what_it_lacks_and_a_fan_out_ran_once(cli: Cli) -> None:
    bad = cli("trigger", "fan", "--follow", "--store", "bad=0", code=1)
    assert bad.err.endswith("split 1/1 (2 outputs)  work 1/2 (1 failed)\n")
    assert "\nthis result is partial: 1 of 2 work failed\nwork:\n" in bad.out
    run_id = bad.out.split()[0]
    shown = cli("runs", "show", run_id).out
    assert "\nfan-out: the 2 successes of split are the outputs of 1 execution\n" in shown
    result, run = cli.json("runs", "watch", run_id, code=1), cli.json("runs", "show", run_id)
    assert result["missing"] == run["missing"] == ["1 of 2 work failed"]
    assert result["seconds"] * 1000 == run["duration_ms"] > 0, "the time of the run, not of this command"
    assert run["nodes"][0]["further"] == 1
    output, first = cli.json("states", "ls", "--run", run_id, "--place", "split")["states"]
    assert (output["waited_ms"], output["ran_ms"]) == (None, None), "a further output waited for nothing"
    assert first["waited_ms"] >= 0
    assert "waited" not in cli("states", "show", output["id"]).out


def test_the_result_of_a_followed_run_is_one_json_document(cli: Cli) -> None:
    end = cli("trigger", "fan", "--follow", "-o", "json", code=0)
    result = json.loads(end.out)
    assert end.err.startswith(f"run {result['run_id']} of graph 'fan'\n")
    assert result["status"] == "SUCCESS"
    assert sorted(each["outputs"]["text"] for each in result["outputs"]) == ["<0>", "<1>"]
    assert cli.json("runs", "watch", result["run_id"])["nodes"] == {
        "split": {"SUCCESS": 2},
        "work": {"SUCCESS": 2},
    }


def test_values_come_from_files_and_pipes(cli: Cli) -> None:
    end = cli("trigger", "fan", "--inputs-file", cli.write("values.json", {"count": "hunter2"}))
    fails(end, 2, "must be a whole number; it is a text of 7 characters")
    cli.write("values.json", {"count": "1"})
    end = cli(
        "trigger", "fan", "--follow", "--inputs-file", "values.json", "--store", "bad=@-", stdin="0\n", code=1
    )
    states = cli.json("states", "ls", "--run", end.out.split()[0])["states"]
    assert [state["status"] for state in states] == ["ERRORED", "SUCCESS"]
    shown = cli.json("states", "show", states[0]["id"], "--run", states[0]["run_id"])
    assert shown["inputs"] == {"n": "0", "bad": "0"}


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ("trigger fna", 6, "there is no graph 'fna'; did you mean 'fan'?"),
        ("trigger fan -i cuont=1", 2, "has no input 'cuont'; it has: count; did you mean 'count'?"),
        ("trigger fan --store bda=1", 2, "no store key 'bda'; it has: bad; did you mean 'bad'?"),
        ("trigger fan -i count=abc", 2, "of 'split' in graph 'fan' must be a whole number; it is 'abc'"),
        ("trigger fan -i count=@gone", 2, "gone cannot be read"),
        ("trigger fan --start-delay nan", 2, "'nan' is not a number of seconds"),
        ("runs ls --graph fna", 6, "there is no graph 'fna'; did you mean 'fan'?"),
        ("runs ls --status broken", 2, "'broken' is not one of"),
        ("runs show 1234", 6, "at least its first 6 characters"),
        ("runs show 00000000", 6, "see `runs ls`"),
        ("runs retry 00000000", 6, "there is no run '00000000'"),
        ("states ls --place work", 2, "--place needs --run or --graph"),
        ("states ls --run 00000000", 6, "there is no run '00000000'"),
        ("states retry 000000000000000000000000", 6, "there is no state '000000000000000000000000'"),
        ("states retry beef", 6, "give all digits after the zeros within its id"),
        ("nodes list", 2, "No such command 'list'"),
    ],
)  # fmt: skip
def test_a_request_that_cannot_be_done_is_an_error(cli: Cli, arguments: str, code: int, message: str) -> None:
    fails(cli(*arguments.split()), code, message)


@pytest.mark.parametrize("arguments", ["trigger fan", "runs watch 123456", "nodes ls"])
def test_a_refused_key_is_an_error(cli: Cli, arguments: str) -> None:
    cli.set(EXOSPHERE_API_KEY="another")
    fails(cli(*arguments.split()), 5, "answered 401", "--key-file FILE")


@only_native
def test_an_unreachable_state_manager_is_an_error(cli: Cli) -> None:
    fails(cli.at_no_server()("trigger", "fan", "--follow"), 4, "http://127.0.0.1:1 cannot be reached")


def test_a_key_of_the_store_that_is_required_is_named(cli: Cli) -> None:
    graph = cli.json("graph", "show", "fan")
    cli.write("strict.json", {**graph, "name": "strict", "store_config": {"required_keys": ["bad"]}})
    assert cli("graph", "apply", "strict.json").code == 0
    fails(cli("trigger", "strict"), 2, "needs more of its store: give --store bad=VALUE")
    assert cli("trigger", "strict", "--store", "bad=none", "--follow").code == 0


def test_in_an_empty_namespace_the_existing_ones_are_named(cli: Cli) -> None:
    cli.set(EXOSPHERE_NAMESPACE="empty")
    fails(cli("trigger", "fan"), 6, "the namespace has: none; nodes are registered in these namespaces: n\n")
    for what in ("graph", "run", "node"):
        command = what if what == "graph" else f"{what}s"
        listed = cli(command, "ls")
        assert listed.out.startswith(f"0 {what}s in namespace empty\n")
        assert "no node is registered in namespace empty; there are n" in listed.err
        assert cli.json(command, "ls")[f"{what}s"] == []


# -- runs


def test_runs_are_listed_and_found(cli: Cli, place: Place) -> None:
    listed = cli("runs", "ls", "--graph", "fan", "--status", "failed", "--limit", "1000", code=0)
    row = next(line for line in listed.out.splitlines() if line.startswith(place.failed))
    assert row.split()[1:6] == ["fan", "FAILED", "3", "1", "0"]
    assert place.succeeded not in listed.out
    runs = cli.json("runs", "ls", "--status", "SUCCESS", "--limit", "1000")
    assert place.succeeded in [run["run_id"] for run in runs["runs"]]
    assert runs["more"] is False
    newest = cli.json("runs", "ls", "--limit", "1")
    assert len(newest["runs"]) == 1
    assert newest["more"] is True
    assert "1 run in namespace n; more with --limit\n" in cli("runs", "ls", "--limit", "1").out


def test_a_run_is_shown_with_what_failed(cli: Cli, place: Place) -> None:
    shown = cli("runs", "show", place.failed[:8], code=0)
    assert shown.out.startswith(f"run {place.failed} of graph fan: FAILED")
    assert "\nfailed: work (" in shown.out
    assert shown.out.endswith("): ValueError: \\x1b[31mcannot work on 1\n")
    run = cli.json("runs", "show", place.failed)
    assert run["nodes"][1] == {
        "identifier": "work",
        "node_name": "Work",
        "counts": {"SUCCESS": 1, "ERRORED": 1},
        "paused_at": None,
        "waits_for": None,
        "not_reached": None,
        "further": 0,
        "is_last": True,
    }
    assert run["missing"] == ["1 of 2 work failed"]
    assert "\nits result is partial: 1 of 2 work failed\n" in shown.out
    (failure,) = run["failed"]
    assert failure["identifier"] == "work"
    assert failure["error"].endswith("ValueError: \x1b[31mcannot work on 1")
    assert "failed:" not in cli("runs", "show", place.succeeded).out


@pytest.mark.parametrize(
    ("n", "failed", "lines"),
    [
        ("0", r"failed: work, 22 states \(\w+, \w+, \w+ and 19 more\): ValueError: .* on 0", 1),
        ("${{ split.outputs.n }}", r"failed: work \(\w+\): ValueError: .* on \d+", 20),
    ],
)
def test_states_that_failed_alike_are_one_line(cli: Cli, n: str, failed: str, lines: int) -> None:
    graph = {**cli.json("graph", "show", "fan"), "name": f"fails-{lines}"}
    graph["nodes"][0]["inputs"]["count"] = "22"
    graph["nodes"][1]["inputs"] = {"n": n, "bad": n}
    cli("graph", "apply", cli.write("graph.json", graph), code=0)
    followed = cli("trigger", graph["name"], "--follow", code=1).out
    run_id = followed.split()[0]
    for out in (followed, cli("runs", "watch", run_id).out, cli("runs", "show", run_id).out):
        assert len(re.findall(f"^{failed}$", out, re.MULTILINE)) == lines, out
        assert (f"\n... and 2 more: states ls --run {run_id} --status ERRORED\n" in out) == (lines == 20)


def test_a_run_without_a_result_is_not_said_to_have_a_partial_one(cli: Cli) -> None:
    lone = NODES[NODES.index("graph = ") :].replace('"fan"', '"lone"').replace('count="2"', 'count="1"')
    cli.write("lone.py", NODES[: NODES.index("graph = ")] + lone)
    assert cli("graph", "apply", "lone.py").code == 0
    run_id = cli("trigger", "lone", "--follow", "--store", "bad=0", code=1).out.split()[0]
    shown = cli("runs", "show", run_id).out
    assert "\nit has no result: 1 of 1 work failed\n" in shown, "what split returned is not the result"
    assert "partial" not in shown


def test_a_mistyped_id_gets_a_suggestion(cli: Cli, place: Place) -> None:
    slip = place.failed[:-1] + ("0" if place.failed[-1] != "0" else "1")
    fails(cli("runs", "show", slip), 6, f"there is no run {slip!r}; did you mean {place.failed}?")


def test_failed_states_of_a_run_are_retried(cli: Cli) -> None:
    run_id = cli("trigger", "fan", "--follow", "--store", "bad=1").out.split()[0]
    end = cli("runs", "retry", run_id[:8], code=0)
    assert end.out == f"1 state of run {run_id} will run again\n"
    assert cli("runs", "watch", run_id).code == 1
    reply = cli.json("runs", "retry", run_id)
    assert len(reply["retried"]) == 1
    assert reply["refused"] == []


def test_a_run_without_failures_is_not_retried(cli: Cli, place: Place) -> None:
    fails(cli("runs", "retry", place.succeeded), 3, "has no failed states")


def test_a_run_is_cancelled_where_that_is_possible(cli: Cli, place: Place) -> None:
    run_id = waiting_run(cli)
    if not place.native:
        fails(cli("runs", "cancel", run_id), 3, "speaks only v0, which cannot do that")
        fails(cli("runs", "priority", run_id, "high"), 3, "/priority cannot be requested: ", "speaks only v0")
        return
    slip = run_id[:-1] + ("0" if run_id[-1] != "0" else "1")
    fails(cli("runs", "cancel", slip), 6, f"did you mean {run_id}?")
    fails(cli("runs", "repin", run_id[:8], "--to", "2"), 3, "cannot go on with version '2'", "no such class")
    fails(cli("runs", "repin", run_id[:8]), 2, "--to")
    fails(cli("runs", "repin", "--to", "a b"), 2, "is not a version: 'a b'")
    assert cli("runs", "repin", "--version", "1", "--to", "2").out == "no run in flight needs version 1\n"
    shown = cli.json("runs", "priority", run_id[:8], "high")
    assert (shown["run_id"], shown["priority"]) == (run_id, "high")
    assert "priority high" in cli("runs", "show", run_id).out
    head, *rows = cli("runs", "ls").out.splitlines()
    assert "priority" in head
    assert "high" in next(row for row in rows if row.startswith(run_id)).split()
    assert "priority" not in cli("runs", "ls", "--status", "SUCCESS").out
    end = cli("runs", "cancel", run_id[:8], code=0)
    assert ", cancelled 2" in end.out
    changed = cli("runs", "priority", run_id, "low", code=0)
    assert "the run has ended: the priority counts if it is retried" in changed.out
    row = next(line for line in cli("runs", "ls").out.splitlines() if line.startswith(run_id))
    assert row.split()[1:4] == ["fan", "FAILED", "(cancelled)"]
    assert cli.json("runs", "cancel", run_id)["cancelled_at"]
    assert ", cancelled 2" in cli("runs", "show", run_id).out
    fails(cli("runs", "retry", run_id), 3, "was cancelled")
    fails(cli("runs", "cancel", place.succeeded), 3, "has already ended")


def test_ctrl_c_while_following_does_not_stop_the_run(cli: Cli, place: Place) -> None:
    command = ("trigger", "fan", "--start-delay", "3600", "--follow", "--namespace", "n")
    with exotrio(*command, cwd=cli.folder, env=place.running.env) as process:
        process.line("split 0/1")
        end = process.stop(signal.SIGINT, code=130)
    run_id = end.out.strip()
    assert "no longer following; the run continues" in end.err
    assert f"-m exotrio runs watch {run_id} --namespace n\n" in end.err
    assert cli.json("runs", "show", run_id)["status"] == "PENDING"


def test_following_ends_after_its_timeout_and_the_run_goes_on(cli: Cli) -> None:
    end = cli("trigger", "fan", "--start-delay", "3600", "--follow", "--timeout", "0.3", code=130)
    run_id = end.out.strip()
    watch = f"-m exotrio runs watch {run_id}"
    for again in (end, cli("runs", "watch", run_id, "--timeout", "0.3", code=130)):
        assert "the run has not ended within 300 ms, and continues" in again.err
        assert watch in again.err
    assert cli.json("runs", "show", run_id)["status"] == "PENDING"
    fails(cli("trigger", "fan", "--timeout", "1"), 2, "--timeout belongs to --follow")


# -- states


def test_states_are_listed_and_found(cli: Cli, place: Place) -> None:
    listed = cli("states", "ls", "--run", place.failed[:8], code=0)
    assert listed.out.endswith("4 states\n")
    of_place = cli.json("states", "ls", "--run", place.failed, "--place", "work", "--status", "errored")
    assert [state["status"] for state in of_place["states"]] == ["ERRORED"]
    assert cli.json("states", "ls", "--run", place.failed, "--limit", "2")["more"] is True
    fails(
        cli("states", "ls", "--run", place.failed, "--place", "wrok"),
        6,
        "no place 'wrok'; did you mean 'work'?",
    )
    if not place.native:
        fails(cli("states", "ls"), 3, "speaks only v0", "give the run too: --run RUN")
        return
    assert cli.json("states", "ls", "--node", "Split", "--limit", "1")["states"][0]["identifier"] == "split"
    assert cli.json("states", "ls", "--graph", "fan", "--place", "work")["states"]
    fails(cli("states", "ls", "--node", "Splat"), 6, "there is no node 'Splat'; did you mean 'Split'?")
    fails(cli("states", "ls", "--graph", "fun"), 6, "there is no graph 'fun'; did you mean 'fan'?")
    fails(cli("states", "ls", "--graph", "fan", "--place", "x"), 6, "graph 'fan' has no place 'x'")


def test_a_state_is_shown_with_its_values_and_its_traceback(cli: Cli, place: Place) -> None:
    (failure,) = cli.json("runs", "show", place.failed)["failed"]
    if not place.native:
        fails(cli("states", "show", failure["id"]), 3, "speaks only v0", "give the run too: --run RUN")
    of_run = [] if place.native else ["--run", place.failed[:8]]
    shown = cli("states", "show", failure["id"], *of_run, code=0)
    assert shown.out.startswith(f"state {failure['id']}: ERRORED\nplace: work (Work)\n")
    assert "\ninputs:\n  n = 1\n  bad = 1\n" in shown.out
    assert "\nerror:\n  Traceback (most recent call last):\n" in shown.out
    assert "\n  ValueError: \\x1b[31mcannot work on 1\n" in shown.out
    assert "\x1b" not in shown.out
    state = cli.json("states", "show", failure["id"], *of_run)
    assert state["error"].endswith("ValueError: \x1b[31mcannot work on 1")
    fails(cli("states", "show", place.failed, "--run", place.failed), 6, "an id with dashes is a run's")
    fails(cli("runs", "show", failure["id"]), 6, "an id of 24 digits is a state's")


def test_a_state_is_retried_and_its_attempts_are_shown(cli: Cli, place: Place) -> None:
    run_id = cli("trigger", "fan", "--follow", "--store", "bad=1").out.split()[0]
    (failure,) = cli.json("runs", "show", run_id)["failed"]
    new = cli("states", "retry", failure["id"], "--fanout-id", "once", code=0)
    fails(cli("states", "retry", failure["id"], "--fanout-id", "once"), 3, "answered 409")
    assert cli("runs", "watch", run_id).code == 1
    reply = cli.json("states", "retry", new.out.strip())
    assert reply["state_id"] == new.out.strip()
    if place.native:
        shown = cli("states", "show", failure["id"])
        attempt = rf"\n  {failure['id']} RETRY_CREATED, first, \S+Z by \S+: ValueError: .+ <- this one"
        assert re.search(attempt, shown.out)
        assert f"\n  {new.out.strip()} RETRY_CREATED, retried by hand, " in shown.out
        again = cli("states", "show", new.out.strip()).out
        assert "\nattempt 2: 1 of 1 since it was retried by hand\n" in again
        assert re.search(r" work +Work +RETRY_CREATED +by hand ", cli("states", "ls", "--run", run_id).out)
        assert " retried by hand\n" in shown.out


def claim_import(place: Place, run_id: str) -> dict[str, Any]:
    """Claim the state of ``Import`` in a run."""
    claim = {"worker_id": "w", "limits": {"Import": 1}, "limit": 1, "run_id": run_id}
    claim["claim_id"] = str(uuid4())
    (state,) = place.running.ask("POST", "/exotrio/v1/namespace/n/claim", claim)["states"]
    return dict(state)


def failed_with_checkpoint(place: Place) -> tuple[str, str]:
    """Let a state fail that has a checkpoint; return its run and its id."""
    send = place.running.ask
    declared = declare("Import", [], ["rows"])
    send("PUT", "/v0/namespace/n/nodes/", {"runtime_name": "r", "nodes": [declared]})
    node = {"node_name": "Import", "namespace": "n", "identifier": "import", "inputs": {}}
    graph = {"nodes": [node], "secrets": {}, "retry_policy": NO_RETRY}
    send("PUT", "/v0/namespace/n/graph/import", graph)
    run_id: str = send("POST", "/v0/namespace/n/graph/import/trigger", {})["run_id"]
    state = claim_import(place, run_id)
    checkpoint = {"number": 7, "value": '{"file": "a.csv", "row": "120"}'}
    errored = {"outcome": "errored", "error": "ValueError: no", "checkpoint": checkpoint}
    send("POST", "/exotrio/v1/namespace/n/outcomes", [item_for(state, **errored)])
    return run_id, str(state["state_id"])


@only_native
def test_a_checkpoint_is_shown_and_a_retry_continues_from_it_unless_told_otherwise(
    cli: Cli, place: Place
) -> None:
    _, state_id = failed_with_checkpoint(place)
    shown = cli("states", "show", state_id, code=0)
    assert re.search(r"\ncheckpoint, stored .+ ago:\n  file = a.csv\n  row = 120\n", shown.out)
    checkpoint = cli.json("states", "show", state_id)["checkpoint"]
    assert (checkpoint["number"], checkpoint["value"]["row"]) == (7, "120")
    retried = cli("states", "retry", state_id, code=0)
    assert re.search("it continues from its checkpoint, stored .+ ago", retried.err)
    new = cli.json("states", "show", retried.out.strip())
    assert new["checkpoint"]["value"] == checkpoint["value"]
    assert cli.json("states", "show", state_id)["checkpoint"] is None
    assert "checkpoint" not in cli("states", "show", state_id).out

    _, state_id = failed_with_checkpoint(place)
    retried = cli("states", "retry", state_id, "--from-beginning", code=0)
    assert retried.err == ""
    assert cli.json("states", "show", retried.out.strip())["checkpoint"] is None

    run_id, _ = failed_with_checkpoint(place)
    assert (
        cli("runs", "retry", run_id).out == f"1 state of run {run_id} will run again (1 from a checkpoint)\n"
    )
    run_id, _ = failed_with_checkpoint(place)
    (new,) = cli.json("runs", "retry", run_id, "--from-beginning")["retried"]
    assert new["from_checkpoint"] is False


@only_native
def test_a_state_that_was_given_back_says_who_had_it(cli: Cli, place: Place) -> None:
    run_id, _ = failed_with_checkpoint(place)
    (new,) = cli.json("runs", "retry", run_id)["retried"]
    state = claim_import(place, run_id)
    shown = cli("states", "show", new["new_state_id"]).out
    assert re.search(r"^claimed: \S+Z by w$", shown, re.MULTILINE)
    beat = item_for(state, running=True, buffered_ms=0)
    body = {"worker_id": "w", "runtime": "r", "phase": "running", "workers": 1, "states": [beat]}
    place.running.ask("POST", "/exotrio/v1/namespace/n/heartbeat", body)
    place.running.ask("POST", "/exotrio/v1/namespace/n/release", {"states": [item_for(state)]})
    shown = cli("states", "show", new["new_state_id"]).out
    assert re.search(r"^last claimed: \S+Z by w\nbegan then: \S+Z$", shown, re.MULTILINE), "no runtime has it"


# -- limits


def test_limits_are_set_shown_and_deleted_and_it_is_said_what_waits_for_them(cli: Cli, place: Place) -> None:
    if not place.native:
        for command in (["ls"], ["show", "l"], ["set", "l", "--at-most", "1"], ["rm", "l"]):
            fails(cli("limits", *command), 3, "speaks only v0", "python -m exotrio server")
        body = json.loads(cli("graph", "show", "fan", "-o", "json").out)
        body["limits"] = [{"name": "l", "at_most": 1}]
        cli.write("limited.json", json.dumps(body))
        end = cli("graph", "apply", "limited.json", "--name", "limited")
        fails(end, 3, "graph 'limited' cannot be stored with limits", "speaks only v0", "remove them; or use")
        return
    for arguments, problem in (
        ([], "give --at-most, or --starts with --period"),
        (["--at-most", "-1"], "at_most: Input should be greater than or equal to 0"),
        (["--at-most", "x"], "'x' is neither a whole number nor 'unlimited'"),
        (["--starts", "5"], "starts and the period belong together"),
        (
            ["--at-most", "unlimited"],
            "limits nothing: give at_most (states at once), or starts with a period",
        ),
    ):
        end = cli("limits", "set", "work", *arguments)
        assert (end.code != 0, problem in end.err) == (True, True), end
    assert "there is no limit 'work'" in cli("limits", "show", "work").err
    assert cli("limits", "set", "work", "--at-most", "0", code=0).out == (
        "limit work: 0 at once (stopped)\nno graph names it\n"
    )
    assert cli("limits", "set", "wrok", "--at-most", "1", code=0).out == (
        "limit wrok: 1 at once\nno graph names it; did you mean 'work'?\n"
    )
    assert cli("limits", "set", "wrok", "--at-most", "2", code=0).out == "limit wrok: 2 at once\n"
    assert cli("limits", "rm", "wrok").code == 0
    mistyped = cli("limits", "set", "work", "--at-most", "1", "-n", "nothere", code=0)
    assert "no node is registered in namespace nothere; there are " in mistyped.err
    assert cli("limits", "rm", "work", "-n", "nothere").code == 0
    cli.write(
        "limited.json",
        json.dumps(
            {
                "name": "limited",
                "nodes": [
                    {
                        "node_name": "Work",
                        "namespace": "n",
                        "identifier": "work",
                        "inputs": {"n": "1", "bad": "none"},
                        "limits": [{"name": "work", "key": "key-${{ store.of }}"}],
                    }
                ],
                "store_config": {"required_keys": ["of"]},
                "secrets": {},
            }
        ),
    )
    assert cli("graph", "apply", "limited.json").code == 0
    run_id = cli("trigger", "limited", "--store", "of=17", code=0).out.strip()
    why = "waits for limit work (key-17): it is 0, which stops all; 0 before it"
    with exotrio("runs", "watch", run_id, "--namespace", "n", cwd=cli.folder, env=place.running.env) as run:
        run.line("work 0/1")
    for command in (["runs", "show", run_id], ["states", "ls", "--run", run_id]):
        assert why in cli(*command).out
    (state,) = cli.json("states", "ls", "--run", run_id)["states"]
    assert why in cli("states", "show", state["id"]).out.splitlines()
    (limit,) = cli.json("limits", "ls")["limits"]
    assert (limit["name"], limit["waiting"], limit["graphs"]) == ("work", 1, ["limited"])
    shown = cli("limits", "show", "work").out
    assert re.search("^set: [^ ]+ by root$", shown, re.MULTILINE)
    assert "named by: limited\nheld by 0 states; 1 waiting\nkeys:\n  key-17: 0 held, 1 waiting\n" in shown
    listed = cli("limits", "ls").out
    assert re.search("^work +0 at once for each key \\(stopped\\) +0 +1 +limited ", listed, re.MULTILINE)
    assert "limit work is 0, which stops all that names it, and 1 state waits" in cli("doctor").out
    assert re.search("^work +0 at once for each key +1$", cli("top", "--once").out, re.MULTILINE)
    fails(cli("limits", "show", "wrok"), 6, "there is no limit 'wrok'; did you mean 'work'?", "has: work")
    (advice,) = re.findall(r"`limits set (.*?)`", cli("doctor").out)
    assert cli("limits", "set", *advice.split(), code=0).out == "limit work: 1 at once for each key\n"
    fails(cli("limits", "rm", "work"), 3, "limit 'work' is named by 1 graph: limited")
    end = cli("limits", "set", "work", "--starts", "500", "--period", "1m", "--at-most", "unlimited", code=0)
    assert end.out == "limit work: 500 starts in 1 min for each key\n"
    assert cli("runs", "watch", run_id, code=0).out.startswith("SUCCESS: 1 state")
    end = cli("limits", "rm", "work", "--force", code=0)
    still = "graphs still name it, and are not limited by it any more: limited"
    assert end.out == f"limit work is deleted; {still}\n"
    assert cli.json("limits", "ls") == {"namespace": "n", "limits": []}
    assert "graph limited names limit work, which was deleted: nothing limits it" in cli("doctor").out
    shown = cli("graph", "show", "limited").out
    assert "\n  work (Work) limited by work\n" in shown
    assert "\nlimit work: it was deleted: nothing limits the states that name it\n" in shown
    fails(
        cli("graph", "apply", "limited.json"),
        3,
        "limited.json: node 'work', limit 'work': there is no limit",
    )
    assert cli("limits", "set", "work", "--at-most", "1", code=0).out == (
        "limit work: 1 at once for each key\nit is made again: states of limited take part again\n"
    )
    cli("limits", "set", "work", "--at-most", "0", code=0)
    cli("trigger", "limited", "--store", "of=17", code=0)
    body = json.loads((cli.folder / "limited.json").read_text())
    del body["nodes"][0]["limits"]
    cli.write("limited.json", json.dumps(body))
    cli("graph", "apply", "limited.json", code=0)
    cli("nodes", "pause", "Work", code=0)
    cli("limits", "rm", "work", "--force", code=0)
    made = cli("limits", "set", "work", "--at-most", "0", code=0).out
    assert "it is new" not in made
    assert made.startswith("limit work: 0 at once")
    assert made.endswith("\nno graph names it\n")
    cli("limits", "rm", "work", "--force", code=0)
    cli("nodes", "resume", "Work", code=0)


# -- nodes


def test_a_paused_node_is_shown_wherever_states_wait_for_it(cli: Cli, place: Place) -> None:
    if not place.native:
        fails(cli("nodes", "pause", "Work"), 3, "speaks only v0", "exotrio server")
        fails(cli("graph", "pause", "fan"), 3, "speaks only v0", "exotrio server")
        return
    fails(cli("nodes", "pause", "Wrok"), 6, "there is no node 'Wrok'; did you mean 'Work'?")
    fails(cli("nodes", "resume", "Wrok"), 6, "did you mean 'Work'?")
    end = cli("nodes", "pause", "Split")
    assert "node Split is paused since 20" in end.out
    assert "nodes resume Split\n" in end.out
    since = cli.json("nodes", "pause", "Split")["paused_at"]
    try:
        run_id = cli("trigger", "fan").out.strip()
        assert f"split waits: node Split is paused since {since}" in cli("runs", "show", run_id).out
        assert f"waits: node Split is paused since {since}" in cli("states", "ls", "--run", run_id).out
        (state,) = cli.json("states", "ls", "--run", run_id)["states"]
        assert f"waits: node Split is paused since {since}" in cli("states", "show", state["id"]).out
        with exotrio(
            "runs", "watch", run_id, "--namespace", "n", cwd=cli.folder, env=place.running.env
        ) as watching:
            watching.line(r"split 0/1 \(node paused\)")
        row = next(line for line in cli("nodes", "ls").out.splitlines() if line.startswith("Split"))
        assert row.endswith(since)
        assert re.search("^Split .* paused$", cli("top", "--once").out, re.MULTILINE)
        # Other tests have runs that wait, too.
        assert re.search(
            rf"node Split is paused since {since}, and \d+ states? waits? for", cli("doctor").out
        )
    finally:
        assert cli("nodes", "resume", "Split").out == "node Split is not paused any more\n"
    assert cli("runs", "watch", run_id).code == 0
    assert "paused" not in cli("nodes", "ls").out


@only_native
def test_a_paused_schedule_is_shown_with_its_graph(cli: Cli) -> None:
    trigger = {"type": "CRON", "value": {"expression": "0 3 1 1 *"}}
    shown = cli.json("graph", "show", "fan")
    cli.write("timed.json", json.dumps({**shown, "name": "timed", "triggers": [trigger]}))
    assert cli("graph", "apply", "timed.json").code == 0
    fails(cli("graph", "pause", "tmied"), 6, "there is no graph 'tmied'; did you mean 'timed'?")
    end = cli("graph", "pause", "timed")
    assert "the schedule of graph timed is paused since 20" in end.out
    since = cli.json("graph", "pause", "timed")["paused_at"]
    assert f"schedule: paused since {since}" in cli("graph", "show", "timed").out
    assert "0 3 1 1 * (paused)" in cli("graph", "ls").out
    assert f"the schedule of graph timed is paused since {since}" in cli("doctor").out
    assert cli.json("graph", "resume", "timed")["paused_at"] is None
    assert "paused" not in cli("graph", "show", "timed").out


def test_a_run_whose_graph_has_nodes_of_another_namespace_is_shown_whole(cli: Cli, place: Place) -> None:
    cli.write("far.py", NODES.replace('namespace="n"', 'namespace="far"'))
    added = NODES.replace('"fan"', '"across"').replace("add(Work,", 'add(Work, namespace="far",')
    with exotrio("worker", "far.py", cwd=cli.folder, env=place.running.env) as worker:
        worker.line("running|RUNNING|registered")
        assert cli("graph", "apply", cli.write("across.py", added)).code == 0
        end = cli("trigger", "across", "--follow", "--store", "bad=1", "-o", "json", code=1)
        result = json.loads(end.out)
        assert result["outputs"] == [{"identifier": "work", "outputs": {"text": "<0>"}}]
        (failure,) = result["errors"]
        assert failure["error"].endswith("cannot work on 1")
        assert len(cli.json("states", "ls", "--run", result["run_id"])["states"]) == 4
        (failed,) = cli.json("runs", "show", result["run_id"])["failed"]
        assert failed["id"] == failure["state_id"]
        of_run = [] if place.native else ["--run", result["run_id"]]
        assert cli.json("states", "show", failed["id"], *of_run)["inputs"] == {"n": "1", "bad": "1"}
        assert cli("states", "retry", failed["id"]).code == 0
        assert cli("runs", "watch", result["run_id"]).code == 1


def test_nodes_are_listed_with_their_fields_and_secrets_by_name(cli: Cli) -> None:
    listed = cli("nodes", "ls", code=0)
    rows = {line.split()[0]: line.split()[1:] for line in listed.out.splitlines()}
    assert rows["Work"][:4] == ["r", "n,", "bad", "text"]
    assert rows["Lock"][:2] == ["r", "token"]
    nodes = {node["name"]: node for node in cli.json("nodes", "ls")["nodes"]}
    # Another test registers one more.
    assert [name for name in nodes if name != "Import"] == ["Lock", "Split", "Work"]
    assert nodes["Lock"]["secrets"] == ["token"]
