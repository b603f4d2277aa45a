"""Parts of ``dev`` without a whole one: watching files, and ending a process."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable
from pathlib import Path

import pytest
import trio

from exotrio._shared import deadlines
from exotrio.cli import file_process
from exotrio.cli.dev import watcher
from exotrio.cli.dev.session import Child
from exotrio.cli.dev.watcher import Watch, syntax_problem
from exotrio.cli.exit_codes import INTERRUPTED
from exotrio.cli.file_process import Order
from exotrio.cli.load import load, users_traceback
from exotrio.errors import ExotrioError
from tests.support.processes import TEST_TIMEOUT


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watcher, "INTERVAL", 0.01)
    monkeypatch.setattr(watcher, "SETTLES", 0.01)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a.py", "b.py", "late.py"):
        write(tmp_path / name, "1")
    return tmp_path


def write(file: Path, text: str) -> None:
    """Save a file as a slow clock would have it: with the time it was made before everything else."""
    file.write_text(text, "utf-8")
    os.utime(file, ns=(0, 0))


def names(files: Iterable[str]) -> list[str]:
    return [Path(file).name for file in files]


def paths(folder: Path, *files: str) -> list[str]:
    return [str(folder / file) for file in files]


async def change(watch: Watch) -> list[str]:
    with trio.fail_after(TEST_TIMEOUT):
        return names(await watch.change())


def loaded(folder: Path, *files: str) -> Watch:
    watch = Watch(folder)
    watch.begin()
    watch.loaded(paths(folder, *files))
    return watch


# -- files


async def test_a_change_is_reported_with_all_files_that_differ_from_the_loaded_code(folder: Path) -> None:
    watch = loaded(folder, "a.py", "b.py")
    write(folder / "late.py", "22")
    write(folder / "a.py", "22")
    assert await change(watch) == ["a.py"]
    write(folder / "b.py", "22")
    assert await change(watch) == ["a.py", "b.py"], "the first one was not loaded meanwhile"
    watch.begin()
    watch.loaded(paths(folder, "b.py"))
    write(folder / "a.py", "333")
    (folder / "b.py").unlink()
    assert await change(watch) == ["b.py"]


async def test_a_module_that_is_imported_late_is_watched_too(folder: Path) -> None:
    watch = loaded(folder, "a.py")
    watch.add(paths(folder, "late.py"))
    write(folder / "late.py", "22")
    assert await change(watch) == ["late.py"]


async def test_a_change_while_the_code_is_loaded_is_not_missed(folder: Path) -> None:
    watch = loaded(folder, "a.py")
    watch.begin()
    write(folder / "a.py", "22")
    (folder / "b.py").write_text("made meanwhile", "utf-8")
    watch.loaded(paths(folder, "a.py", "b.py"))
    assert await change(watch) == ["a.py", "b.py"]


async def test_a_file_that_is_written_whenever_it_is_loaded_is_loaded_twice_and_no_more(
    folder: Path,
) -> None:
    watch = loaded(folder, "a.py", "b.py")
    for size in (2, 3):
        watch.begin()
        write(folder / "a.py", "1" * size)
        watch.loaded(paths(folder, "a.py", "b.py"))
        if size == 2:
            assert await change(watch) == ["a.py"]
    write(folder / "b.py", "22")
    assert await change(watch) == ["b.py"]


async def test_after_a_failure_a_file_that_was_missing_is_noticed(folder: Path) -> None:
    watch = Watch(folder)
    watch.begin()
    watch.failed(paths(folder, "a.py"))
    write(folder / ".#a.py", "an editor's")
    (folder / "package").mkdir()
    write(folder / "package" / "__init__.py", "")
    assert await change(watch) == ["__init__.py"]
    watch.begin()
    watch.loaded(paths(folder, "a.py"))
    write(folder / "new.py", "unused")
    write(folder / "a.py", "22")
    assert await change(watch) == ["a.py"]


async def test_steps_of_one_change_are_reported_together(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch = loaded(folder, "a.py", "b.py")
    write(folder / "a.py", "22")
    snapshot, count = watcher._snapshot, 0

    def snapshot_before_the_next_step(files: Iterable[str]) -> watcher.Snapshot:
        nonlocal count
        count += 1
        if count == 2:
            write(folder / "b.py", "22")
        return snapshot(files)

    monkeypatch.setattr(watcher, "_snapshot", snapshot_before_the_next_step)
    assert await change(watch) == ["a.py", "b.py"]


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        (b"x = 1", None),
        (b"x = (", "SyntaxError: '(' was never closed, in line 1"),
        (b"# coding: latin-1\nx = '\xe4'", None),
        (b"x = '\xe4'", "SyntaxError"),
        (b"x = '\\d'", None),
        (b"x = 1\x00", "null bytes"),
    ],
    ids=["good", "open", "coded", "undecodable", "warning", "null"],
)
def test_a_file_is_compiled_before_the_runtime_is_drained_for_it(
    tmp_path: Path, source: bytes, problem: str | None
) -> None:
    file = tmp_path / "a.py"
    file.write_bytes(source)
    actual = syntax_problem(str(file))
    assert actual == problem or (problem is not None and actual is not None and problem in actual)


def test_a_binary_or_missing_file_has_no_syntax_problem(tmp_path: Path) -> None:
    (tmp_path / "a.so").write_bytes(b"\x7fELF")
    assert syntax_problem(str(tmp_path / "a.so")) is None
    assert syntax_problem(str(tmp_path / "gone.py")) is None


# -- the process

DEAF = """
import signal, time
signal.signal(signal.SIGINT, signal.SIG_IGN)
open("deaf", "w").close()
time.sleep(600)
"""


async def test_a_process_that_does_not_end_in_time_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_process, "MARGIN", 0.05)
    monkeypatch.setattr(deadlines, "CLEAN_UP", 0.05)
    monkeypatch.setattr(deadlines, "FLUSH", 0.05)
    (tmp_path / "app.py").write_text(DEAF, "utf-8")
    monkeypatch.chdir(tmp_path)
    with trio.fail_after(TEST_TIMEOUT):
        child = Child("app.py", uri="http://127.0.0.1:9", key="k", verbose=0)
        while not (tmp_path / "deaf").exists():  # noqa: ASYNC110 - another process makes it
            await trio.sleep(0.01)
        child.order(Order("drain", "dev"))
        await child.wait()
        assert (child.was_killed, child.code) == (True, -signal.SIGKILL)
        await child.aclose()


async def test_a_ctrl_c_at_the_very_start_of_a_process_prints_no_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "app.py").write_text("print('not loaded')", "utf-8")
    monkeypatch.chdir(tmp_path)
    with trio.fail_after(TEST_TIMEOUT):
        child = Child("app.py", uri="http://127.0.0.1:9", key="k", verbose=0)
        os.kill(child.pid, signal.SIGINT)
        await child.wait()
        assert child.code == INTERRUPTED
        await child.aclose()
    assert capfd.readouterr() == ("", "")


def test_the_message_of_a_syntax_error_is_shown_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "unclosed.py").write_text("x = (\n")
    with pytest.raises(ExotrioError, match="'\\(' was never closed") as caught:
        load("unclosed.py")
    shown = users_traceback(caught.value)
    assert "    x = (\n" in shown
    assert "never closed" not in shown
