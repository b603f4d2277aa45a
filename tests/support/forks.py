"""Processes of ``python -m exotrio`` or ``-c`` without the start of a Python: forks of one that imported it.

Each is a process like any other, which a test signals, kills and waits for. It has its own working directory,
environment, arguments and streams, and ends as an interpreter does; but the modules of most commands are
loaded already, and left as they are at its end.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import IO, Any, NoReturn

from pydantic import BaseModel

LOADED = (
    *("exotrio.cli.commands." + name for name in ("run", "worker", "server", "trigger", "dev")),
    *("exotrio." + name for name in ("cli.runs.local", "cli.runs.each", "cli.dev.session")),
    *("exotrio." + name for name in ("_runtime.runtime", "_link.auto", "manager.web.app")),
    *("httpx", "httpcore", "anyio._backends._trio", "anyio.streams.tls", "prometheus_client.core"),
)
"""What most commands load."""

_NUMBER = struct.Struct("i")


class Fork:
    """A process, with what is used of ``subprocess.Popen``.

    Args:
        output: A file for both streams. Defaults to a pipe for each.
    """

    def __init__(
        self, arguments: Sequence[str], cwd: Path, env: Mapping[str, str], output: IO[bytes] | None = None
    ) -> None:
        self.returncode: int | None = None
        self.stdout: IO[str] | None = None
        self.stderr: IO[str] | None = None
        self._reading = threading.Lock()
        self._state, state = os.pipe()
        pipes = []
        if output is None:
            (out, its_out), (err, its_err) = os.pipe(), os.pipe()
            self.stdout, self.stderr = _text(out), _text(err)
            pipes = [its_out, its_err]
        settings = frozenset(item for item in env.items() if item[0].startswith(("PYTHON", "LC_", "LANG")))
        request = json.dumps([list(arguments), str(cwd), dict(env)]).encode()
        streams = pipes if output is None else [output.fileno(), output.fileno()]
        socket.send_fds(_first(settings), [request], [*streams, state])
        for number in (*pipes, state):
            os.close(number)
        (self.pid,) = _NUMBER.unpack(os.read(self._state, _NUMBER.size))

    def poll(self) -> int | None:
        return self._ended(0)

    def wait(self, timeout: float | None = None) -> int:
        if self._ended(timeout) is None:
            raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0)
        assert self.returncode is not None
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            with suppress(ProcessLookupError):  # it ends just now
                os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def _ended(self, timeout: float | None) -> int | None:
        if select.select([self._state], [], [], timeout)[0]:
            with self._reading:
                if self.returncode is None:
                    (self.returncode,) = _NUMBER.unpack(os.read(self._state, _NUMBER.size))
        return self.returncode

    def __del__(self) -> None:
        os.close(self._state)


def _text(number: int) -> IO[str]:
    return open(number, encoding="utf-8", errors="backslashreplace")


@cache
def _first(settings: frozenset[tuple[str, str]]) -> socket.socket:
    """Start the process that is forked, with what a Python reads when it starts. It ends with this one."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.support.forks", str(theirs.fileno())],
        cwd="/",  # which stands in sys.path, before the package that is tested
        env={"HOME": "/", **dict(settings)},
        pass_fds=[theirs.fileno()],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    theirs.close()

    @atexit.register
    def end() -> None:
        ours.close()
        process.communicate()

    if not ours.recv(1):
        raise RuntimeError(process.communicate()[1].decode())
    return ours


def _serve(control: socket.socket) -> tuple[str, str]:
    """Fork at each request, and tell how each fork ended. Return in a fork only: its option and what of."""
    for module in LOADED:
        importlib.import_module(module)
    models: list[type[BaseModel]] = [BaseModel]
    for model in models:
        models += model.__subclasses__()
        if model.__module__.startswith("exotrio."):
            model.model_rebuild()  # of those that are built when they are first used
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    signal.set_wakeup_fd(wake)
    gc.freeze()  # or each fork would copy all of it at its first collection
    control.send(b"!")
    states: dict[int, int] = {}
    while True:
        readable: list[Any] = [control, woken]
        if woken in select.select(readable, [], [])[0]:
            os.read(woken, 4096)
            for pid in list(states):
                ended, status = os.waitpid(pid, os.WNOHANG)
                if ended:
                    os.write(states[pid], _NUMBER.pack(os.waitstatus_to_exitcode(status)))
                    os.close(states.pop(pid))
            continue
        request, numbers, _, _ = socket.recv_fds(control, 1 << 20, 3)
        if not request:
            sys.exit()
        out, err, state = numbers
        pid = os.fork()
        if pid == 0:
            break
        os.write(state, _NUMBER.pack(pid))
        states[pid] = state
        os.close(out)
        os.close(err)
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    control.close()
    os.dup2(out, 1)
    os.dup2(err, 2)
    for number in (out, err, state, woken, wake, *states.values()):
        os.close(number)
    arguments, cwd, env = json.loads(request)
    os.chdir(cwd.encode())
    os.environb.clear()
    os.environb.update({name.encode(): value.encode() for name, value in env.items()})
    arguments = [os.fsdecode(each.encode()) for each in arguments]  # as an interpreter does in its locale
    sys.path[0] = os.getcwd()
    sys.orig_argv[:] = [sys.executable, *arguments]
    option, what, *rest = arguments
    sys.argv[:] = [option, *rest]
    return option, what


def _run(option: str, what: str) -> int:
    """Execute it, and return its exit code. An error is raised, as what is to be printed at the end is."""
    try:
        if option == "-m":
            runpy.run_module(what, run_name="__main__", alter_sys=True)
        else:
            main = sys.modules["__main__"] = ModuleType("__main__")
            exec(compile(what, "<string>", "exec"), vars(main))
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return end.code or 0
        raise
    return 0


def _end(code: int, loaded: set[str]) -> NoReturn:
    """End as an interpreter does, except that it clears the modules that this one had ``loaded``.

    Each page of memory that holds some of them would be copied, which takes longer than most commands.
    """
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for name in sys.modules.keys() - loaded:
        del sys.modules[name]
    gc.collect()  # what is left open is warned of
    try:
        for stream in (sys.stdout, sys.stderr):
            if stream is not None and not stream.closed:
                stream.flush()
    except OSError:
        sys.exit(code)  # the interpreter says so
    os._exit(code & 0xFF)


if __name__ == "__main__":
    option, what = _serve(socket.socket(fileno=int(sys.argv[1])))
    loaded = set(sys.modules) - {"__main__"}
    _end(_run(option, what), loaded)
