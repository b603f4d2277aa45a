"""``rehearse``: real processes that get real signals, and what it reports of their runs."""

from __future__ import annotations

import json
import os
import re
import signal
import sqlite3
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
import trio
import trio.testing

from exotrio.cli.dev.announcer import FirstRun
from exotrio.cli.rehearsal import lane, session
from exotrio.cli.rehearsal.lane import Lane
from exotrio.cli.rehearsal.report import Report
from exotrio.cli.rehearsal.session import Session
from exotrio.cli.rehearsal.trial import Fault, Journal, Plan, Trial
from exotrio.client import RunStatus
from exotrio.monitoring import CheckpointStored, StateBegan, StateEnded
from exotrio.testing._comparison import Ending, Usual
from tests.support.commands import Cli, fails
from tests.support.helpers import eventually
from tests.support.processes import exotrio, until_gone

LOCKED = """
import uuid
from pathlib import Path
import trio
from pydantic import BaseModel
from exotrio import BaseNode, Graph, RetryPolicyModel, Runtime


class Split(BaseNode):
    class Outputs(BaseModel):
        n: int
        ticket: str

    async def execute(self):
        return [self.Outputs(n=n, ticket=uuid.uuid4().hex) for n in range(1)]


class Work(BaseNode):
    class Inputs(BaseModel):
        n: int

    class Outputs(BaseModel):
        n: int

    concurrency = 1

    async def execute(self):
        lock = Path(f"locked-{self.run_id}")
        lock.touch(exist_ok=False)
        try:
            await trio.sleep(1.5)
        finally:
            lock.rename(f"unlocked-{self.run_id}")
        return self.Outputs(n=self.inputs.n)


graph = Graph("locked", namespace="n", retry_policy=RetryPolicyModel(max_retries=0))
split = graph.add(Split)
graph.add(Work, n=split.n)
runtime = Runtime(namespace="n", name="r", nodes=[Split, Work], workers=1)
"""
STEPS = """
import trio
from pydantic import BaseModel
from exotrio import BaseNode, Graph, Runtime


class Begin(BaseNode):
    class Inputs(BaseModel):
        name: str

    class Outputs(BaseModel):
        text: str
        by: str

    async def execute(self):
        return self.Outputs(text=f"hello {self.inputs.name}", by="old")


class Work(BaseNode):
    class Inputs(BaseModel):
        text: str

    class Outputs(BaseModel):
        label: str

    async def execute(self):
        await trio.sleep(1)
        return self.Outputs(label=f"old {self.inputs.text}")


graph = Graph("steps", namespace="n")
begin = graph.add(Begin, name="Ada")
work = graph.add(Work, text=begin.text)
runtime = Runtime(namespace="n", name="r", nodes=[Begin, Work])
"""
GREETING = """
import gc

from pydantic import BaseModel
from exotrio import BaseNode, Graph, Runtime


class Greet(BaseNode):
    class Outputs(BaseModel):
        text: str

    async def execute(self):
        print(f"printed by a node, with {gc.get_freeze_count()} objects frozen")
        return self.Outputs(text="hello")


graph = Graph("greeting", namespace="n")
graph.add(Greet)
runtime = Runtime(namespace="n", name="r", nodes=[Greet])
"""
SEED = "583759"  # with it, each fault comes after a quarter of the time that a run takes


@pytest.fixture(autouse=True)
def two_lanes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each lane more starts two more processes of the user's code."""
    monkeypatch.setattr(session, "LANES", 2)


def count_runs_from(monkeypatch: pytest.MonkeyPatch, has_begun: Callable[[Lane, str], bool]) -> None:
    """Let the time until a fault be counted from when the node that it is to hit has begun."""
    trigger = Lane._trigger

    async def trigger_and_wait(lane: Lane) -> tuple[str, float]:
        run_id, _ = await trigger(lane)

        async def begun() -> None:
            assert has_begun(lane, run_id)

        await eventually(begun)
        return run_id, trio.current_time()

    monkeypatch.setattr(Lane, "_trigger", trigger_and_wait)


def last_node_has_begun(lane: Lane, run_id: str) -> bool:
    assert lane._process is not None
    return any(each.node in ("Import", "Work") for each in lane._process.journal.executions)


def test_a_lock_that_outlives_a_killed_process_is_found(bare: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    count_runs_from(monkeypatch, lambda lane, run_id: any(bare.folder.glob(f"*locked-{run_id}")))
    bare.write("locked.py", LOCKED)
    end = bare("rehearse", "locked.py", "--times", "4", "--seed", SEED, "-o", "json", code=1)
    report = json.loads(end.out)
    trials = {each["number"]: each for each in report["trials"]}
    assert {number: each["signal"] for number, each in trials.items()} == {
        1: "SIGTERM",
        2: "SIGTERM twice",
        3: "SIGKILL",
        4: "SIGSTOP",
    }
    # Cancelled nodes clean up, and run again.
    assert trials[1]["problems"] == trials[2]["problems"] == []
    assert trials[1]["exit_seconds"] < report["max_exit_seconds"]
    for number in (3, 4):
        assert "the run ended as FAILED: work: FileExistsError" in str(trials[number]["problems"]), trials
        assert trials[number]["ran_again"] == {"Work": 1}
        assert trials[number]["cut_nodes"] == {"Work": 1}
        assert trials[number]["cut"] == trials[number]["states_repeated"] == 1
    assert report["not_compared"] == ["split.ticket"]


LONG = """
import sqlite3
from pathlib import Path

import trio
from pydantic import BaseModel
from exotrio import BaseNode, Graph, HandOver, Runtime

DATABASE = Path(__file__).with_name("orders.db")


class Import(BaseNode):
    class Inputs(BaseModel):
        rows: int

    class Checkpoint(BaseModel):
        row: int = 0
        total: int = 0

    class Outputs(BaseModel):
        total: int

    async def execute(self) -> Outputs:
        with sqlite3.connect(DATABASE, timeout=10) as database:
            database.execute("CREATE TABLE IF NOT EXISTS orders (row INTEGER PRIMARY KEY, amount INTEGER)")
        total = self.checkpoint.total
        for row in range(self.checkpoint.row, self.inputs.rows):
            await trio.sleep(0.1)
            with sqlite3.connect(DATABASE, timeout=10) as database:
                database.execute("INSERT OR REPLACE INTO orders VALUES (?, ?)", (row, row * row))
            total += row * row
            self.checkpoint = self.Checkpoint(row=row + 1, total=total)
            if self.stopping:
                raise HandOver()
        return self.Outputs(total=total)


graph = Graph("import", namespace="shop")
orders = graph.add(Import, rows="15")
runtime = Runtime(namespace="shop", name="imports", nodes=[Import])
"""


def test_a_long_node_as_the_guide_writes_it_survives_a_rehearsal(
    bare: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    count_runs_from(monkeypatch, last_node_has_begun)
    assert len(LONG.strip().splitlines()) <= 40
    bare.write("imports.py", LONG)
    report = json.loads(
        bare("rehearse", "imports.py", "--times", "3", "--seed", SEED, "-o", "json", code=0).out
    )
    trials = {each["signal"]: each for each in report["trials"]}
    # Handed over: nothing of what it had done is done again, and no effect happens twice.
    assert trials["SIGTERM"]["cut"] == trials["SIGTERM"]["seconds_repeated"] == 0
    assert trials["SIGTERM"]["ran_again"] == {}
    assert trials["SIGKILL"]["ran_again"] == {"Import": 1}
    database = sqlite3.connect("orders.db")
    assert database.execute("SELECT count(*), sum(amount) FROM orders").fetchone() == (15, 1015)
    database.close()


def test_an_update_is_rehearsed_and_the_versions_of_the_outputs_are_told_apart(
    bare: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    count_runs_from(monkeypatch, last_node_has_begun)
    monkeypatch.setattr(session, "LANES", 1)  # so that the old code runs again after the new code
    writes = 'with open("ends", "a") as ends:\n            ends.write(f"{self.run_id} old\\n")\n        '
    steps = STEPS.replace("return self.Outputs", f"{writes}return self.Outputs")
    bare.write("old.py", steps)
    bare.write("new.py", steps.replace("old", "new"))
    arguments = ["rehearse", "old.py", "--successor", "new.py", "--times", "2", "--seed", SEED]
    report = json.loads(bare(*arguments, "-o", "json").out)
    assert report["changed_outputs"] == ["begin.by", "work.label"]
    assert report["breaking_changes"] == []
    # Work ends within the grace after one SIGTERM, and is cancelled by two: then new code runs it.
    codes: dict[str, set[str]] = {}
    for run, code in map(str.split, (bare.folder / "ends").read_text().splitlines()):
        codes.setdefault(run, set()).add(code)
    assert [*codes.values()] == [{"old"}, {"old"}, {"new"}, {"new"}, {"old"}, {"old", "new"}]
    assert {each["signal"]: each["version"] for each in report["trials"]} == {
        "SIGTERM": "old",
        "SIGTERM twice": "mixed",
    }


def test_an_update_that_breaks_runs_in_progress_is_found_and_named(bare: Cli) -> None:
    bare.write("old.py", STEPS.replace("sleep(1)", "sleep(0.3)"))
    bare.write(
        "new.py",
        STEPS.replace("sleep(1)", "sleep(0)")
        .replace("Work", "Do")
        .replace("name: str", "first: str")
        .replace("inputs.name", "inputs.first")
        .replace('name="Ada"', 'first="Ada"'),
    )
    arguments = ["rehearse", "old.py", "--successor", "new.py", "--times", "1", "--seed", SEED]
    end = bare(*arguments, "-i", "name=Bob", code=1)
    assert "outputs are not compared: the new code's graph takes other values" in end.err
    assert (
        "  Begin.Inputs.first (old code: name: a text; new code: a text): runs of the old code have no"
        in end.out
    )
    assert "now 0 runs" in end.err  # they would wait for Work
    assert "  Work: the new code has no such class, so states of 'work' wait without a limit" in end.out

    bare.write("new.py", STEPS.replace('namespace="n"', 'namespace="m"'))
    fails(bare(*arguments), 2, "namespace 'm'", "'n'")


def test_ctrl_c_ends_a_rehearsal_and_leaves_no_process(tmp_path: Path) -> None:
    (tmp_path / "greeting.py").write_text(GREETING, "utf-8")
    with exotrio("rehearse", "greeting.py", cwd=tmp_path) as rehearsal:
        rehearsal.line("without a fault: SUCCESS")
        children = Path(f"/proc/{rehearsal.pid}/task/{rehearsal.pid}/children").read_text().split()
        assert children
        end = rehearsal.stop(signal.SIGINT, code=130)
        assert end.err.splitlines()[-1] == "interrupted; nothing is kept"
        until_gone(*map(int, children))


HANGING = """
import time
from pathlib import Path
from exotrio import BaseNode, Graph, Runtime


class Work(BaseNode):
    async def execute(self):
        if Path(__file__).with_name("hang").exists():
            time.sleep(1_000)


graph = Graph("hanging", namespace="n")
graph.add(Work)
runtime = Runtime(namespace="n", name="r", nodes=[Work])
"""


def test_a_node_that_hangs_breaks_its_own_run_and_not_the_next_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lane, "LEASE_TTL", 0.5)
    target, hang = tmp_path / "hanging.py", tmp_path / "hang"
    target.write_text(HANGING, "utf-8")
    killed = Plan(number=1, fault=Fault.KILL, moment=0.5, pause=0.0)
    stopped = Plan(number=2, fault=Fault.TERM, moment=0.5, pause=0.0)

    async def main() -> None:
        tried = Lane(
            number=1,
            target=str(target),
            successor=str(target),
            first_run=FirstRun(None, {}, {}),
            arguments=[],
            folder=tmp_path,
            verbose=0,
            usual=Usual(ending=Ending(status=RunStatus.SUCCESS, outputs={"work": [{}]})),
            seconds=0.2,
        )
        async with tried.opened():
            hang.touch()
            max_exit, tried.max_exit = tried.max_exit, 0.0
            with monkeypatch.context() as patch:
                patch.setattr(lane, "MARGIN", 0.5)
                (problem,) = (await tried.make(killed)).problems
            assert problem.startswith("the run did not end in ")
            hang.unlink()
            tried.max_exit = max_exit
            assert (await tried.make(stopped)).problems == []

    trio.run(main)


def test_a_third_ctrl_c_leaves_no_folder_either(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    rehearsal = Session(
        target="none.py",
        successor=None,
        first_run=FirstRun(None, {}, {}),
        times=1,
        only=None,
        seed=1,
        form="table",
        arguments=[],
        verbose=0,
    )

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(rehearsal.main)
            await trio.testing.wait_all_tasks_blocked()
            assert os.listdir(tmp_path)
            rehearsal.exiting()
            assert os.listdir(tmp_path) == []
            nursery.cancel_scope.cancel()

    trio.run(main)


def test_one_trial_can_be_made_again_and_what_nodes_print_is_not_in_its_report(tmp_path: Path) -> None:
    (tmp_path / "greeting.py").write_text(GREETING, "utf-8")
    with exotrio("rehearse", "greeting.py", "--only", "3", "-o", "json", cwd=tmp_path) as rehearsal:
        end = rehearsal.wait(code=0)
    report = json.loads(end.out)
    assert report["graph"] == "greeting"
    assert [(each["number"], each["signal"]) for each in report["trials"]] == [(3, "SIGKILL")]
    printed = re.search(r"printed by a node, with (\d+) objects frozen", end.err)
    assert printed
    assert int(printed[1]) > 10_000, "what is imported is not searched for garbage"


def test_without_a_temporary_folder_an_error_says_what_to_do(
    bare: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(Path("missing").absolute()))
    bare.write("greeting.py", GREETING)
    fails(bare("rehearse", "greeting.py"), 2, "no temporary folder can be made", "TMPDIR")


def test_what_cannot_be_rehearsed_is_said(bare: Cli) -> None:
    fails(bare("rehearse", "missing.py"), 3, "missing.py")
    bare.write("failing.py", LOCKED.replace("await trio.sleep(1.5)", "raise ValueError('no disk')"))
    fails(
        bare("rehearse", "failing.py"), 1, "without any fault", "ends as FAILED", "work: ValueError: no disk"
    )
    bare.write("locked.py", LOCKED)
    fails(bare("rehearse", "locked.py", "-i", "nothing=1"), 2, "has no input 'nothing'")


def test_a_plan_depends_only_on_the_seed_and_the_number() -> None:
    assert Plan.of(7, 2) == Plan.of(7, 2)
    assert Plan.of(7, 2).fault is Fault.TERM_TWICE
    assert len({Plan.of(seed, 2).moment for seed in range(50)}) == 50


def test_a_trial_with_a_problem_is_shown_with_the_command_that_makes_it_again() -> None:
    trial = Trial(plan=Plan.of(1, 3), at=0.5, problems=["the run ended as FAILED: work: FileExistsError"])
    report = Report(
        graph="locked",
        seed=1,
        usual=Usual(ending=Ending(status=RunStatus.SUCCESS, outputs={})),
        seconds=1.0,
        changes=None,
        trials=[trial],
        bound=28.5,
        replay="python -m exotrio rehearse locked.py --seed 1",
    )
    text = "\n".join(report.lines())
    assert re.search(r"^3 +SIGKILL +[\d.]+ m?s +the run ended as FAILED", text, re.MULTILINE)
    assert "rehearse locked.py --seed 1 --only 3" in text


def test_work_is_repeated_where_an_execution_was_cut_and_the_state_ran_again() -> None:
    first, second = Journal(), Journal()
    first.add(10.0, StateBegan("Work", "s1", "work"))
    first.add(10.0, StateBegan("Work", "s2", "work"))
    first.add(11.0, StateEnded("Work", "completed", 1.0, "s1"))
    first.add(11.0, StateBegan("Poll", "s3", "poll"))
    first.add(12.0, StateEnded("Poll", "requeued", 1.0, "s3"))
    first.stopped(13.0)
    second.add(15.0, StateBegan("Work", "s2", "work"))
    second.add(16.0, StateEnded("Work", "completed", 1.0, "s2"))
    second.add(16.0, StateBegan("Poll", "s3", "poll"))
    second.add(17.0, StateEnded("Poll", "completed", 1.0, "s3"))
    trial = Trial(plan=Plan.of(1, 3), at=3.0)
    trial.count(first, second)
    assert (trial.cut, trial.repeated, trial.seconds_repeated) == ({"Work": 1}, 1, 3.0)
    assert trial.ran_again == {"Work": 1}


def test_only_work_after_the_last_stored_checkpoint_is_repeated() -> None:
    first, second = Journal(), Journal()
    for state in ("killed", "cancelled", "handed over", "none stored"):
        first.add(10.0, StateBegan("Work", state, "work"))
    first.add(14.0, CheckpointStored("Work", "killed", 0.5))
    first.add(
        15.0, StateEnded("Work", "cancelled", 4.0, "cancelled", at_risk=0.25)
    )  # its release had the newest
    first.add(15.0, StateEnded("Work", "handed_over", 4.0, "handed over", at_risk=0.25))
    first.stopped(16.0)
    for state in ("killed", "cancelled", "handed over", "none stored"):
        second.add(17.0, StateBegan("Work", state, "work"))
    trial = Trial(plan=Plan.of(1, 3), at=6.0)
    trial.count(first, second)
    assert (trial.cut, trial.repeated) == ({"Work": 3}, 3)
    assert trial.seconds_repeated == 2.5 + 0.25 + 6.0
    assert trial.ran_again == {"Work": 3}


def test_an_execution_whose_outcome_arrived_after_its_process_was_killed_was_not_cut() -> None:
    first, second = Journal(), Journal()
    first.add(10.0, StateBegan("Work", "s1", "work"))  # its outcome is in the outbox
    first.add(10.0, StateBegan("Work", "s2", "work"))
    first.add(11.0, StateEnded("Work", "cancelled", 1.0, "s2"))
    first.stopped(13.0)
    trial = Trial(plan=Plan.of(1, 3), at=3.0)
    trial.count(first, second)
    assert (trial.cut, trial.repeated, trial.seconds_repeated) == ({"Work": 1}, 0, 0.0)
    stuck = Trial(plan=Plan.of(1, 3), at=3.0)
    stuck.count(first, second, run_ended=False)
    assert stuck.cut == {"Work": 2}
