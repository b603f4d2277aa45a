"""The processes of a system in a cell: started, given commands, killed, and stopped."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import trio

from tests.bench.places import ROOT
from tests.bench.systems import Installed, environment

EXIT = 5.0
"""Seconds from SIGTERM within which a replica has to end."""
KILLED_AFTER = 10.0
"""Seconds from SIGTERM until a replica that has not ended is killed."""
START = 60.0


@dataclass
class Replicas:
    """The replicas of one system at one address.

    Attributes:
        folder: For their journals and their logs.
        options: Of each replica: how many jobs at once, for example.
        exits: Seconds from SIGTERM to the end, of each that was stopped.
        died: How many ended by themselves.
    """

    system: Installed
    address: str
    folder: Path
    options: tuple[str, ...]
    exits: list[float] = field(default_factory=list)
    died: int = 0
    _processes: list[trio.Process] = field(default_factory=list)
    _journals: dict[trio.Process, Path] = field(default_factory=dict)
    _numbers: Iterator[int] = field(default_factory=count)

    async def start(self, number: int) -> None:
        """Start a replica in a place that is free, and return when it works."""
        journal = self.folder / f"replica-{next(self._numbers)}"
        command = self.system.command("arena", self.address, "--journal", str(journal), *self.options)
        with journal.with_name(f"log-{journal.name}").open("wb") as log:
            process = await trio.lowlevel.open_process(
                command, stdin=-1, stdout=-1, stderr=log, env=environment(), cwd=ROOT
            )
        self._processes[number:] = [process, *self._processes[number + 1 :]]
        self._journals[process] = journal
        with trio.fail_after(START):
            assert process.stdout is not None
            if not (await process.stdout.receive_some()).startswith(b"working"):
                raise RuntimeError(f"{self.system.kind.name} did not start: {self.logs[-2_000:]}")

    def is_running(self, number: int) -> bool:
        return self._processes[number].poll() is None

    async def kill(self, number: int) -> None:
        self._processes[number].kill()
        await self._processes[number].wait()

    async def send(self, command: str) -> None:
        """Give all that run a command; what has died gets none."""
        for process in self._processes:
            if process.poll() is None:
                assert process.stdin is not None
                # It may end at this moment.
                with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                    await process.stdin.send_all(f"{command}\n".encode())

    async def check(self) -> None:
        """Start those again that ended by themselves, as their host would do."""
        for number, process in enumerate(self._processes):
            if process.poll() is not None and process.returncode != -signal.SIGKILL:
                self.died += 1
                await self.start(number)

    @property
    def journals(self) -> set[Path]:
        """Those of the replicas that are there now."""
        return {self._journals[process] for process in self._processes}

    async def close_inputs(self) -> None:
        """Let them submit no more jobs."""
        for process in self._processes:
            assert process.stdin is not None
            await process.stdin.aclose()

    async def stop(self) -> None:
        """End all by SIGTERM."""
        async with trio.open_nursery() as nursery:
            for process in self._processes:
                if process.poll() is None:
                    nursery.start_soon(self._stop, process)

    async def _stop(self, process: trio.Process) -> None:
        begin = time.monotonic()
        process.terminate()
        with trio.move_on_after(KILLED_AFTER):
            await process.wait()
        if process.poll() is None:
            process.kill()
            await process.wait()
        self.exits.append(time.monotonic() - begin)

    async def kill_all(self) -> None:
        """Leave no process behind, whatever happened."""
        with trio.move_on_after(KILLED_AFTER) as scope:
            scope.shield = True
            for process in self._processes:
                if process.poll() is None:
                    process.kill()
                await process.wait()

    @property
    def logs(self) -> str:
        return "".join(path.read_text(errors="replace") for path in sorted(self.folder.glob("log-*")))
