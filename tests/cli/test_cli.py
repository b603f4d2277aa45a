"""The command line in the surroundings people put it in: pipes, closed streams, locales, full disks."""

from __future__ import annotations

import gc
import json
import re
import signal
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from tests.support import gated
from tests.support.commands import Cli
from tests.support.gated import Log
from tests.support.helpers import sql
from tests.support.processes import (
    EXOTRIO,
    TEST_TIMEOUT,
    Ended,
    as_printed,
    disk_of,
    ended,
    environment,
    exotrio,
)

APP = """
from exotrio import BaseNode, Graph, Runtime
from pydantic import BaseModel


class Echo(BaseNode):
    class Inputs(BaseModel):
        text: str

    class Outputs(BaseModel):
        text: str

    async def execute(self):
        return self.Outputs(text=self.inputs.text)


graph = Graph("echo", namespace="n")
graph.add(Echo, text="hello")
runtime = Runtime(namespace="n", name="r", nodes=[Echo])
"""

FAN = """
from exotrio import BaseNode, Graph, Runtime
from pydantic import BaseModel


class Fan(BaseNode):
    class Outputs(BaseModel):
        text: str

    async def execute(self):
        return [self.Outputs(text="x" * 5000) for _ in range(100)]


class End(BaseNode):
    class Inputs(BaseModel):
        text: str

    class Outputs(BaseModel):
        text: str

    async def execute(self):
        return self.Outputs(text=self.inputs.text)


graph = Graph("fan", namespace="n")
graph.add(End, text=graph.add(Fan).text)
runtime = Runtime(namespace="n", name="r", nodes=[Fan, End], shutdown_grace=0.2)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "echo.py").write_text(APP, "utf-8")
    (tmp_path / "fan.py").write_text(FAN, "utf-8")
    return tmp_path


def shell(line: str, folder: Path) -> Ended:
    """Run a line of bash with ``$RUN`` for ``python -m exotrio run``."""
    env = {**environment(folder), "RUN": f"{sys.executable} -m exotrio run"}
    done = subprocess.run(
        ["bash", "-c", line], cwd=folder, env=env, capture_output=True, text=True, timeout=TEST_TIMEOUT
    )
    return Ended(done.returncode, done.stdout, done.stderr)


# -- help


WITH_JSON = (
    *("run", "top", "export", "graph apply", "graph check", "graph ls", "graph show", "trigger"),
    *("runs ls", "runs show", "runs watch", "runs cancel", "runs retry"),
    *("states ls", "states show", "states retry", "nodes ls"),
)
OTHERS = ("", "worker", "server", "dev", "runtimes drain", "graph", "runs", "states", "nodes")


@pytest.mark.parametrize("command", [*OTHERS, *WITH_JSON])
def test_help_fits_100_columns_and_explains_every_option(bare: Cli, command: str) -> None:
    bare.set(COLUMNS="200")
    end = bare(*command.split(), "--help", code=0)
    assert end.err == ""
    lines = end.out.splitlines()
    assert lines[0].startswith(f"Usage: python -m exotrio {command}".rstrip())
    assert max(map(len, lines)) <= 100
    options = [line for line in lines if line.startswith("  -")]
    assert options
    for line in options:
        # The text is next to the option, or below a long one.
        has_text = len(line.split(maxsplit=1)) > 1 or lines[lines.index(line) + 1].startswith("   ")
        assert has_text, line
    if command in WITH_JSON:
        assert "\n  JSON: " in end.out
        assert "-o, --output [table|json]" in end.out


def test_version_is_printed(tmp_path: Path) -> None:
    end = ended("--version", cwd=tmp_path, code=0)
    assert version("exotrio") in end.out


# -- the two streams


def test_only_the_result_of_a_file_or_module_goes_to_standard_output(folder: Path) -> None:
    text = ended("run", "echo", "-i", "text=Ada = ü", cwd=folder, code=0)
    assert text.out.startswith("SUCCESS: 1 state in ")
    assert text.out.endswith("echo:\n  text: Ada = ü\n")
    run_id = text.err.split()[1]
    assert text.err.startswith(f"run {run_id} of graph 'echo'\n")
    assert text.err.endswith("echo 1/1\n")
    assert run_id in text.out

    printing = APP.replace("return self", "print('a line'); return self")
    (folder / "printing.py").write_text(printing, "utf-8")
    loud = ended("run", "printing.py", "-vv", "-o", "json", cwd=folder)
    result = json.loads(loud.out)
    assert result["status"] == "SUCCESS"
    assert result["nodes"] == {"echo": {"SUCCESS": 1}}
    assert result["outputs"] == [{"identifier": "echo", "outputs": {"text": "hello"}}]
    assert "exotrio.runtime" in loud.err
    assert "a line\n" in loud.err


def test_a_closed_output_pipe_is_not_an_error(folder: Path) -> None:
    out = shell("set -o pipefail; $RUN fan.py | head -1", folder)
    assert out.code == 0, out
    assert out.out.startswith("SUCCESS")
    assert "Error" not in out.err
    both = shell("set -o pipefail; $RUN fan.py 2>&1 | head -1", folder)
    assert both.code == 0, both
    usage = shell(f"{sys.executable} -m exotrio run --help | true", folder)
    assert usage.err == ""


def test_a_run_works_without_streams_home_and_path(folder: Path) -> None:
    full = "2>/dev/full" if Path("/dev/full").exists() else ""
    for line in ("$RUN echo.py >&- 2>&-", f"env -i $RUN echo.py <&- {full}"):
        end = shell(f"exec {line}", folder)
        # A file that took the number of a closed stream would have been written into.
        assert end.code == 0, (line, end)


@pytest.mark.parametrize("where", ["trio", "process"])
def test_files_that_user_code_left_open_are_flushed_at_the_end(folder: Path, where: str) -> None:
    app = APP.replace(
        "    async def", f'    runs_in = "{where}"\n    log = open("log", "w")\n\n    async def'
    )
    # Its process needs longer for its end than the runtime waits for it.
    late = "import atexit, time; atexit.register(time.sleep, 0.3)"
    app = app.replace("return self", f'self.log.write("done"); {late}; return self')
    # It is not killed meanwhile, however busy the machine is.
    app += "\nfrom exotrio._shared import deadlines\ndeadlines.EXIT = deadlines.IDLE_PROCESSES = 60\n"
    (folder / "app.py").write_text(app, "utf-8")
    assert ended("run", "app.py", "--db", ":memory:", cwd=folder).code == 0
    assert (folder / "log").read_text() == "done"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_result_that_cannot_be_written_is_an_error(folder: Path) -> None:
    end = shell("exec $RUN echo.py >/dev/full", folder)
    assert end.code == 1, end
    assert "error: the result could not be written: No space left on device\n" in end.err
    assert "Traceback" not in end.err
    assert "Exception ignored" not in end.err
    usage = shell(f"exec {sys.executable} -m exotrio run --help >/dev/full", folder)
    assert (usage.code, usage.err) == (1, "error: the output could not be written: No space left on device\n")


# -- surroundings


def test_a_locale_without_unicode_loses_no_text(folder: Path) -> None:
    env = {"LANG": "C", "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    end = ended("run", "echo.py", "-i", "text=grün ✓", "-o", "json", cwd=folder, env=env, code=0)
    assert json.loads(end.out)["outputs"][0]["outputs"] == {"text": "grün ✓"}
    # What the stream cannot show is shown by its number, in place of an error.
    end = ended("run", "echo.py", "-i", "text=grün ✓", cwd=folder, env=env, code=0)
    assert "text: gr\\xfcn \\u2713\n" in end.out


def test_a_deleted_working_directory_is_an_error(folder: Path) -> None:
    end = shell("mkdir gone; cd gone; rmdir ../gone; exec $RUN echo.py", folder)
    assert end.code == 2, end
    assert end.err.startswith("error: the working directory no longer exists\n")
    assert len(end.err.splitlines()) == 3


def test_a_run_on_a_full_disk_can_be_stopped_and_continued_with_more_space(folder: Path) -> None:
    with exotrio("run", "fan.py", cwd=folder, after=disk_of(700_000)) as process:
        process.line("could not be written")
        process.signal(signal.SIGINT)
        end = process.stop(signal.SIGINT, code=130)
    assert "Traceback" not in end.err, end
    continued = as_printed(end.err, cwd=folder, code=0)
    assert continued.out.startswith("SUCCESS: 200 states")


# -- terminals


def assert_given_back(screen: str) -> None:
    """Check that the cursor, which bars hide, was shown again."""
    assert "\x1b[?25l" in screen
    assert screen.rindex("\x1b[?25h") > screen.rindex("\x1b[?25l")


def test_on_a_terminal_bars_are_shown_and_the_result_stays_plain(folder: Path) -> None:
    from tests.support.terminals import Terminal

    talks = FAN.replace(
        "        return [",
        '        import time; print("talks"); time.sleep(0.5); print("yet")\n        return [',
    )
    (folder / "fan.py").write_text(talks.replace("async def execute", "def execute", 1), "utf-8")
    with Terminal([*EXOTRIO, "run", "fan.py"], cwd=folder) as terminal:
        assert terminal.wait() == 0
        assert "━" in terminal.screen
        assert "100/100" in terminal.screen
        assert "\x1b" not in terminal.out
        assert terminal.out.startswith("SUCCESS: 200 states")
    ((lines,),) = sql(folder / ".exotrio/state.db", "SELECT lines FROM logs")
    # Not the bars that were drawn after it.
    assert [line["text"] for line in json.loads(lines)] == ["talks", "yet"]


def test_ctrl_c_restores_the_terminal_and_prints_the_whole_command(folder: Path) -> None:
    from tests.support.terminals import Terminal

    (folder / "gated.py").write_text(gated.APP, "utf-8")
    database = "a-rather-long-name-of-a-database/" * 4 + "state.db"
    with Terminal([*EXOTRIO, "run", "gated.py", "--db", database], cwd=folder) as terminal:
        Log(folder).until("begin", gated.WORKERS)
        terminal.type("\x03")
        (folder / "open-w").touch()
        assert terminal.wait() == 130
        assert terminal.out == ""
        assert_given_back(terminal.screen)
        assert re.search(r"━[^━]*\x1b\[2K[^━]*interrupted; everything", terminal.screen), "bars are erased"
        continued = as_printed(terminal.screen.replace("\r\n", "\n"), cwd=folder, code=0)
    assert f"items: {gated.RESULT}\n" in continued.out


def test_a_third_ctrl_c_restores_the_terminal(folder: Path) -> None:
    from tests.support.terminals import Terminal

    (folder / "gated.py").write_text(gated.APP, "utf-8")
    with Terminal([*EXOTRIO, "run", "gated.py"], cwd=folder, env={"STUBBORN": "yes"}) as terminal:
        Log(folder).until("begin", gated.WORKERS)
        terminal.until("━")  # nothing else would be erased
        terminal.type("\x03")
        terminal.until("stopping")
        terminal.type("\x03")
        terminal.until("the grace is over, shortened by SIGINT; waiting for ")
        terminal.type("\x03")
        assert terminal.wait() == 130
        assert_given_back(terminal.screen)
        # On a line that was cleared for it: written past the bars, it would stand behind one of them.
        assert re.search(r"\x1b\[2K\d{4}-\S+Z WARNING exotrio.runtime: the grace", terminal.screen)
        assert "Continue with:\r\n" in terminal.screen
        assert re.search(r"━[^━]*\x1b\[2K[^━]*third signal", terminal.screen), "bars are erased"


def test_a_server_collects_garbage_rarely(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(*arguments: object, **options: object) -> int:
        seen.append(gc.get_threshold())
        return 0

    before, seen = gc.get_threshold(), list[object]()
    monkeypatch.setattr("exotrio.cli.commands.server.run_until_stopped", run)
    gc.set_threshold(700, 10, 10)
    try:
        cli("server", code=0)
    finally:
        gc.set_threshold(*before)
    assert seen == [(2_000, 20, 20)]
