"""When Python searches for garbage in cycles."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

PYTHONS_THRESHOLDS = {(700, 10, 10), (2000, 10, 0), (2000, 10, 10)}
"""The defaults of the versions of Python."""
THRESHOLDS = (2_000, 20, 20)
"""States leave no cycles behind: in 10,000 of them none was collected. The collections took 6 % of the
processor time of a state at a batch size of 64, more on a busy machine, and 20 ms for each full one. Young
objects are checked as often as newer versions of Python do: garbage of a node may hold sockets, which are
few."""


@contextmanager
def rare_collections() -> Iterator[None]:
    """Collect garbage rarely while the body runs, in the whole process, unless the program chose how often.

    Old generations are collected at most a fifth as often as usual.
    """
    before = gc.get_threshold()
    if before in PYTHONS_THRESHOLDS:
        gc.set_threshold(*THRESHOLDS)
    try:
        yield
    finally:
        if gc.get_threshold() == THRESHOLDS:
            gc.set_threshold(*before)
