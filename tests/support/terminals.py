"""A process on a pseudo-terminal: what it shows, what is typed, and what it leaves behind."""

from __future__ import annotations

import os
import pty
import subprocess
import termios
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

from tests.support.processes import TEST_TIMEOUT, environment, executed_after


class Terminal:
    """Runs a command whose standard input and error are a terminal; its output stays a pipe.

    Args:
        shows_output: Its output is that terminal too, whose size then is what ``resize`` says.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        cwd: Path,
        env: Mapping[str, str] | None = None,
        shows_output: bool = False,
    ) -> None:
        self._ours, self._theirs = pty.openpty()
        self.resize(100, 30)
        self._before = termios.tcgetattr(self._theirs)
        self._read = bytearray()
        self._more = threading.Condition()
        self._process = subprocess.Popen(
            # Made its controlling terminal, so that a typed Ctrl-C becomes a signal.
            executed_after("import fcntl, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0)", command),
            cwd=cwd,
            env={
                **environment(cwd),
                "TERM": "xterm",
                **({} if shows_output else {"COLUMNS": "100", "LINES": "30"}),
                **(env or {}),
            },
            stdin=self._theirs,
            stdout=self._theirs if shows_output else subprocess.PIPE,
            stderr=self._theirs,
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._pump, daemon=True)
        self._reader.start()
        self.out = ""

    def __enter__(self) -> Terminal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process.poll() is None:
            self._process.kill()
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._process.wait(TEST_TIMEOUT)
        os.close(self._theirs)
        self._reader.join(TEST_TIMEOUT)
        os.close(self._ours)

    @property
    def screen(self) -> str:
        """All that was shown, with its control sequences."""
        return self._read.decode("utf-8", "replace")

    def until(self, text: str) -> None:
        with self._more:
            assert self._more.wait_for(lambda: text in self.screen, TEST_TIMEOUT), self.screen

    def forget(self) -> None:
        """Let ``screen`` hold only what is shown from now on."""
        with self._more:
            self._read.clear()

    def resize(self, columns: int, rows: int) -> None:
        """Make the terminal larger or smaller; the process learns it by a signal."""
        termios.tcsetwinsize(self._theirs, (rows, columns))

    def signal(self, number: int) -> None:
        self._process.send_signal(number)

    def until_stopped(self) -> None:
        """Wait until a signal stops the process; checks that the terminal is as it was."""
        assert os.WIFSTOPPED(os.waitpid(self._process.pid, os.WUNTRACED)[1])
        assert termios.tcgetattr(self._theirs) == self._before

    def type(self, text: str) -> None:
        os.write(self._ours, text.encode())

    def wait(self) -> int:
        """Return the exit code; checks that the terminal is as it was."""
        self.out = (self._process.communicate(timeout=TEST_TIMEOUT)[0] or b"").decode()
        assert termios.tcgetattr(self._theirs) == self._before
        # The end of what was written is read once this has come back round.
        os.write(self._theirs, b"<end>")
        self.until("<end>")
        hidden, visible = self.screen.rfind("\x1b[?25l"), self.screen.rfind("\x1b[?25h")
        assert visible >= hidden, "the cursor stays hidden"
        return self._process.returncode

    def _pump(self) -> None:
        while True:
            try:
                data = os.read(self._ours, 65536)
            except OSError:  # Linux: the other end was closed
                return
            if not data:
                return
            with self._more:
                self._read.extend(data)
                self._more.notify_all()
