"""The journal of executions: what nodes say they did, each line on disk before the node goes on.

It is the oracle: neither the runtime nor the state manager has a hand in it, and kill -9 takes
nothing of it back. Times are of the machine's monotonic clock, which all processes share.
"""

from __future__ import annotations

import os
import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

ENDS = frozenset({"done", "errored", "pruned", "requeued", "cancelled"})


def key_of(node: str, inputs: Mapping[str, Any]) -> str:
    """Return what names a piece of work, whichever state and attempt it is done under."""
    return "/".join(part for part in (inputs["run"], node, inputs.get("index", "")) if part)


@dataclass(slots=True)
class Execution:
    """One execution of a node.

    Attributes:
        id: Unique; the node gives it out as its output ``by``.
        ended: When it ended, or None if it was cut.
        end: How, of ``ENDS``.
    """

    id: str
    key: str
    pid: int
    began: float
    ended: float | None = None
    end: str = ""


class Journal:
    """Writes the journal, from any number of processes and threads.

    Args:
        path: Its file.
        pid: The process of the runtime. Defaults to this one.
    """

    def __init__(self, path: Path, pid: int | None = None) -> None:
        self._pid = os.getpid() if pid is None else pid
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def begin(self, key: str) -> str:
        """Enter the beginning of an execution and return its id."""
        execution = f"{self._pid}-{uuid4().hex[:12]}"
        self._write("begin", execution, key)
        return execution

    def end(self, execution: str, key: str, how: str) -> None:
        """Enter its end."""
        assert how in ENDS
        self._write(how, execution, key)

    def _write(self, what: str, execution: str, key: str) -> None:
        # One write, so that lines of several processes do not mix.
        os.write(self._file, f"{what} {execution} {key} {self._pid} {time.monotonic():.6f}\n".encode())
        os.fsync(self._file)


@dataclass(slots=True)
class Reading:
    """The journal so far, read as it grows."""

    path: Path
    executions: dict[str, Execution] = field(default_factory=dict)
    by_key: dict[str, list[Execution]] = field(default_factory=lambda: defaultdict(list))
    _running: dict[int, dict[str, Execution]] = field(default_factory=lambda: defaultdict(dict))
    _offset: int = 0

    def update(self) -> None:
        """Read on."""
        if not self.path.exists():
            return
        with self.path.open("rb") as file:
            file.seek(self._offset)
            data = file.read()
        whole = data[: data.rfind(b"\n") + 1]
        self._offset += len(whole)
        for line in whole.decode().splitlines():
            what, execution_id, key, pid, at = line.split(" ")
            if what == "begin":
                execution = Execution(execution_id, key, int(pid), float(at))
                self.executions[execution_id] = execution
                self.by_key[key].append(execution)
                self._running[execution.pid][execution_id] = execution
            else:
                execution = self.executions[execution_id]
                execution.ended, execution.end = float(at), what
                del self._running[execution.pid][execution_id]

    def running(self, pid: int) -> list[Execution]:
        """Return what a process runs; of a process that ended, what it was running then."""
        return list(self._running[pid].values())
