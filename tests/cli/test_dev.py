"""``python -m exotrio dev``: a file with its state manager and dashboard, reloaded, stopped, and killed."""

from __future__ import annotations

import re
import shlex
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.support import gated
from tests.support.commands import fails
from tests.support.gated import Log, until
from tests.support.processes import (
    EXOTRIO,
    TEST_TIMEOUT,
    Ended,
    Mark,
    Process,
    Processes,
    ended,
    is_running,
    link_in,
    printed_command,
    until_gone,
)

APP = """
import os, sys
import trio
from words import GREETING
from exotrio import BaseNode, Graph, GraphNodeModel, RetryPolicyModel, Runtime
from pydantic import BaseModel

print("loaded by", os.getpid())


class Greet(BaseNode):
    class Inputs(BaseModel):
        name: str

    class Outputs(BaseModel):
        text: str

    async def execute(self):
        if self.inputs.name == "crash" and not os.path.exists("crashed"):
            open("crashed", "w").close()
            print("crash of", os.getpid())
            while not os.path.exists("crash-now"):
                await trio.sleep(0.01)
            os._exit(3)
        print(f"{GREETING} {self.inputs.name}")
        return self.Outputs(text=f"{GREETING} {self.inputs.name}")


graph = Graph("greeting", retry_policy=RetryPolicyModel(max_retries=0), nodes=[
    GraphNodeModel(node_name="Greet", namespace="n", identifier="greet", inputs={"name": "you"}),
])
runtime = Runtime(namespace="n", name="greeter", nodes=[Greet], poll_interval=0.05)
"""
LOCK = """
from pydantic import BaseModel
from exotrio import BaseNode, Graph, Runtime

class Lock(BaseNode):
    class Inputs(BaseModel):
        turns: int

    class Secrets(BaseModel):
        token: str

    async def execute(self) -> None:
        print("turned", self.inputs.turns, "times by", len(self.secrets.token))

graph = Graph("lock", namespace="n")
graph.add(Lock, turns=1)
runtime = Runtime(namespace="n", name="locks", nodes=[Lock], poll_interval=0.05)
"""
PINNED = """
import os
from datetime import timedelta
from exotrio import BaseNode, Graph, GraphNodeModel, ReQueueAfterSignal, Runtime

class Greet(BaseNode):
    async def execute(self) -> None:
        print("asked version {version}", flush=True)
        if not os.path.exists("go"):
            raise ReQueueAfterSignal(timedelta(milliseconds=100))

graph = Graph("pinned", version="{version}", nodes=[
    GraphNodeModel(node_name="Greet", namespace="n", identifier="greet"),
])
runtime = Runtime(namespace="n", name="greeter", nodes=[Greet], poll_interval=0.05)
"""
WORDS = 'GREETING = "Hello"\n'
GATED = gated.APP.replace("grace=600", "grace=20") + "\nprint('loaded by', os.getpid())\n"


class Dev:
    """A running ``dev``, with the browser and the second terminal of its user."""

    def __init__(self, processes: Processes, folder: Path, *options: str, **env: str) -> None:
        self._processes = processes
        self.folder = folder
        self.process = processes.start("dev", "app.py", "--port", "0", *options, cwd=folder, env=env)
        self._mark: Mark | None = None

    def fresh(self) -> None:
        """Ignore what was printed so far."""
        self._mark = self.process.mark()

    def says(self, pattern: str, *, number: int = 1) -> re.Match[str]:
        """Wait for a line."""
        return self.process.line(pattern, number=number, since=self._mark)

    def browser(self) -> httpx.Client:
        """Return a browser that was signed in by the page that is printed, since no terminal shows it."""
        page, url = self.process.line(r"^dashboard: (/\S+) \(it leads to (http\S+)\)").groups()
        link = link_in(page)
        assert link.startswith(f"{url}/sign-in?link=")
        return self.signed_in(link)

    def signed_in(self, link: str) -> httpx.Client:
        """Return a browser that opens a link of the dashboard first."""
        url = re.sub("/sign-in.*", "", link)
        browser = httpx.Client(base_url=url, trust_env=False, headers={"origin": url}, timeout=TEST_TIMEOUT)
        self._processes.callback(browser.close)
        assert browser.get(link).status_code == 200
        return browser

    def command(self) -> list[str]:
        """Return the command that is printed to start a run."""
        return shlex.split(self.process.line(r"^  (.+ trigger .+)$")[1])

    def pid(self, *, number: int = 1) -> int:
        """Return the id of the process that loaded the code."""
        return int(self.says(r"^loaded by (\d+)", number=number)[1])

    def write(self, app: str = APP, words: str = WORDS) -> None:
        """Save the code, each file only if it is another."""
        for name, text in (("app.py", app), ("words.py", words)):
            file = self.folder / name
            if file.read_text("utf-8") != text:
                file.write_text(text, "utf-8")

    def stop(self, *, code: int | None = None) -> Ended:
        return self.process.stop(signal.SIGINT, code=code)


def start_run(browser: httpx.Client, **inputs: str) -> str:
    """Press the button of the graph's page; return the id of the run whose page follows."""
    fields = {f"input.{name}": value for name, value in inputs.items()}
    answer = browser.post("/ns/n/graphs/greeting", data=fields)
    assert answer.status_code == 303
    return str(answer.headers["location"]).rpartition("/")[2]


def make(folder: Path, app: str = APP) -> Path:
    (folder / "app.py").write_text(app, "utf-8")
    (folder / "words.py").write_text(WORDS, "utf-8")
    return folder


@pytest.fixture
def processes() -> Iterator[Processes]:
    with Processes() as processes:
        yield processes


# -- a newcomer


def test_a_button_of_the_dashboard_and_the_printed_command_start_runs(
    processes: Processes, tmp_path: Path
) -> None:
    (tmp_path / "browser.py").write_text("import sys; print('opened', sys.argv[1])", "utf-8")
    browser_command = f"{sys.executable} {tmp_path / 'browser.py'} %s"
    left_open = "left_open = open('left-open', 'w'); left_open.write('done')\n"
    dev = Dev(processes, make(tmp_path, left_open + APP), "--open", BROWSER=browser_command)
    page = dev.says(r"^opened (\S+)")[1]
    assert page == (tmp_path / ".exotrio" / "state.db.sign-in.html").as_uri(), (
        "arguments of any process are public"
    )
    browser = dev.signed_in(link_in(page))
    assert "Start a run" in browser.get("/ns/n/graphs/greeting").text
    run_id = start_run(browser, name="Ada")
    dev.says(f"^run {run_id} of graph 'greeting' began")
    dev.says("^Hello Ada")
    dev.says(f"^run {run_id} of graph 'greeting': SUCCESS, 1 state in ")
    assert "greeter" in browser.get("/ns/n/runtimes").text

    with Process([*dev.command(), "-i", "name=Grace"], cwd=tmp_path) as command:
        triggered = command.wait(code=0)
    assert "text: Hello Grace\n" in triggered.out
    dev.says("^run .* began", number=2)  # it looks for other runs now and then
    end = dev.stop(code=0)
    assert "sign-in?link=" not in end.err, "a log has readers who must not sign in"
    assert not is_running(dev.pid())
    assert (tmp_path / "left-open").read_text() == "done", "the user's code ended as Python does"
    assert not list(tmp_path.glob(".exotrio/*sign-in*"))
    assert end.err.count(" began") == 2, "none was started without being asked for"
    assert "Traceback" not in end.err, end
    # A busy machine may leave no time to a process, which is a warning.
    assert not re.search("WARNING(?!.* leases were not checked for )", end.err), end


def test_values_that_do_not_fit_end_it_before_anything_is_done(tmp_path: Path) -> None:
    end = ended("dev", "app.py", "--port", "0", "-i", "nmae=x", cwd=make(tmp_path), code=2)
    assert "has no input 'nmae'; it has: name; did you mean 'name'?" in end.err
    assert "dashboard" not in end.err
    end = ended("dev", "app.py", "--port", "0", "-i", "turns=no", cwd=make(tmp_path, LOCK), code=2)
    assert "input 'turns' of 'lock' in graph 'lock' must be a whole number; it is 'no'" in end.err
    assert "graph lock" not in end.err, "it is refused when the code is loaded, before nodes are registered"


def test_a_secret_that_is_not_in_the_file_is_given_in_the_same_way_to_dev_and_to_run(
    processes: Processes, tmp_path: Path
) -> None:
    folder = make(tmp_path, LOCK)
    dev = Dev(processes, folder, "--secret", "token", "--trigger", token="four")
    dev.says("^turned 1 times by 4")
    dev.says("^run .* of graph 'lock': SUCCESS")
    dev.stop(code=0)
    (folder / "secrets.json").write_text('{"token": "5char"}')
    end = ended("run", "app.py", "--secrets-file", "secrets.json", "-i", "turns=2", cwd=folder, code=0)
    assert "turned 2 times by 5" in end.out
    lacking = ended("run", "app.py", cwd=folder)
    fails(lacking, 3, "secrets: 'token', which node 'Lock' needs, is missing", "or with --secret NAME of run")
    refused = ended("run", "app.py", "--resume", "1", "--secrets-file", "secrets.json", cwd=folder)
    fails(refused, 2, "--resume continues a run as it is: it takes no", "--secret")


def test_a_database_in_memory_has_its_key_in_a_file_as_long_as_it_lasts(
    processes: Processes, tmp_path: Path
) -> None:
    dev = Dev(processes, make(tmp_path), "--db", ":memory:", "--run-key", "greeting 1")
    dev.says("^Hello you")
    command = dev.command()
    with Process([*command, "--run-key", "greeting 1"], cwd=tmp_path) as triggered:
        end = triggered.wait(code=0)
    assert "the run with the key 'greeting 1' existed already" in end.err
    key_file = Path(command[command.index("--key-file") + 1])
    dev.stop(code=0)
    assert not key_file.exists()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["app.py", "words.py"]


def test_a_state_manager_that_is_named_elsewhere_is_left_alone(processes: Processes, tmp_path: Path) -> None:
    env = {"EXOSPHERE_STATE_MANAGER_URI": "http://127.0.0.1:9", "EXOSPHERE_API_KEY": "a-key-of-mine"}
    elsewhere = APP.replace('"greeter",', '"greeter", state_manager_uri="http://127.0.0.1:9", key="k",')
    dev = Dev(processes, make(tmp_path, elsewhere), "--trigger", **env)
    dev.says("^EXOSPHERE_STATE_MANAGER_URI is set and not used: dev runs its own state manager")
    dev.says("^Hello you")
    assert "--key-file" not in dev.command(), "the key is the one that clients have"
    with httpx.Client(trust_env=False) as client:
        uri = dev.command()[dev.command().index("--uri") + 1]
        answer = client.get(f"{uri}/v0/namespaces", headers={"x-api-key": "a-key-of-mine"})
        assert answer.status_code == 200
    dev.stop(code=0)


# -- without reload


@pytest.mark.parametrize(
    ("target", "code", "text"),
    [
        ("ap.py", 3, "there is no file ap.py; did you mean app.py?"),
        ("bad.py", 3, "'Gret' is not registered"),
        ("crash.py", 1, "the runtime ended with exit code 3"),
    ],
    ids=["missing", "invalid", "crash"],
)
def test_code_that_cannot_be_run_ends_it(tmp_path: Path, target: str, code: int, text: str) -> None:
    make(tmp_path)
    (tmp_path / "bad.py").write_text(APP.replace('node_name="Greet"', 'node_name="Gret"'), "utf-8")
    (tmp_path / "crash.py").write_text(APP.replace('"you"', '"crash"'), "utf-8")
    (tmp_path / "crash-now").touch()
    options = ["--reload"] if target == "ap.py" else ["--trigger"]
    end = ended("dev", target, "--port", "0", *options, cwd=tmp_path, code=code)
    assert text in end.err
    assert "waiting" not in end.err
    assert ("not finished: 1 run" in end.err) == (target == "crash.py")


# -- with reload: one dev for all tests, as a developer keeps it running


@pytest.fixture(scope="module")
def day(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Dev, httpx.Client]]:
    with Processes() as processes:
        # It begins with code that is not finished.
        folder = make(tmp_path_factory.mktemp("day"), f"raise RuntimeError('half done')\n{APP}")
        dev = Dev(processes, folder, "--reload")
        dev.says("^error: app.py failed while it was loaded: RuntimeError: half done")
        dev.says("^waiting for a change")
        browser = dev.browser()
        dev.write()
        dev.says("^runtime greeter")
        assert dev.command()
        yield dev, browser
        end = dev.stop(code=0)
        assert end.err.count("dashboard: ") == 1, "said once, for it never changes"
        for noise in ("Traceback", "frozen", "exotrio/cli"):
            assert noise not in end.err, end


@pytest.fixture
def dev(day: tuple[Dev, httpx.Client]) -> Dev:
    """A running ``dev --reload``, with the code as it is at the top of this file."""
    dev, _ = day
    before = dev.process.mark()
    if (dev.folder / "app.py").read_text("utf-8") != APP or (dev.folder / "words.py").read_text() != WORDS:
        dev.write()
        dev.process.line("^runtime greeter", since=before)
    dev.fresh()
    return dev


@pytest.fixture
def browser(day: tuple[Dev, httpx.Client]) -> httpx.Client:
    """Signed in when it began, and still."""
    return day[1]


def test_new_code_takes_over_at_the_same_address(dev: Dev, browser: httpx.Client) -> None:
    half = "GREETING = (\n"
    dev.write(words=half)
    dev.says(r"^error: words.py: SyntaxError: .*, in line 1")
    dev.says("^the runtime continues with the code as it was")
    dev.write(APP + "\n", half)
    dev.says("^the runtime continues with the code as it was", number=2)
    start_run(browser)
    dev.says("^Hello you")
    dev.write(words='GREETING = "Good morning"\n')
    dev.says("words.py changed: the runtime drains, then the code is loaded again")
    dev.says("^runtime greeter: Greet .*; graph greeting")
    start_run(browser)
    dev.says("^Good morning you")


def start_pinned(dev: Dev, browser: httpx.Client) -> None:
    """Load code of version 1, and start a run of it that waits for the file ``go``."""
    (dev.folder / "go").unlink(missing_ok=True)
    dev.write(PINNED.format(version="1"))
    dev.says("^runtime greeter: Greet")
    for _ in range(200):  # the graph is declared once its nodes are registered, and nothing tells of that
        if browser.post("/ns/n/graphs/pinned", data={}).status_code == 303:
            break
        time.sleep(0.05)
    dev.says("^asked version 1")


def test_runs_of_an_earlier_version_are_left_to_another_runtime_that_has_it(
    dev: Dev, browser: httpx.Client, processes: Processes
) -> None:
    start_pinned(dev, browser)
    (dev.folder / "old.py").write_text(PINNED.format(version="1").replace('"greeter"', '"old"'), "utf-8")
    options = dev.command()
    env = {
        "EXOSPHERE_STATE_MANAGER_URI": options[options.index("--uri") + 1],
        "EXOSPHERE_API_KEY_FILE": options[options.index("--key-file") + 1],
    }
    old = processes.start("worker", "old.py", "--code-version", "1", cwd=dev.folder, env=env)
    old.line("^asked version 1")
    dev.write(PINNED.format(version="2"))
    dev.says("^1 run of version 1 left to the other runtimes of that version")
    (dev.folder / "go").touch()
    dev.says("^run .* of graph 'pinned': SUCCESS")
    old.stop(code=0)


def test_runs_of_a_version_are_pointed_out_while_the_code_names_none_and_continue_with_the_next(
    dev: Dev, browser: httpx.Client
) -> None:
    start_pinned(dev, browser)
    dev.write(PINNED.format(version="1").replace('version="1", ', ""))
    dev.says("^warning: 1 run of version 1 cannot continue: the code does not name a version")
    dev.write(PINNED.format(version="2"))
    dev.says("^1 run of version 1 continued with version 2")
    dev.says("^asked version 2")
    (dev.folder / "go").touch()
    dev.says("^run .* of graph 'pinned': SUCCESS")


def test_a_run_of_a_version_is_run_by_its_file_and_continued_by_that_of_the_next_one(
    processes: Processes, tmp_path: Path
) -> None:
    app = tmp_path / "app.py"
    app.write_text(PINNED.format(version="1"), "utf-8")
    process = processes.start("run", "app.py", "--db", "state.db", cwd=tmp_path)
    process.line("asked version 1")
    command = printed_command(process.stop(signal.SIGINT).err)
    (tmp_path / "go").touch()
    app.write_text(PINNED.format(version="2").replace("poll_interval", 'version="2", poll_interval'), "utf-8")
    end = ended(*command[command.index("run") :], cwd=tmp_path, code=0)
    assert "asked version 2" in end.out + end.err


def test_running_states_finish_and_waiting_ones_are_released_before_new_code_is_loaded(dev: Dev) -> None:
    log = Log(dev.folder)
    dev.write(GATED)
    dev.says("^runtime w: ")
    pid = dev.pid()
    with httpx.Client(trust_env=False) as client:
        command = dev.command()
        uri, key_file = (command[command.index(option) + 1] for option in ("--uri", "--key-file"))
        key = (dev.folder / key_file).read_text().strip()
        path = f"/v0/namespace/{gated.NAMESPACE}/graph/gated/trigger"
        body = {"inputs": {}, "store": {}, "start_delay": 0}
        for _ in range(200):  # the graph is declared once its nodes are registered, and nothing tells of that
            status = client.post(uri + path, json=body, headers={"x-api-key": key}).status_code
            if status != 404:
                break
            time.sleep(0.05)
        assert status == 200
    running = log.until("begin", gated.WORKERS)
    (dev.folder / "app.py").touch()
    dev.says("^app.py changed: the runtime drains")
    assert is_running(pid)
    (dev.folder / "open-w").touch()
    dev.pid(number=2)
    assert not is_running(pid)
    # Perhaps with another one, which began before the runtime had heard that it is to drain.
    assert set(running) <= set(log.items("end"))
    dev.says("^run .* of graph 'gated': SUCCESS")
    assert sorted(log.items("begin"), key=int) == gated.RESULT.split(), "each ran once"


def test_code_that_crashes_is_shown_by_its_own_lines_until_what_was_missing_is_there(
    dev: Dev, browser: httpx.Client
) -> None:
    dev.write(words="def made():\n    return undefined\n\nGREETING = made()\n")
    dev.says("^error: app.py failed while it was loaded: NameError: name 'undefined' is not defined")
    dev.says('^  File ".*words.py", line 4, in <module>')
    dev.says('^  File ".*words.py", line 2, in made')
    dev.says("^waiting for a change")
    assert browser.get("/ns/n/graphs/greeting").status_code == 200
    dev.write(words="from later import GREETING\n")
    dev.says("ModuleNotFoundError: No module named 'later'")
    dev.says("^waiting for a change", number=2)
    (dev.folder / "later.py").write_text('GREETING = "Good night"\n', "utf-8")
    dev.says("^later.py changed")
    dev.says("^runtime greeter")
    start_run(browser)
    dev.says("^Good night you")


def test_a_graph_that_became_invalid_is_printed_and_its_status_too(dev: Dev, browser: httpx.Client) -> None:
    dev.write(APP.replace('"greet",', '"greet", next_nodes=["nowhere"],'))
    dev.says("^error: graph 'greeting' is invalid")
    dev.says("node 'greet': next node 'nowhere' is not an identifier of this graph")
    dev.says("^graph 'greeting' stays as it was before")
    start_run(browser)
    dev.says("^Hello you")
    dev.write(APP.replace('{"name": "you"}', '{"nmae": "you"}'))
    dev.says("^graph 'greeting' cannot be triggered until it is fixed")
    assert "invalid" in browser.get("/ns/n/graphs/greeting").text


def test_warnings_name_nodes_and_graphs_that_are_gone(dev: Dev) -> None:
    meet = APP.replace("Greet", "Meet").replace('node_name="Meet"', 'node_name="Greet"')
    dev.write(meet.replace('Graph("greeting"', 'Graph("meeting"'))
    dev.says("^warning: graph 'meeting', node 'greet': the Runtime has no 'Greet', so its states wait")
    dev.says("^warning: graph 'greeting' is no longer in the code; the state manager keeps it")


def test_states_of_a_crashed_runtime_run_again_with_the_next_code(dev: Dev, browser: httpx.Client) -> None:
    run_id = start_run(browser, name="crash")
    pid = dev.says(r"^crash of (\d+)")[1]
    assert f":{pid}:" in browser.get("/ns/n/runtimes").text
    (dev.folder / "crash-now").touch()
    dev.says("^the runtime ended with exit code 3; its claims were released")
    stops, live = "", f":{pid}:"
    while f":{pid}:" in live:  # its leases have ended, and the state manager is about to release the states
        live, _, stops = browser.get("/ns/n/runtimes").text.partition('id="stops"')
    assert f":{pid}:" in stops
    dev.says("^waiting for a change")
    (dev.folder / "app.py").touch()
    dev.says("^Hello crash")
    dev.says(f"^run {run_id} .*SUCCESS")


def test_a_runtime_that_is_drained_from_the_dashboard_leaves_the_state_manager_up(
    dev: Dev, browser: httpx.Client
) -> None:
    def worker() -> str | None:
        match = re.search(r'name="worker" value="(greeter[^"]+)"', browser.get("/ns/n/runtimes").text)
        return match and match[1]

    answer = browser.post("/ns/n/runtimes/drain", data={"worker": until(worker, "a runtime")})
    assert answer.status_code == 303
    dev.says("^the runtime drained and ended, as requested by another command")
    dev.says("^waiting for a change")
    (dev.folder / "app.py").touch()
    dev.says("^runtime greeter")


# -- its own end


def start_gated(processes: Processes, folder: Path, *options: str, **env: str) -> tuple[Dev, int]:
    """Start nodes that run until they are let go; return the id of the process they run in too."""
    dev = Dev(processes, make(folder, GATED), "--trigger", "-v", *options, **env)
    Log(folder).until("begin", gated.WORKERS)
    return dev, dev.pid()


def test_a_signal_drains_and_the_next_start_continues(processes: Processes, tmp_path: Path) -> None:
    dev, pid = start_gated(processes, tmp_path, "--open", BROWSER="/nowhere/browser")
    dev.says("^no browser could be opened")
    dev.process.signal(signal.SIGTERM)
    dev.says("^stopping: running nodes may finish")
    dev.says("asked to stop by SIGTERM: 2 running")
    (tmp_path / "open-w").touch()
    end = dev.process.wait(code=0)
    assert not is_running(pid)
    assert len(Log(tmp_path).items("end")) == gated.WORKERS
    assert "not finished: 1 run; start dev again" in end.err
    assert "Traceback" not in end.err
    dev = Dev(processes, tmp_path)
    dev.says("^not finished earlier, and continued: 1 run")
    dev.says("SUCCESS")
    dev.stop(code=0)


def test_a_second_signal_cancels(processes: Processes, tmp_path: Path) -> None:
    dev, pid = start_gated(processes, tmp_path)
    dev.process.signal(signal.SIGINT)
    dev.says("asked to stop by SIGINT")
    dev.process.stop(signal.SIGINT, code=0)
    assert not is_running(pid)
    assert len(Log(tmp_path).items("cancelled")) == gated.WORKERS


def test_abandoned_outcomes_set_the_exit_code_even_if_the_database_cannot_be_written(
    processes: Processes, tmp_path: Path
) -> None:
    dev, _ = start_gated(processes, tmp_path)
    (tmp_path / ".exotrio" / "state.db").unlink()
    (tmp_path / "open-w").touch()
    dev.says("reporting fails")
    dev.process.signal(signal.SIGINT)
    dev.says("asked to stop by SIGINT")
    end = dev.process.stop(signal.SIGINT, code=75)
    assert "is abandoned" in end.err


def test_a_third_signal_exits_at_once_and_takes_the_runtime_along(
    processes: Processes, tmp_path: Path
) -> None:
    dev, pid = start_gated(processes, tmp_path, STUBBORN="1")
    for sign in ("asked to stop by SIGINT", "cancelling"):
        dev.process.signal(signal.SIGINT)
        dev.says(sign)
    end = dev.process.stop(signal.SIGINT, code=128 + signal.SIGINT)
    until_gone(pid)
    assert "flushing" not in end.err, "it did not go on by itself"
    assert "exiting without waiting; nodes are cut off, and run again when dev is started again\n" in end.err


def test_ctrl_c_typed_at_a_terminal_counts_once_though_both_processes_get_it(tmp_path: Path) -> None:
    from tests.support.terminals import Terminal

    make(tmp_path, GATED)
    log = Log(tmp_path)
    command = [*EXOTRIO, "dev", "app.py", "--port", "0", "--trigger", "-v"]
    with Terminal(command, cwd=tmp_path) as terminal:
        log.until("begin", gated.WORKERS)
        terminal.type("\x03")
        terminal.until("asked to stop by")
        (tmp_path / "open-w").touch()
        assert terminal.wait() == 0
        assert "/sign-in?link=" in terminal.screen
    assert len(log.items("end")) == gated.WORKERS
    assert not log.items("cancelled")


def test_a_stop_while_the_code_is_being_loaded_is_quiet(processes: Processes, tmp_path: Path) -> None:
    dev = Dev(processes, make(tmp_path, f"{APP}\nprint('asleep')\n__import__('time').sleep(600)\n"))
    dev.says("^asleep")
    end = dev.stop(code=0)
    assert "Traceback" not in end.err


def test_the_runtime_drains_by_itself_when_dev_is_killed(processes: Processes, tmp_path: Path) -> None:
    make(tmp_path, GATED.replace("grace=20", "grace=0.2"))
    dev = Dev(processes, tmp_path, "--trigger")
    log = Log(tmp_path)
    log.until("begin", gated.WORKERS)
    pid = dev.pid()
    dev.process.kill()
    until_gone(pid)
    assert len(log.items("cancelled")) == gated.WORKERS, "its nodes were told, not cut off"
