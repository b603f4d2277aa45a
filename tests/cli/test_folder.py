"""Commands without a state manager: they use the database of the folder, also while it is served."""

from __future__ import annotations

import os
import re
import signal
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

import httpx
import pytest

from exotrio.manager.store.sqlite.database import Ownership
from tests.support.commands import NODES, Cli, fails
from tests.support.pages import GUIDE, block
from tests.support.postgres import database
from tests.support.processes import EXAMPLES, exotrio, link_in

OTHER = NODES.replace('namespace="n"', 'namespace="other"').replace('"fan"', '"fan2"')


@pytest.fixture
def cli(bare: Cli) -> Cli:
    """Commands in a folder in which a graph ran, and nothing is configured."""
    bare.write("nodes.py", NODES)
    bare("run", "nodes.py", code=0)
    return bare


def only_run(cli: Cli, *options: str) -> str:
    (run,) = cli.json("runs", "ls", *options)["runs"]
    return str(run["run_id"])


def test_commands_work_on_the_database_of_the_folder_without_settings(cli: Cli) -> None:
    run_id = only_run(cli)
    split, other = cli.json("states", "ls", "--place", "split", "--run", run_id, "--outputs")["states"]
    assert sorted([split["outputs"]["n"], other["outputs"]["n"]]) == ["0", "1"]
    assert "  text = <1>\n" in cli("states", "ls", "--outputs").out
    for command in (
        ["runs", "show", run_id],
        ["runs", "watch", run_id],
        ["states", "show", split["id"]],
        ["states", "show", split["id"][8:].lstrip("0").upper()],
        ["graph", "ls"],
        ["graph", "show", "fan"],
        ["runtimes", "ls"],
        ["top"],
    ):
        assert cli(*command).code == 0, command
    assert {node["name"] for node in cli.json("nodes", "ls")["nodes"]} == {"Split", "Work", "Lock"}
    assert cli("export", run_id[:8]).code == cli("backup", "copy.db").code == 0
    assert only_run(cli, "--db", "copy.db") == run_id
    assert cli("graph", "apply", "nodes.py").code == cli("nodes", "pause", "Work").code == 0
    assert cli.json("nodes", "ls")["nodes"][-1]["paused_at"]
    fails(cli("runtimes", "drain", "r"), 6, "there is no runtime 'r'")


def test_a_state_shows_what_its_node_logged_and_printed(cli: Cli) -> None:
    talks = """import logging
        print("begun", end=" ")
        print("with", self.inputs.n)
        logging.getLogger("shop").warning("no price\\nat all")
        return self.Outputs(text="""
    head, body = talks.split("\n", 1)
    cli.write("talks.py", f"{head}\n{NODES}".replace("        return self.Outputs(text=", body))
    end = cli("run", "talks.py")
    assert (end.code, end.out.count("begun with 1\n")) == (0, 1)
    (state, _) = cli.json("states", "ls", "--limit", "2")["states"]
    text = cli("states", "show", state["id"]).out
    at = r"  \d+-\d+-\d+T\d+:\d+:\S+Z"
    message = rf"logged and printed:\n{at} stdout: begun with [01]\n{at} WARNING shop: no price\n    at all\n"
    assert re.search(message, text)
    assert cli.json("states", "show", state["id"])["logs"][1]["level"] == "WARNING"


def test_states_show_which_branches_were_taken_and_why(bare: Cli) -> None:
    bare.write("branches.py", (EXAMPLES / "branches.py").read_text())
    assert bare("run", "branches.py", "--store", "order=gift card").code == 0
    (check,) = bare.json("states", "ls", "--node", "Check")["states"]
    assert bare("states", "show", check["id"]).out.split("branches:\n")[1].splitlines()[:3] == [
        "  ship not taken: check.kind == \"book\", and it was 'gift'",
        "  send not taken: check.kind == \"ebook\", and it was 'gift'",
        "  refuse taken: no other branch was taken",
    ]
    (refuse,) = bare.json("states", "ls", "--node", "Refuse")["states"]
    assert "\nbranch: no other branch was taken\n" in bare("states", "show", refuse["id"]).out
    run = bare("runs", "show", check["run_id"]).out
    assert "follows check, and check.kind == \"book\" was not true: it was 'gift'" in run


FAILING = """from exotrio import BaseNode, Graph, RetryPolicyModel, Runtime


class Charge(BaseNode):
    async def execute(self) -> None:
        raise ValueError("no stock")


class Tell(BaseNode):
    async def execute(self) -> None:
        print("told")


alert = Graph("alert", namespace="n")
alert.add(Tell)
graph = Graph("order", namespace="n", on_failure="alert", retry_policy=RetryPolicyModel(max_retries=0))
graph.add(Charge)
runtime = Runtime("n", "r", [Charge, Tell])
"""


def test_run_says_what_executes_the_run_that_a_failure_starts(bare: Cli) -> None:
    bare.write("orders.py", FAILING)
    assert "alert" not in bare("run", "orders.py", "--graph", "alert", code=0).err.partition("\n")[2]
    end = bare("run", "orders.py", "--graph", "order", "--db", "a.db", code=1)
    assert "it starts a run of graph 'alert', executed by:\n" in end.err
    assert end.err.endswith("-m exotrio dev orders.py --db a.db\n")
    run_id = bare.json("runs", "ls", "--db", "a.db", "--graph", "order")["runs"][0]["run_id"]
    continued = bare("run", "orders.py", "--db", "a.db", "--resume", run_id, code=1)
    assert "it starts a run" not in continued.err, "it did before"


def test_a_run_that_no_runtime_executes_is_not_waited_for(cli: Cli) -> None:
    end = cli("trigger", "fan")
    run_id = end.out.strip()
    assert f"no runtime works on .exotrio/state.db; continue the run with: {sys.executable}" in end.err
    assert end.err.endswith(f"-m exotrio run FILE --resume {run_id}\n")
    fails(cli("runs", "watch", run_id), 1, "nothing executes it", f"run FILE --resume {run_id}")
    end = cli("trigger", "fan", "--follow")
    assert (end.code, "nothing executes it" in end.err) == (1, True), end
    with closing(sqlite3.connect(cli.folder / ".exotrio/state.db")) as database, database:
        database.execute("UPDATE runs SET created_at = created_at - 7200000")
    for command in (("run", "nodes.py", "--resume", run_id[:6]), ("runs", "watch", run_id)):
        end = cli(*command, code=0)
        assert re.search(r"SUCCESS: \d+ states, ended 2 h( \d+ s)? after its start \(run ", end.out), end


JOINED = """
from pathlib import Path

from exotrio import BaseNode, Graph, RetryPolicyModel, Runtime
from pydantic import BaseModel


class Number(BaseModel):
    n: int


class Numbers(BaseNode):
    class Outputs(Number): ...

    async def execute(self):
        return [self.Outputs(n=n) for n in range(6)]


class Half(BaseNode):
    class Inputs(Number): ...

    class Outputs(Number): ...

    async def execute(self):
        if self.inputs.n == 3 and not Path("fixed").exists():
            raise ValueError("not fixed yet")
        return self.Outputs(n=self.inputs.n)


class Total(BaseNode):
    class Inputs(BaseModel):
        numbers: list[int]

    class Outputs(Number): ...

    async def execute(self):
        return self.Outputs(n=sum(self.inputs.numbers))


class Report(BaseNode):
    class Inputs(Number): ...

    class Outputs(Number): ...

    async def execute(self):
        return self.Outputs(n=self.inputs.n)


class Begin(BaseNode):
    async def execute(self):
        return None


graph = Graph("joined", namespace="n", retry_policy=RetryPolicyModel(max_retries=0))
begin = graph.add(Begin)
numbers = graph.add(Numbers, after=begin)
half = graph.add(Half, n=numbers.n)
total = graph.add(Total, unites=begin, strategy="ALL_DONE", numbers=half.every.n)
graph.add(Report, n=total.n)
runtime = Runtime(namespace="n", name="r", nodes=[Begin, Numbers, Half, Total, Report])
"""


def test_a_join_runs_again_with_what_is_retried_and_the_total_is_right(bare: Cli) -> None:
    bare.write("joined.py", JOINED)
    assert "n: 12" in bare("run", "joined.py", code=1).out
    run_id = only_run(bare)
    (failure,) = bare.json("runs", "show", run_id)["failed"]
    note = "total and what follows run again"
    assert f"if it is retried, {note}\n" in bare("states", "show", failure["id"]).out
    end = bare("states", "retry", failure["id"], code=0)
    assert f"then {note} with the new values\n" in end.err
    continued = bare("run", "joined.py", "--resume", run_id, code=1)
    assert "n: 12" in continued.out
    assert "had failed before" not in continued.err
    continued = bare("run", "joined.py", "--resume", run_id, code=1)
    how = continued.err[
        continued.err.index("the run had failed before, and nothing ran now; to run what failed") :
    ]
    assert f" runs retry {run_id} --namespace n\n" in how
    assert how.endswith(f" run joined.py --resume {run_id}\n")
    assert bare.json("states", "show", end.out.strip())["runs_again"] == ["total"]
    bare.write("fixed", "")
    end = bare("runs", "retry", run_id, code=0)
    expected = block(GUIDE, "then, with the new values").code
    assert end.out == re.sub(r"[0-9a-f-]{36}", run_id, expected)
    end = bare("run", "joined.py", "--resume", run_id, code=0)
    assert "n: 15" in end.out
    assert "runs retry" not in end.err
    assert "n: 12" not in end.out
    states = bare.json("states", "ls", "--run", run_id, "--place", "report", "--outputs")["states"]
    assert sorted(state["outputs"]["n"] for state in states) == ["12", "12", "15"]


def test_a_run_with_a_key_is_continued_or_shown(cli: Cli) -> None:
    file = cli.write("inputs.json", '{"count": "3"}')
    run_id = cli("trigger", "fan", "--run-key", "order 1", "--inputs-file", file).out.strip()
    command = ("run", "nodes.py", "--run-key", "order 1", "--inputs-file", file)
    for _ in range(2):
        end = cli(*command, code=0)
        assert f"run {run_id} of graph 'fan', which has the key 'order 1' and existed already\n" in end.err
        assert f"(run {run_id}, key order 1)" in end.out
    assert len(cli.json("states", "ls", "--run", run_id, "--place", "split")["states"]) == 3
    fails(
        cli(*command[:-1], cli.write("other.json", "{}")), 3, f"the key 'order 1' belongs to the run {run_id}"
    )
    fails(cli("run", "nodes.py", "--resume", run_id, "--run-key", "k"), 2, "takes no --graph, --run-key,")


def test_a_run_with_a_key_that_waits_for_missing_nodes_is_refused(cli: Cli) -> None:
    run_id = cli("trigger", "fan", "--run-key", "order 2").out.strip()
    source = (cli.folder / "nodes.py").read_text()
    cli.write("renamed.py", source.replace("Split", "Divide"))
    end = cli("run", "renamed.py", "--run-key", "order 2", code=3)
    assert f"error: run {run_id} waits for nodes that the Runtime in renamed.py lacks" in end.err
    assert "not finished earlier" not in end.err


def test_a_pruned_state_is_listed_as_pruned_and_not_as_a_success(cli: Cli) -> None:
    assert "pruned" not in cli("runs", "ls").out
    prunes = 'if self.inputs.n == "0":\n            raise __import__("exotrio").PruneSignal\n        return'
    cli.write("pruning.py", OTHER.replace("return self.Outputs(text", f"{prunes} self.Outputs(text"))
    assert cli("run", "pruning.py").code == 0
    head, row, *_ = cli("runs", "ls", "-n", "other").out.splitlines()
    assert "  success  errored  open  " in head
    assert head.endswith("  pruned")
    assert (row.split()[3], row.split()[-1]) == ("3", "1")


def test_the_namespace_of_the_newest_run_is_used_if_there_are_several(cli: Cli) -> None:
    assert cli("runs", "ls").err == ""
    cli.write("other.py", OTHER)
    assert cli("run", "other.py").code == 0
    end = cli("runs", "ls")
    assert "1 run in namespace other\n" in end.out
    assert end.err == "namespace other, that of the newest run; -n or EXOSPHERE_NAMESPACE names another: n\n"
    assert "1 run in namespace n\n" in cli("runs", "ls", "-n", "n").out
    assert cli("run", "nodes.py").code == 0
    runs = cli("runs", "ls").out
    assert "2 runs in namespace n\n" in runs
    assert "status   success  errored  open" in runs


def test_a_run_prints_the_error_of_a_failed_state_once(cli: Cli) -> None:
    end = cli("run", "nodes.py", "--store", "bad=1", code=1)
    assert (end.out.count("cannot work on 1"), end.err.count("cannot work on")) == (1, 0), end


def test_doctor_examines_the_database_of_the_folder_and_counts_its_notes(cli: Cli) -> None:
    cli("run", "nodes.py", "--store", "bad=1", code=1)
    cli.write("other.py", OTHER)
    for options in ([], ["--db", ".exotrio/state.db"]):
        report = cli.json("doctor", *options)
        assert report["examined"] == ["the settings", "the state manager", "namespace n"]
        notes = [finding["what"] for finding in report["findings"]]
        assert "1 state failed for good within 24 h" in notes
        last = cli("doctor", *options, code=0).out.splitlines()[-1]
        assert last == (
            "examined the settings, the state manager and namespace n: nothing urgent,"
            f" {len(notes)} note{'' if len(notes) == 1 else 's'}"
        )
    cli("run", "other.py", code=0)
    report = cli.json("doctor")
    assert report["namespace"] == "other"
    assert "namespace other, that of the newest run; -n" in str(report["findings"])
    assert cli.json("doctor", "-n", "n")["namespace"] == "n"
    assert (
        "! nothing is registered in namespace m\n    there are n, other;"
        in cli("doctor", "-n", "m", code=1).out
    )
    fails(cli("doctor", "--db", "x.db", "--uri", "http://x"), 2, "--db needs no state manager")
    assert "! there is no database gone.db\n    run a graph" in cli("doctor", "--db", "gone.db", code=2).out


@pytest.mark.parametrize("env", [{}, {"STATE_MANAGER_SECRET": "a-key-of-enough-length"}], ids=len)
def test_a_served_database_is_used_through_the_process_that_has_it_open(
    cli: Cli, env: dict[str, str]
) -> None:
    cli.set(**env)
    before = only_run(cli)
    with exotrio("server", "--port", "0", cwd=cli.folder, env=env) as process:
        process.line("serving")
        assert only_run(cli) == only_run(cli, "--db", ".exotrio/state.db") == before
        end = cli("trigger", "fan")
        assert (end.code, end.err) == (0, "")  # it may have runtimes
        assert cli("runs", "cancel", end.out.strip()).code == 0
    assert cli.json("runs", "show", end.out.strip())["cancelled_at"]


def test_a_database_that_is_in_use_and_not_served_is_an_error(cli: Cli) -> None:
    ownership = Ownership(cli.folder / ".exotrio/state.db")
    fails(cli("runs", "ls"), 7, f"in use by process {os.getpid()}\n", "wait until", "run --serve")
    end = cli("doctor", code=7)
    assert f"in use by process {os.getpid()}\n" in end.out
    assert "\nexamined only the settings: 1 thing needs attention, " in end.out
    ownership.release()
    assert cli("runs", "ls").code == 0


def test_a_folder_without_a_database_is_an_error(bare: Cli) -> None:
    end = bare("runs", "ls")
    fails(end, 2, "no state manager is given", "no database .exotrio/state.db", "run FILE", "--db")
    assert list(bare.folder.iterdir()) == []
    fails(bare("runs", "ls", "--db", "gone.db"), 2, "there is no database gone.db", "run FILE")
    (bare.folder / ".exotrio").mkdir(mode=0o700)
    (bare.folder / ".exotrio/state.db").touch(0o600)
    fails(bare("runs", "ls"), 2, ".exotrio/state.db has no namespace: nothing was ever run there")


def test_the_postgresql_named_in_the_environment_is_used(bare: Cli) -> None:
    bare.write("nodes.py", NODES)
    with database() as postgres:
        bare.set(EXOTRIO_DATABASE_URL=postgres.url)
        bare("run", "nodes.py", code=0)
        bare("runs", "watch", only_run(bare), code=0)
        assert bare("trigger", "fan").err == ""  # runtimes elsewhere may work on it


READING_BROWSER = """
import re, sys, urllib.parse
page = open(urllib.parse.unquote(sys.argv[1].removeprefix("file://"))).read()
open("read", "w").write(re.search(r'url=(http[^"]+)"', page)[1])
"""


def test_the_dashboard_of_the_folder_is_opened_signed_in_until_ctrl_c(
    cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    cli.write("browser.py", "import sys; print('opened', sys.argv[1])")
    cli.set(BROWSER=f"{sys.executable} {cli.folder / 'browser.py'} %s")
    run_id = only_run(cli)
    with exotrio("ui", cwd=cli.folder, env={"BROWSER": os.environ["BROWSER"]}) as process:
        page = process.line(r"^opened file://(\S+)")[1]
        link = link_in(page)
        url = link.partition("/sign-in")[0]
        with httpx.Client(base_url=url, trust_env=False, follow_redirects=True) as browser:
            assert "Sign in" in browser.get(f"/ns/n/runs/{run_id}").text
            assert browser.get(link).status_code == 200
            assert "Timeline" in browser.get(f"/ns/n/runs/{run_id}").text
        assert only_run(cli) == run_id  # commands ask it meanwhile
        end = cli("doctor")
        assert f"state manager {url}, which serves .exotrio/state.db\n" in end.out
        assert "exotrio, native" in end.out
        with exotrio("worker", "nodes.py", cwd=cli.folder):  # and what names no state manager finds it
            cli("trigger", "fan", "--follow", code=0)
        end = cli("ui", "--no-open")
        assert (end.code, end.out) == (0, ""), end
        (page,) = re.findall(rf"^dashboard, to be .*: (/\S+) \(it leads to {url}\)\n$", end.err)
        with httpx.Client(base_url=url, trust_env=False, follow_redirects=True) as browser:
            assert "You are signed in" in browser.get(link_in(page)).text
        cli.write("browser.py", READING_BROWSER)
        end = cli("ui", code=0)
        link_of_browser = (cli.folder / "read").read_text()
        assert link_of_browser.startswith(f"{url}/sign-in?link=")
        assert link_of_browser not in end.err
        with httpx.Client(base_url=url, trust_env=False, follow_redirects=True) as browser:
            assert browser.get(link_of_browser).status_code == 200
            assert "Timeline" in browser.get(f"/ns/n/runs/{run_id}").text
        end = process.stop(signal.SIGINT)
    assert (end.code, "link=" in end.err, Path(page).exists()) == (0, False, False), end
    fails(
        cli("worker", "nodes.py"), 2, "no state manager is named", "python -m exotrio server, in this folder"
    )
    fails(cli("ui", "--db", "gone.db"), 2, "there is no database gone.db", "run FILE")
