"""Each example, run as its first lines say."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from tests.support.helpers import sql
from tests.support.pages import GUIDE, README, assert_prints, block
from tests.support.processes import (
    EXAMPLES,
    TEST_TIMEOUT,
    Ended,
    Process,
    Processes,
    as_printed,
    ended,
    exotrio,
)
from tests.support.stock import KEY, Stock, on_a_port

AUDIT = EXAMPLES / "audit.py"
UNREADABLE = Path("/proc/self/mem")
"""A regular file that no user, root included, can read from its beginning."""


def test_every_example_is_run_by_a_test_here() -> None:
    assert {file.name for file in EXAMPLES.glob("*.py")} == {
        "agent.py",
        "approval.py",
        "audit.py",
        "backfill.py",
        "branches.py",
        "inside_trio.py",
        "limits.py",
        "pipeline.py",
        "polling.py",
        "retry.py",
    }


def sums(folder: Path) -> dict[str, str]:
    """Return the list that the audit wrote: path to digest."""
    lines = (folder / "SHA256SUMS").read_text("utf-8").splitlines()
    listed = {}
    for line in lines:
        digest, path = line.removeprefix("\\").split("  ", 1)
        path = path.replace("\\\\", "\\") if line.startswith("\\") else path
        assert path not in listed, "a file is in the list twice"
        listed[path] = digest
    return listed


def check_with_sha256sum(folder: Path) -> None:
    if shutil.which("sha256sum") is None:
        return
    done = subprocess.run(
        ["sha256sum", "--quiet", "-c", "SHA256SUMS"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=TEST_TIMEOUT,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def digests(*files: Path) -> dict[str, str]:
    return {str(file): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def audit(folder: Path, tree: Path, *arguments: str) -> Ended:
    return ended("run", AUDIT, "--store", f"root={tree}", *arguments, cwd=folder)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A tree with a duplicate, an empty file, odd names, and what the audit passes over."""
    tree = tmp_path / "tree"
    (tree / "deep" / "er").mkdir(parents=True)
    (tree / "a.txt").write_text("one")
    (tree / "deep" / "same.txt").write_text("one")
    (tree / "deep" / "er" / "two blanks  in it.txt").write_text("three")
    (tree / "grün ✓.txt").write_text("four")
    (tree / "empty").touch()
    (tree / "__pycache__").mkdir()
    (tree / "__pycache__" / "written.pyc").write_text("by Python")
    (tree / "back\\slash\\n").write_text("five")
    (tree / "\\leads").write_text("one")
    (tree / "new\nline").write_text("left out")
    (tree / "dangling").symlink_to("nowhere")
    return tree


def digests_of(tree: Path) -> dict[str, str]:
    files = [file for file in tree.rglob("*") if file.is_file() and "__pycache__" not in file.parts]
    return digests(*(file for file in files if file.stat().st_size and "\n" not in file.name))


def test_the_audit_lists_every_file_and_counts_duplicates(tmp_path: Path, tree: Path) -> None:
    end = audit(tmp_path, tree, "-o", "json")
    assert end.code == 0, end
    assert sums(tmp_path) == digests_of(tree)
    check_with_sha256sum(tmp_path)
    result = json.loads(end.out)
    assert result["status"] == "SUCCESS"
    files = len(digests_of(tree))
    assert result["nodes"]["digest"] == {"SUCCESS": files, "PRUNED": 1}, "the empty file is pruned"
    (report,) = result["outputs"]
    assert report["identifier"] == "report"
    assert report["outputs"] == {
        "files": str(files),
        "bytes": str(sum(Path(file).stat().st_size for file in digests_of(tree))),
        "duplicates": "2 files, 6 bytes",
        "written": str(tmp_path / "SHA256SUMS"),
    }
    assert os.listdir(tmp_path / ".exotrio")
    assert not list(tmp_path.glob(".SHA256SUMS*")), "no draft is left"


def test_the_audit_prints_its_report_as_text_and_progress_apart(tmp_path: Path, tree: Path) -> None:
    end = audit(tmp_path, tree)
    assert end.code == 0, end
    lines = end.out.splitlines()
    assert lines[0].startswith("SUCCESS: ")
    assert lines[1] == "report:"
    assert [line.split(":")[0].strip() for line in lines[2:]] == ["files", "bytes", "duplicates", "written"]
    shown = block(README, "duplicates: 47 files").code.splitlines(keepends=True)
    # These two are printed only if it takes long.
    lasting = [line for line in shown if not line.startswith(("plan 0/1", "on average"))]
    assert_prints(end.err + end.out, "".join(lasting))


def test_the_audit_takes_another_algorithm(tmp_path: Path, tree: Path) -> None:
    end = audit(tmp_path, tree, "--store", "algorithm=blake2b")
    assert end.code == 0, end
    listed = (tmp_path / "BLAKE2BSUMS").read_text("utf-8")
    assert f"{hashlib.blake2b(b'one').hexdigest()}  {tree / 'a.txt'}\n" in listed


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs a file that even root cannot read")
def test_an_unreadable_file_is_retried_and_shown_and_the_others_are_listed(
    tmp_path: Path, tree: Path
) -> None:
    listed = digests_of(tree)
    (tree / "unreadable").symlink_to(UNREADABLE)
    end = audit(tmp_path, tree)
    assert end.code == 1, end
    assert sums(tmp_path) == listed
    assert end.out.startswith("FAILED: ")
    failed = [line for line in end.out.splitlines() if line.startswith("failed: digest (")]
    assert len(failed) == 1
    assert failed[0].endswith("OSError: [Errno 5] Input/output error")
    assert "(1 failed, 2 replaced)" in end.err
    retries = "SELECT retry_count FROM states WHERE error IS NOT NULL ORDER BY 1"
    assert sql(tmp_path / ".exotrio/state.db", retries) == [(0,), (1,), (2,)], "max_retries is 2"


@pytest.mark.parametrize(
    ("store", "error"),
    [
        (
            "root=/no/such/folder",
            "NotADirectoryError: /no/such/folder is not a folder; give one with --store root=",
        ),
        ("algorithm=rot13", "ValueError: unknown algorithm 'rot13'"),
    ],
)
def test_the_audit_refuses_invalid_settings(tmp_path: Path, store: str, error: str) -> None:
    end = ended("run", AUDIT, "--store", store, "--db", ":memory:", cwd=tmp_path, code=1)
    assert error in end.out
    assert not list(tmp_path.glob("*SUMS"))


def test_an_audit_of_no_files_succeeds_without_a_list(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    end = audit(tmp_path, tmp_path / "tree", "--db", ":memory:")
    assert end.code == 0, end


def test_a_killed_audit_is_continued_and_lists_every_file_once(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    for number in range(600):
        file = tree / f"{number % 7}" / f"{number}.txt"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(str(number))
    arguments = ("run", AUDIT, "--store", f"root={tree}", "-vv")
    with exotrio(*arguments, cwd=tmp_path) as process:
        run_id = process.line("run (\\S+) of graph")[1]
        process.line("Digest as digest\\) begins", number=100)
        process.kill()
    assert not (tmp_path / "SHA256SUMS").exists()
    done = dict(sql(tmp_path / ".exotrio/state.db", "SELECT status, count(*) FROM states GROUP BY 1"))
    assert done["SUCCESS"] > 600, "some digests are done, besides the nodes before them"
    assert done["QUEUED"] > 0, "some were held by the process that is gone"

    end = ended("run", AUDIT, "--resume", run_id, "-o", "json", cwd=tmp_path, code=0)
    assert json.loads(end.out)["seconds"] < 30, "no lease is waited for"
    assert sums(tmp_path) == digests(*tree.rglob("*.txt"))
    check_with_sha256sum(tmp_path)


def test_a_runtime_inside_a_trio_application_ends_with_it(tmp_path: Path) -> None:
    with Process([sys.executable, str(EXAMPLES / "inside_trio.py")], cwd=tmp_path) as process:
        end = process.wait(code=0)
    assert "the application is alive\n" in end.out
    assert end.out.endswith("SUCCESS: HELLO, ADA!\n")
    assert end.err == ""


def test_a_service_never_gets_more_calls_than_its_limits_allow(tmp_path: Path) -> None:
    end = ended("run", EXAMPLES / "limits.py", cwd=tmp_path)
    assert end.code == 0, end
    assert end.out.endswith("report:\n  at_once: 5\n  at_once_for_ada: 2\n")


@pytest.mark.parametrize(
    ("order", "end"),
    [
        ("book of hours", "bill:\n  bill: shipped the book of hours\n"),
        ("ebook of hours", "bill:\n  bill: sent the ebook of hours\n"),
        ("gift card", "refuse:\n  done: refused the gift card\n"),
    ],
)
def test_an_order_takes_the_branch_for_its_kind(tmp_path: Path, order: str, end: str) -> None:
    example = EXAMPLES / "branches.py"
    assert block(GUIDE, 'when=check.kind == "book"').code in example.read_text()
    ran = ended("run", example, "--store", f"order={order}", cwd=tmp_path)
    assert ran.code == 0, ran
    assert ran.out.endswith(end)


def test_a_backfill_that_is_interrupted_does_each_day_once(tmp_path: Path) -> None:
    with exotrio("run", EXAMPLES / "backfill.py", "-vv", cwd=tmp_path) as process:
        process.line("Backfill as backfill\\) begins")
        until(lambda: sql(tmp_path / "totals.db", "SELECT count(*) FROM totals")[0][0] > 5)
        end = process.stop(signal.SIGINT, code=130)
    assert "handed over 1" in end.err
    assert block(GUIDE, "interrupted; everything is kept").code.splitlines()[0] in end.err
    done = sql(tmp_path / "totals.db", "SELECT count(*) FROM totals")[0][0]
    assert 5 < done < 90
    end = as_printed(end.err, cwd=tmp_path, code=0)
    assert "days: 90\n" in end.out
    # Replacing a row would have given it another number.
    assert sql(tmp_path / "totals.db", "SELECT count(*), max(rowid) FROM totals") == [(90, 90)]


def until(condition: Callable[[], bool]) -> None:
    give_up = time.monotonic() + TEST_TIMEOUT
    while True:
        with suppress(sqlite3.OperationalError):  # the table is not there yet
            if condition():
                return
        assert time.monotonic() < give_up
        time.sleep(0.02)


def test_a_flaky_call_is_retried_and_each_attempt_shown(tmp_path: Path) -> None:
    end = script("retry.py", cwd=tmp_path)
    assert end.code == 0, end
    failed = "RETRY_CREATED: ConnectionError: the service answered 503 Service Unavailable"
    assert end.out.splitlines() == [
        f"attempt 1: {failed}",
        f"attempt 2: {failed}",
        "attempt 3: SUCCESS: It works.",
        "run: SUCCESS",
    ]


def script(name: str, *arguments: str, cwd: Path, env: dict[str, str] | None = None) -> Ended:
    with Process([sys.executable, str(EXAMPLES / name), *arguments], cwd=cwd, env=env) as process:
        return process.wait()


def test_a_job_is_submitted_once_although_its_runtime_is_killed(tmp_path: Path) -> None:
    arguments = ("run", EXAMPLES / "polling.py", "--store", "seconds=0.7", "-vv")
    with exotrio(*arguments, cwd=tmp_path) as process:
        run_id = process.line("run (\\S+) of graph")[1]
        process.line("Wait as wait\\) begins", number=2)
        process.kill()
    end = ended("run", EXAMPLES / "polling.py", "--resume", run_id, cwd=tmp_path, code=0)
    assert end.out.splitlines()[-2:] == ["wait:", "  result: 5736396"]
    assert len(list((tmp_path / ".jobs").glob("*.accepted"))) == 1


@pytest.mark.parametrize(("button", "result"), [("Approve", "shipped"), ("Refuse", "refused")])
def test_an_order_is_approved_by_a_link(tmp_path: Path, button: str, result: str) -> None:
    with exotrio("run", EXAMPLES / "approval.py", "--serve", cwd=tmp_path) as process:
        process.line("approved waits for event approved until")
        mail = (tmp_path / ".mails" / "4711.txt").read_text("utf-8")
        (link,) = re.findall(f"^{button}: (http://127.0.0.1:.*)$", mail, re.MULTILINE)
        with urllib.request.urlopen(link) as page:
            assert b'<form method="post">' in page.read()
        with urllib.request.urlopen(urllib.request.Request(link, method="POST")) as page:
            assert b"This was sent." in page.read()
        end = process.wait(code=0)
    assert end.out.splitlines()[-1] == f"  result: order 4711 is {result}, by ada@example.com"


def test_the_agent_asks_each_question_once_although_it_is_killed(tmp_path: Path) -> None:
    agent = EXAMPLES / "agent.py"
    with exotrio("run", agent, "--graph", "agent", "-vv", cwd=tmp_path) as process:
        run_id = process.line("run (\\S+) of graph")[1]
        process.line("Lookup as lookup\\) begins")
        process.kill()
    end = ended("run", agent, "--resume", run_id, cwd=tmp_path, code=0)
    assert end.out.splitlines()[-2:] == ["agent:", "  text: Mont Blanc"]
    # Two agents below the first one, and what each of these looks up.
    assert sql(next(tmp_path.rglob("*.db")), "SELECT count(*) FROM runs") == [(5,)]


def test_the_agent_says_which_child_failed(tmp_path: Path) -> None:
    question = "question=How high is K2?"
    end = ended("run", EXAMPLES / "agent.py", "--graph", "agent", "-i", question, cwd=tmp_path, code=1)
    assert "exotrio.errors.ChildFailed: run " in end.out
    assert "of graph 'lookup' failed: lookup: " in end.out
    assert "nothing is known about K2" in end.out


ORDERS = """SUCCESS
  2 x tea: 6.85
  total: 6.85
SUCCESS
  1 x cake: 4.87
  3 x tea: 10.27
  total: 15.14
SUCCESS
  1 x gold: 72590.00
  1 x tea: 3.42
  total: 72593.42
"""


def test_the_audit_is_refused_at_a_stock_server(tmp_path: Path) -> None:
    with on_a_port(Stock(time.monotonic)) as uri:
        env = {"EXOSPHERE_STATE_MANAGER_URI": uri, "EXOSPHERE_API_KEY": KEY}
        end = ended("graph", "apply", AUDIT, "-n", "examples", cwd=tmp_path, env=env, code=3)
    assert "graph 'audit' is refused" in end.err
    assert "only exotrio's own state manager gives these" in end.err


def test_the_pipeline_runs_on_any_v0_server_with_its_own_or_another_worker(tmp_path: Path) -> None:
    stock = Stock(time.monotonic)
    with on_a_port(stock) as uri:
        env = {"EXOSPHERE_STATE_MANAGER_URI": uri, "EXOSPHERE_API_KEY": KEY}
        own = script("pipeline.py", cwd=tmp_path, env=env)
    assert {state.status for state in stock.states.values()} == {"SUCCESS"}
    with Processes() as processes:
        server = processes.server(tmp_path, "--db", ":memory:", "--v0-only")
        worker = processes.start("worker", EXAMPLES / "pipeline.py", cwd=tmp_path, env=server.env)
        worker.line("is registered")
        another = script("pipeline.py", "--no-worker", cwd=tmp_path, env=server.env)
    for end in (own, another):
        assert (end.code, end.err) == (0, "")
        assert re.sub(r"(?m)^[0-9a-f-]{36}: ", "", end.out) == ORDERS
