"""Threads that the end of the process waits for."""

from __future__ import annotations

import threading

import pytest

from exotrio._shared import deadlines


class Hangs(threading.Thread):
    """A thread that does not end: a join takes all of its timeout."""

    now = 100.0

    def join(self, timeout: float | None = None) -> None:
        assert timeout is not None
        Hangs.now += timeout


def test_all_threads_together_are_waited_for_within_one_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    began = Hangs.now
    monkeypatch.setattr("time.monotonic", lambda: Hangs.now)
    threads = [Hangs() for _ in range(3)]
    for thread in threads:
        deadlines.join_at_exit(thread)
    deadlines._join()
    assert Hangs.now - began == deadlines.EXIT
