"""One replica of a system in ``tests.bench.arena``: submits and runs jobs until it gets SIGTERM.

It reads commands from standard input, one a line:

    ENQUEUE n       submit so many more jobs
    DEPTH n         always keep so many jobs waiting or running

The end of input is the end of submitting; the jobs go on. Each job has a payload of 256 bytes and waits for
as long as its work takes. What was submitted and what was done goes into a journal, one write each, so that
what a killed process has written stays; its lines are explained in ``tests.bench.arena.journal``.
"""

from __future__ import annotations

import os
import sys
import time
from itertools import count

import anyio

from tests.bench.adapters import Adapter

PAYLOAD = 256
"""Bytes of a payload."""
BATCH = 128
"""Jobs in one call."""
RETRY = 0.1
"""Seconds until the next try after the system refused jobs."""


class Replica:
    """The state of this process.

    Args:
        journal: Its file, whose name no other replica has.
        work: Seconds that a job takes.
    """

    def __init__(self, journal: str, work: float) -> None:
        self.system: Adapter
        self._name = os.path.basename(journal)
        self._journal = os.open(journal, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        self._work = work
        self._ordered = self._depth = 0
        self._submitted = self._done = 0
        self._closed = False
        self._changed = anyio.Event()

    async def perform(self, payload: str) -> str:
        number, submitted, _ = payload.split(maxsplit=2)
        waited = time.monotonic() - float(submitted)
        await anyio.sleep(self._work)
        self._write(f"done {number} {time.monotonic():.3f} {waited:.4f}")
        self._done += 1
        self._change()
        return number

    async def read_commands(self) -> None:
        rest = b""
        while True:
            await anyio.wait_readable(sys.stdin)
            if not (data := os.read(sys.stdin.fileno(), 65536)):
                self._closed = True
                self._change()
                return
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                word, number = line.split()
                if word == b"ENQUEUE":
                    self._ordered += int(number)
                else:
                    self._depth = int(number)
            self._change()

    async def submit_ordered(self) -> None:
        numbers = count()
        while not self._closed:
            missing = self._ordered
            if self._depth:
                missing = self._depth - (self._submitted - self._done)
            if missing <= 0:
                await self._changed.wait()
                continue
            await self._submit([f"{self._name}-{next(numbers)}" for _ in range(min(missing, BATCH))])
        self._write("closed")

    async def _submit(self, names: list[str]) -> None:
        now = f"{time.monotonic():.4f}"
        try:
            await self.system.submit([f"{name} {now} ".ljust(PAYLOAD, "x") for name in names])
        except Exception as error:
            # Whether they were stored is unknown, so the next try is with other ones.
            print(f"{len(names)} jobs were not submitted: {error!r}", file=sys.stderr, flush=True)
            self._write(f"refused {len(names)}")
            await anyio.sleep(RETRY)
            return
        self._ordered = max(0, self._ordered - len(names))
        self._submitted += len(names)
        self._write(f"stored {' '.join(names)}")

    def _change(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()

    def _write(self, line: str) -> None:
        os.write(self._journal, f"{line}\n".encode())
