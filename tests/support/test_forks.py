from __future__ import annotations

import signal
import sys
from pathlib import Path

import pytest

from tests.support import processes
from tests.support.processes import Process, ended

SCRIPT = """
import os, signal, sys, threading, warnings

streams = sys.stdin, sys.stdout, sys.stderr
for found in (
    *(sys.argv, sys.orig_argv, sys.path, sys.flags, warnings.filters, os.getcwd(), dict(os.environ)),
    [(each.fileno(), each.encoding, each.errors, each.line_buffering, each.isatty()) for each in streams],
    [os.fstat(number).st_mode for number in range(3)],
    os.listdir("/proc/self/fd"),
    [(number, signal.getsignal(number)) for number in sorted(signal.valid_signals())],
    *(signal.pthread_sigmask(signal.SIG_BLOCK, []), os.getpgrp(), os.getsid(0), threading.active_count()),
    sys.stdin.read(),
):
    print(ascii(found))
os.kill(os.getpid(), signal.SIGTERM)
"""


def test_a_fork_sees_the_same_as_a_started_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "look.py").write_text(SCRIPT, "utf-8")
    env = {"LC_ALL": "C", "PYTHONUTF8": "0", "X": "ü"}
    both = []
    for forks in (True, False):
        monkeypatch.setattr(processes, "FORKS", forks)
        both.append(ended("graph", "check", "look.py", "--secret", "ü", cwd=tmp_path, env=env))
    assert both[0] == both[1]
    assert both[0].code == -signal.SIGTERM, both[0]
    assert "'graph', 'check', 'look.py', '--secret', " in both[0].err


@pytest.mark.parametrize("forks", [True, False])
def test_what_a_process_leaves_open_is_named_at_its_end(
    forks: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "FORKS", forks)
    with Process([sys.executable, "-c", "left = open('/dev/null'); raise SystemExit(3)"], cwd=tmp_path) as it:
        assert "ResourceWarning: unclosed file" in it.wait(code=3).err
