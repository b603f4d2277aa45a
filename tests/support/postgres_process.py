"""Run a server until standard input ends, as it does even if the tests are killed.

    python postgres_process.py FOLDER READY USER COMMAND...

Reads lines and answers each with one: ``start`` with the server's process id once the file READY is a
socket or has a line ``ready``, or with ``failed``; the name of a signal with ``ended`` once the server
ended from it. FOLDER goes in the end, with all it holds. The server is this process's child: in a container
no other process might collect it.
"""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

TEST_TIMEOUT = 60.0
"""Seconds for the server to start, after a crash for instance, or to end."""


class Server:
    def __init__(self, log: Path, ready: Path, user: str, command: list[str]) -> None:
        self._log = log
        self._ready = ready
        self._user = user or None
        self._command = command
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> str:
        # What a server that was killed left there would be taken for this one's.
        self._ready.unlink(missing_ok=True)
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                user=self._user,
                # The groups of the user who runs the tests are not the server's.
                extra_groups=[] if self._user else None,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + TEST_TIMEOUT
        while time.monotonic() < deadline and self._process.poll() is None:
            if self._is_ready():
                return str(self._process.pid)
            time.sleep(0.005)
        return "failed"

    def end(self, number: signal.Signals) -> str:
        assert self._process is not None
        self._process.send_signal(number)
        # It may be suspended.
        self._process.send_signal(signal.SIGCONT)
        try:
            self._process.wait(TEST_TIMEOUT)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        return "ended"

    def close(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self.end(signal.SIGQUIT)

    def _is_ready(self) -> bool:
        if self._ready.is_socket():
            return True
        try:
            return "ready" in self._ready.read_text().split()
        except OSError:  # it is not there yet, or became a socket a moment ago
            return False


def main() -> None:
    folder = Path(sys.argv[1])
    server = Server(folder / "log", Path(sys.argv[2]), sys.argv[3], sys.argv[4:])
    try:
        for line in sys.stdin:
            word = line.strip()
            print(server.start() if word == "start" else server.end(signal.Signals[word]), flush=True)
    finally:
        server.close()
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
