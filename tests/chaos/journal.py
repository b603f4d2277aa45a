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

ENDS = frozenset({"done", "errored", "pruned", "requeued", "handed-over", "cancelled"})
GOES_ON = frozenset({"errored", "requeued", "handed-over", "cancelled"})
"""Those after which the next execution goes on from the checkpoint of this one."""


def key_of(node: str, inputs: Mapping[str, Any]) -> str:
    """Return what names a piece of work, whichever state and attempt it is done under."""
    return "/".join(part for part in (inputs["run"], node, inputs.get("index", "")) if part)


@dataclass(slots=True)
class Execution:
    """One execution of a node.

    Attributes:
        id: Unique; the node gives it out as its output ``by``.
        version: Of the runtime; empty if it has none.
        ended: When it ended, or None if it was cut.
        end: How, of ``ENDS``.
        owner: Whose checkpoint it received: the key of that work; ``-`` if it received none.
        received: How many parts were done, as this says. None: it was cut before it entered that.
        parts: How many are done, as the newest checkpoint says that it has set; 0 if it has set none.
    """

    id: str
    key: str
    pid: int
    began: float
    version: str = ""
    ended: float | None = None
    end: str = ""
    owner: str = "-"
    received: int | None = None
    parts: int = 0


class Journal:
    """Writes the journal, from any number of processes and threads.

    Args:
        path: Its file.
        pid: The process of the runtime. Defaults to this one.
        version: Of the runtime.
    """

    def __init__(self, path: Path, pid: int | None = None, version: str = "") -> None:
        self._version = version
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

    def receive(self, execution: str, key: str, owner: str, parts: int) -> None:
        """Enter the checkpoint it begins with: whose work it is, and how many parts of it are done."""
        self._write("received", execution, key, parts, owner or "-")

    def set(self, execution: str, key: str, parts: int) -> None:
        """Enter that it has set a checkpoint."""
        self._write("set", execution, key, parts)

    def store(self, execution: str, key: str, parts: int) -> None:
        """Enter that its checkpoint is on disk, as the state manager says."""
        self._write("stored", execution, key, parts)

    def _write(self, what: str, execution: str, key: str, parts: int = 0, owner: str = "-") -> None:
        # One write, so that lines of several processes do not mix.
        words = what, execution, key, self._pid, f"{time.monotonic():.6f}", parts, owner, self._version
        os.write(self._file, f"{' '.join(map(str, words))}\n".encode())
        os.fsync(self._file)


@dataclass(slots=True)
class Reading:
    """The journal so far, read as it grows.

    Attributes:
        stored: When a checkpoint of each piece of work was on disk, and how many parts are done, as it says.
    """

    path: Path
    executions: dict[str, Execution] = field(default_factory=dict)
    by_key: dict[str, list[Execution]] = field(default_factory=lambda: defaultdict(list))
    stored: dict[str, list[tuple[float, int]]] = field(default_factory=lambda: defaultdict(list))
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
            what, execution_id, key, pid, at, parts, owner, version = line.split(" ")
            match what:
                case "begin":
                    execution = Execution(execution_id, key, int(pid), float(at), version)
                    self.executions[execution_id] = execution
                    self.by_key[key].append(execution)
                    self._running[execution.pid][execution_id] = execution
                case "received":
                    execution = self.executions[execution_id]
                    execution.owner, execution.received = owner, int(parts)
                case "set":
                    self.executions[execution_id].parts = int(parts)
                case "stored":
                    self.stored[key].append((float(at), int(parts)))
                case _:
                    execution = self.executions[execution_id]
                    execution.ended, execution.end = float(at), what
                    del self._running[execution.pid][execution_id]

    def running(self, pid: int) -> list[Execution]:
        """Return what a process runs; of a process that ended, what it was running then."""
        return list(self._running[pid].values())
