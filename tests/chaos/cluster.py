"""A state manager and its workers as real processes, each of which may be killed at any time."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import trio

from exotrio._shared.settings import DATABASE_VARIABLE
from tests.chaos.clock import Clock
from tests.chaos.plan import MAX_STATEMENT
from tests.chaos.state_manager import STATEMENT_LIMIT
from tests.support.forks import Fork
from tests.support.helpers import free_port
from tests.support.processes import KEY, environment, start

START = 60.0
"""Seconds a process may take to start, on a machine that has other things to do."""


@dataclass(slots=True)
class Child:
    """One process, its log, and how it ended."""

    name: str
    log: Path
    process: subprocess.Popen[str] | Fork
    began: float
    ended: float | None = None
    _finished: trio.Event = field(default_factory=trio.Event)

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def code(self) -> int | None:
        """The exit code; negative for a signal; None while it runs."""
        return self.process.returncode if self.ended is not None else None

    def send(self, number: signal.Signals) -> None:
        """Send a signal; too late is no error."""
        if self.ended is None:
            self.process.send_signal(number)

    async def reap(self) -> None:
        """Wait for its end and note the time."""
        await trio.to_thread.run_sync(self.process.wait, abandon_on_cancel=True)
        self.ended = time.monotonic()
        self._finished.set()

    async def wait(self) -> int:
        """Wait for its end and return the exit code."""
        await self._finished.wait()
        assert self.process.returncode is not None
        return self.process.returncode

    def has_logged(self, text: str) -> bool:
        """Whether its log holds ``text``."""
        return text in self.log.read_text("utf-8", "backslashreplace")


@dataclass(slots=True)
class Cluster:
    """Starts processes in a folder. The nursery it lives in reaps them; ``kill_all`` ends them.

    Args:
        folder: Database, logs and journal.
        nursery: Where the processes are waited for.
        file: The workers' file.
        server_options: For ``python -m exotrio server``.
        worker_env: For the workers.
        managers: State managers, all on the same database.
        database: Its URL on PostgreSQL. None: a file in the folder.

    Attributes:
        ports: The state managers', over all restarts.
        servers: The state managers, in the order of their ports.
        port: The first one's.
        uri: Where workers find it.
        clock: What sets the wall clock of the state manager, over all restarts.
    """

    folder: Path
    nursery: trio.Nursery
    file: Path
    server_options: tuple[str, ...] = ()
    worker_env: Mapping[str, str] = field(default_factory=dict)
    managers: int = 1
    database: str | None = None
    uri: str = ""
    ports: list[int] = field(init=False)
    servers: dict[int, Child] = field(default_factory=dict)
    children: list[Child] = field(default_factory=list)
    clock: Clock = field(init=False)

    def __post_init__(self) -> None:
        self.ports = [free_port() for _ in range(self.managers)]
        self.clock = Clock(self.folder / "clock")
        self.uri = self.uri or f"http://127.0.0.1:{self.port}"

    @property
    def port(self) -> int:
        return self.ports[0]

    async def start_server(self, number: int = 0) -> Child:
        """Start a state manager and wait until it serves. The wall clock that is set is the first one's."""
        options = ["--port", str(self.ports[number]), "--key", KEY, *self.server_options]
        env = {} if number else self.clock.env
        if self.database is None:
            options += ["--db", str(self.folder / "state.db")]
        else:
            env = {**env, DATABASE_VARIABLE: self.database, STATEMENT_LIMIT: f"{MAX_STATEMENT:g}"}
        server = await self._start("server", ("tests.chaos.state_manager", "server", *options), env)
        self.servers[number] = server
        with trio.fail_after(START):
            while not server.has_logged("serving "):
                if server.ended is not None:
                    raise RuntimeError(f"the server ended: {server.log.read_text()}")
                await trio.sleep(0.02)
        return server

    async def start_worker(self, name: str, **env: str) -> Child:
        """Start a worker process. ``ready`` tells when it is registered."""
        where = {"EXOSPHERE_STATE_MANAGER_URI": self.uri, "EXOSPHERE_API_KEY": KEY}
        return await self._start(
            name, ("exotrio", "worker", str(self.file)), {**where, **self.worker_env, **env}
        )

    async def kill_all(self) -> None:
        """End whatever still runs."""
        for child in self.children:
            child.send(signal.SIGKILL)
        for child in self.children:
            # Not by ``child.wait``: what ends all may have ended the nursery that reaps them.
            await trio.to_thread.run_sync(child.process.wait)

    async def _start(self, name: str, command: tuple[str, ...], env: Mapping[str, str]) -> Child:
        log = self.folder / "logs" / f"{name}-{len(self.children)}.log"
        with log.open("wb") as file:
            process = start(
                [sys.executable, "-m", *command], self.folder, environment(self.folder, env), file
            )
        child = Child(name, log, process, time.monotonic())
        self.children.append(child)
        self.nursery.start_soon(child.reap)
        return child


def ready(child: Child) -> bool:
    """Whether a worker is registered."""
    return child.has_logged(" is registered in ")


async def until(condition: Callable[[], bool]) -> None:
    """Wait for something that happens in another process, where no event can tell of it."""
    while not condition():  # noqa: ASYNC110
        await trio.sleep(0.02)
