"""``rehearse``: real processes that get real signals, and what it reports of their runs."""

from __future__ import annotations

import json
import os
import re
import signal
import tempfile
from pathlib import Path

import pytest
import trio
import trio.testing

from exotrio._shared import deadlines
from exotrio.cli.dev.announcer import FirstRun
from exotrio.cli.rehearsal import lane
from exotrio.cli.rehearsal.session import Session
from exotrio.cli.rehearsal.trial import Fault, Journal, Plan, Result, Trial, unsteady_fields
from exotrio.client import RunStatus
from exotrio.monitoring import StateBegan, StateEnded
from tests.support.commands import Cli, fails
from tests.support.processes import exotrio, until_gone

LOCKED = """
import os, uuid
from pathlib import Path
import trio
import trio.testing
from pydantic import BaseModel
from exotrio import BaseNode, Graph, RetryPolicyModel, Runtime

LOCK = Path("lock-" + os.environ.get("EXOSPHERE_STATE_MANAGER_URI", "").rpartition(":")[2])


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
        LOCK.touch(exist_ok=False)
        try:
            await trio.sleep(1.5)
        finally:
            LOCK.unlink()
        return self.Outputs(n=self.inputs.n)


graph = Graph("locked", namespace="n", retry_policy=RetryPolicyModel(max_retries=0))
split = graph.add(Split)
graph.add(Work, n=split.n)
runtime = Runtime(namespace="n", name="r", nodes=[Split, Work], workers=1)
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
SEED = "6617"  # with it, each fault comes while Work runs


def test_a_lock_that_outlives_a_killed_process_is_found_and_the_trial_can_be_made_again(bare: Cli) -> None:
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
        assert trials[number]["cut"] == trials[number]["states_repeated"] == 1
    assert report["not_compared"] == ["split.ticket"]

    again = bare("rehearse", "locked.py", "--times", "4", "--seed", SEED, "--only", "3", code=1)
    assert re.search(r"^3 +SIGKILL +[\d.]+ s +the run ended as FAILED", again.out, re.MULTILINE)
    assert f"rehearse locked.py --seed {SEED} --only 3" in again.out


def test_ctrl_c_ends_a_rehearsal_and_leaves_no_process(tmp_path: Path) -> None:
    (tmp_path / "locked.py").write_text(LOCKED, "utf-8")
    with exotrio("rehearse", "locked.py", cwd=tmp_path) as rehearsal:
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
        tried = lane.Lane(
            number=1, target=str(target), first_run=FirstRun(None, {}, {}), folder=tmp_path, verbose=0
        )
        async with tried.opened():
            tried.usual = Result(status=RunStatus.SUCCESS, outputs={"work": [{}]}, seconds=0.2)
            hang.touch()
            with monkeypatch.context() as patch:
                patch.setattr(lane, "MARGIN", 0.5)
                patch.setattr(deadlines, "max_exit", lambda grace: 0.0)
                (problem,) = (await tried.make(killed)).problems
            assert problem.startswith("the run did not end in ")
            hang.unlink()
            assert (await tried.make(stopped)).problems == []

    trio.run(main)


def test_a_third_ctrl_c_leaves_no_folder_either(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    session = Session(
        target="none.py",
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
            nursery.start_soon(session.main)
            await trio.testing.wait_all_tasks_blocked()
            assert os.listdir(tmp_path)
            session.exiting()
            assert os.listdir(tmp_path) == []
            nursery.cancel_scope.cancel()

    trio.run(main)


def test_what_nodes_print_is_not_in_the_report(tmp_path: Path) -> None:
    (tmp_path / "greeting.py").write_text(GREETING, "utf-8")
    with exotrio("rehearse", "greeting.py", "--times", "1", "-o", "json", cwd=tmp_path) as rehearsal:
        end = rehearsal.wait(code=0)
    assert json.loads(end.out)["graph"] == "greeting"
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
    fails(bare("rehearse", "locked.py", "--graph", "lockd"), 3, "no Graph 'lockd'", "did you mean 'locked'?")


def test_a_plan_depends_only_on_the_seed_and_the_number() -> None:
    assert Plan.of(7, 2) == Plan.of(7, 2)
    assert Plan.of(7, 2).fault is Fault.TERM_TWICE
    assert len({Plan.of(seed, 2).moment for seed in range(50)}) == 50


def result(status: RunStatus = RunStatus.SUCCESS, **outputs: list[dict[str, str]]) -> Result:
    return Result(status=status, outputs=outputs, seconds=1.0)


@pytest.mark.parametrize(
    ("came", "problem"),
    [
        (result(a=[{"n": "2", "id": "9"}, {"n": "1", "id": "8"}]), None),
        (result(RunStatus.FAILED, a=[]), "the run ended as FAILED"),
        (result(a=[{"n": "1", "id": "9"}]), "a has 1 outputs instead of 2"),
        (result(a=[{"n": "1", "id": "9"}, {"n": "1", "id": "8"}]), "a.n is '1' instead of '2'"),
        (result(), "a has 0 outputs instead of 2"),
    ],
)
def test_a_run_has_to_end_like_the_one_without_a_fault(came: Result, problem: str | None) -> None:
    usual = result(a=[{"n": "1", "id": "5"}, {"n": "2", "id": "6"}])
    other = result(a=[{"n": "2", "id": "7"}, {"n": "1", "id": "8"}])
    unsteady = unsteady_fields(usual, other)
    assert unsteady == {("a", "id")}
    trial = Trial(plan=Plan.of(1, 1), at=0.0)
    trial.compare(usual, came, unsteady)
    assert trial.problems[:1] == ([] if problem is None else [problem])


def test_fields_that_belong_together_are_compared_together() -> None:
    usual = result(a=[{"n": "1", "m": "1"}, {"n": "2", "m": "2"}])
    trial = Trial(plan=Plan.of(1, 1), at=0.0)
    trial.compare(usual, result(a=[{"n": "1", "m": "2"}, {"n": "2", "m": "1"}]), frozenset())
    assert trial.problems == ["an output of a is {'m': '2', 'n': '1'} instead of {'m': '1', 'n': '1'}"]


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
    assert (trial.cut, trial.repeated, trial.seconds_repeated) == (1, 1, 3.0)
    assert trial.ran_again == {"Work": 1}


def test_an_execution_whose_outcome_arrived_after_its_process_was_killed_was_not_cut() -> None:
    first, second = Journal(), Journal()
    first.add(10.0, StateBegan("Work", "s1", "work"))  # its outcome is in the outbox
    first.add(10.0, StateBegan("Work", "s2", "work"))
    first.add(11.0, StateEnded("Work", "cancelled", 1.0, "s2"))
    first.stopped(13.0)
    trial = Trial(plan=Plan.of(1, 3), at=3.0)
    trial.count(first, second)
    assert (trial.cut, trial.repeated, trial.seconds_repeated) == (1, 0, 0.0)
    stuck = Trial(plan=Plan.of(1, 3), at=3.0)
    stuck.count(first, second, run_ended=False)
    assert stuck.cut == 2
