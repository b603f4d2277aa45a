"""Real processes of ``python -m exotrio``: started, read line by line, signalled, always ended."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from html import unescape
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from exotrio import _version
from tests.support.forks import Fork

TEST_TIMEOUT = 60.0
"""Seconds until a test gives up on a process. Nothing is ever expected to take that long."""

FORKS = os.environ.get("EXOTRIO_TEST_FORKS") != "0"
"""Whether processes of ours are forked, at a quarter of the cost of a start."""

EXOTRIO = (sys.executable, "-m", "exotrio")
ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
KEY = "a-key-for-tests"
Mark = dict[str, int]


@dataclass(frozen=True)
class Ended:
    """How a process ended. A signal that killed it is a negative code."""

    code: int
    out: str
    err: str

    def __str__(self) -> str:
        return f"exit code {self.code}\n--- stdout\n{self.out}\n--- stderr\n{self.err}"


class Process:
    """One process, as a context manager: whatever happens to the test, it does not outlive it."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        cwd: Path,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self.command = tuple(command)
        self._lines: dict[str, list[str]] = {"out": [], "err": []}
        self._more = threading.Condition()
        self._popen = start(self.command, cwd, environment(cwd, env))
        self.pid = self._popen.pid
        self._readers = [
            threading.Thread(target=self._read, args=(name, pipe), daemon=True)
            for name, pipe in (("out", self._popen.stdout), ("err", self._popen.stderr))
        ]
        for reader in self._readers:
            reader.start()

    def __enter__(self) -> Process:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._popen.poll() is None:
            self._popen.kill()
        self._popen.wait(TEST_TIMEOUT)
        for reader in self._readers:
            reader.join(TEST_TIMEOUT)
        for pipe in (self._popen.stdout, self._popen.stderr):
            assert pipe is not None
            pipe.close()

    def mark(self) -> Mark:
        """Return how far it has written, to look only for what comes after."""
        with self._more:
            return {name: len(lines) for name, lines in self._lines.items()}

    def line(
        self, pattern: str, *, number: int = 1, since: Mark | None = None, timeout: float = TEST_TIMEOUT
    ) -> re.Match[str]:
        """Return the match of the ``number``-th line, of either stream, in which ``pattern`` is found.

        Args:
            since: Only among the lines after this.
            timeout: Seconds until the test fails.
        """
        deadline = time.monotonic() + timeout
        with self._more:
            while True:
                matches = [
                    match
                    for name, lines in self._lines.items()
                    for line in lines[(since or {}).get(name, 0) :]
                    if (match := re.search(pattern, line))
                ]
                if len(matches) >= number:
                    return matches[number - 1]
                left = deadline - time.monotonic()
                over = self._popen.poll() is not None and not any(r.is_alive() for r in self._readers)
                if left <= 0 or over:
                    raise AssertionError(f"no line {number} with {pattern!r} came; {self.so_far()}")
                self._more.wait(min(left, 0.1))

    def stop(self, number: signal.Signals = signal.SIGTERM, *, code: int | None = None) -> Ended:
        """Send a signal, and return how it ended, as ``wait`` does."""
        self.signal(number)
        return self.wait(code=code)

    def signal(self, number: signal.Signals) -> None:
        self._popen.send_signal(number)

    def kill(self) -> None:
        """As ``kill -9`` does it."""
        self._popen.kill()
        self._popen.wait(TEST_TIMEOUT)

    def wait(self, *, code: int | None = None) -> Ended:
        """Return how it ended, which has to be with this exit code, if one is given."""
        try:
            self._popen.wait(TEST_TIMEOUT)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"it did not end; {self.so_far()}") from None
        for reader in self._readers:
            reader.join(TEST_TIMEOUT)
        end = self.so_far()
        assert code in (None, end.code), end
        return end

    def so_far(self) -> Ended:
        """Return what it has written; the code is -1000 while it runs."""
        code = self._popen.returncode
        return Ended(
            -1000 if code is None else code, "".join(self._lines["out"]), "".join(self._lines["err"])
        )

    def _read(self, name: str, pipe: IO[str]) -> None:
        for line in pipe:
            with self._more:
                self._lines[name].append(line)
                self._more.notify_all()


def start(
    command: Sequence[str], cwd: Path, env: Mapping[str, str], output: IO[bytes] | None = None
) -> subprocess.Popen[str] | Fork:
    """Start a process with exactly this environment, and a pipe for each stream or a file for both."""
    if FORKS and tuple(command[:2]) in ((sys.executable, "-m"), (sys.executable, "-c")):
        return Fork(command[1:], cwd, env, output)
    return subprocess.Popen(
        command,
        cwd=cwd,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=output or subprocess.PIPE,
        stderr=output or subprocess.PIPE,
        encoding="utf-8",
        errors="backslashreplace",
    )


def is_running(pid: int) -> bool:
    """Whether a process still runs: one that ended, and whose parent has not asked for it yet, does not.

    What it holds is free when the last of its threads has ended.
    """
    for thread in Path(f"/proc/{pid}/task").glob("*/stat"):
        with suppress(OSError):  # it has ended meanwhile
            if thread.read_text().rpartition(") ")[2][0] not in "ZX":
                return True
    return False


def until_gone(*pids: int) -> None:
    """Wait until processes have ended that may be no children of ours."""
    deadline = time.monotonic() + TEST_TIMEOUT
    while running := [pid for pid in pids if is_running(pid)]:
        assert time.monotonic() < deadline, f"they go on: {running}"
        time.sleep(0.01)


def environment(home: Path, more: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return an environment without anything of the machine that exotrio or Python would read."""
    kept = {name: os.environ[name] for name in ("PATH", "SYSTEMROOT", "TMPDIR") if name in os.environ}
    ours = {
        "HOME": str(home),
        "LANG": "C.UTF-8",
        "PYTHONDONTWRITEBYTECODE": "1",
        # The package that the tests import, which is a changed copy where a safeguard was taken out of it.
        "PYTHONPATH": os.pathsep.join([str(Path(_version.__file__).parents[1]), str(ROOT)]),
        "PYTHONWARNINGS": "error",
    }
    return {**kept, **ours, **(more or {})}


def exotrio(
    *arguments: str | Path, cwd: Path, env: Mapping[str, str] | None = None, after: str = ""
) -> Process:
    """Start ``python -m exotrio``, in a process that executed the code ``after`` before."""
    command = [*EXOTRIO, *map(str, arguments)]
    return Process(executed_after(after, command) if after else command, cwd=cwd, env=env)


def executed_after(code: str, command: Sequence[str]) -> list[str]:
    """Return the command that executes Python code, then becomes ``command``.

    Not ``preexec_fn``: newer Pythons warn of it where threads run.
    """
    return [
        sys.executable,
        "-c",
        f"import os, sys; {code}; os.execv(sys.argv[1], sys.argv[1:])",
        *command,
    ]


def disk_of(size: int) -> str:
    """Return code after which no file can grow beyond ``size`` bytes, as on a full disk.

    Python ignores SIGXFSZ, so the write fails.
    """
    return f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({size}, {size}))"


def ended(
    *arguments: str | Path,
    cwd: Path,
    env: Mapping[str, str] | None = None,
    after: str = "",
    code: int | None = None,
) -> Ended:
    """Run ``python -m exotrio`` to its end, as ``Process.wait`` does."""
    with exotrio(*arguments, cwd=cwd, env=env, after=after) as process:
        return process.wait(code=code)


def printed_command(text: str) -> list[str]:
    """Return the command by which an interrupted run says it can be continued."""
    match = re.search(r"Continue with:\n  (.+)\n", text)
    assert match is not None, text
    return shlex.split(match[1])


def as_printed(
    text: str, *, cwd: Path, env: Mapping[str, str] | None = None, code: int | None = None
) -> Ended:
    """Execute the command that an interrupted run printed, and wait for it."""
    with Process(printed_command(text), cwd=cwd, env=env) as process:
        return process.wait(code=code)


@dataclass(frozen=True)
class Server:
    """A running state manager."""

    process: Process
    uri: str

    @property
    def env(self) -> dict[str, str]:
        return {"EXOSPHERE_STATE_MANAGER_URI": self.uri, "EXOSPHERE_API_KEY": KEY}

    def get(self, path: str, **headers: str) -> tuple[int, Any]:
        """Return status and JSON of an answer."""
        return self._answer("GET", path, None, headers)

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        """Send JSON, if any, and return that of an answer that has to be a success."""
        data = None if body is None else json.dumps(body).encode()
        status, answer = self._answer(method, path, data, {"content-type": "application/json"})
        assert status < 300, f"{method} {path}: {status} {answer}"
        return answer

    def _answer(
        self, method: str, path: str, data: bytes | None, headers: Mapping[str, str]
    ) -> tuple[int, Any]:
        request = urllib.request.Request(
            self.uri + path, data=data, headers={"x-api-key": KEY, **headers}, method=method
        )
        try:
            with _opener.open(request, timeout=TEST_TIMEOUT) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.load(error)


NOWHERE = Server(None, "http://127.0.0.1:9")  # type: ignore[arg-type]
"""A state manager that is not there."""

_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@contextmanager
def server(cwd: Path, *arguments: str, env: Mapping[str, str] | None = None) -> Iterator[Server]:
    """Run ``python -m exotrio server`` on a free port for as long as the block lasts."""
    with exotrio("server", "--port", "0", "--key", KEY, *arguments, cwd=cwd, env=env) as process:
        yield Server(process, process.line(r"serving .* on (http://[^\s\"]+)")[1])


class Processes(ExitStack):
    """Several processes that end together with a test."""

    def start(self, *arguments: str | Path, cwd: Path, env: Mapping[str, str] | None = None) -> Process:
        return self.enter_context(exotrio(*arguments, cwd=cwd, env=env))

    def server(self, cwd: Path, *arguments: str) -> Server:
        return self.enter_context(server(cwd, *arguments))


def link_in(page: str | Path) -> str:
    """Return where a page leads that signs a browser in; each user who may read it may sign in."""
    path = Path(urllib.parse.unquote(str(page).removeprefix("file://")))
    assert path.stat().st_mode & 0o777 == 0o600, path
    match = re.search(r'url=(http[^"]+)"', path.read_text("utf-8"))
    assert match is not None, path
    return unescape(match[1])
