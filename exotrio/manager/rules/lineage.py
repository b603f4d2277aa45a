"""What a state gets from the states before it: united targets, path through fan-outs, trace. Pure.

The trace of a state that waits or runs is passed to its next execution. It is W3C trace contexts
(``traceparent``), with a space between them. The first is the parent: the execution whose outcome created the
state, that of the target state of a united one, or the trigger of the run. The others are executions to link
to: earlier ones of the same state or of the attempts before it, and those that completed the group of a
united node. Once a state ended, its trace is the one context of the execution that ended it. None if no
runtime traces.

A runtime that does not trace leaves no gap: the next states have the same parent as its execution had.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from functools import lru_cache

MAX_LINKS = 8
"""Of one execution. A node may requeue itself for days, and the outcomes of a batch complete one group."""


@lru_cache(maxsize=1024)  # siblings share them, and this is called five times for each state
def split_groups(groups: str) -> Sequence[tuple[int, int]]:
    """Return (state, place) of each united target in a chain."""
    entries = (entry.partition(":") for entry in groups.split())
    return tuple((int(seq), int(place)) for seq, _, place in entries)


def extend_groups(groups: str, seq: int, place: int) -> str:
    """Return the groups of what hangs below the state ``seq`` of a united target."""
    return f"{groups} {seq}:{place}" if groups else f"{seq}:{place}"


def output_path(path: bytes, index: int) -> bytes:
    """Return the path of output ``index`` of a state: a length and that many bytes, so that paths
    sort in fan-out order."""
    digits = index.to_bytes((index.bit_length() + 7) // 8, "big")
    return path + bytes((len(digits),)) + digits


def is_further(path: bytes) -> bool:
    """Whether a path is that of a further output: its last step is an output, and not the first one."""
    at = length = 0
    while at < len(path):
        length = path[at]
        at += 1 + length  # of the output
        if at < len(path):
            at += 2  # of the place
            length = 0
    return length > 0


def child_path(path: bytes, place: int) -> bytes:
    """Return the path of the child at ``place`` of a state with this path."""
    return path + place.to_bytes(2, "big")


def outermost(paths: Iterable[bytes]) -> list[bytes]:
    """Return those of these paths that are not below another of them, sorted."""
    kept: list[bytes] = []
    for path in sorted(paths):
        if not kept or not path.startswith(kept[-1]):
            kept.append(path)
    return kept


def is_below(path: bytes, tops: Sequence[bytes]) -> bool:
    """Whether a path is one of ``tops``, which ``outermost`` returned, or below one of them."""
    before = bisect_right(tops, path)
    return before > 0 and path.startswith(tops[before - 1])


def parent_in(trace: str | None) -> str | None:
    return trace.partition(" ")[0] if trace else None


def linked(trace: str | None, executions: Sequence[str | None]) -> str | None:
    """Return ``trace`` with links to these executions; of more than ``MAX_LINKS`` the last ones stay.

    Without a parent the first of them becomes it, so that all stay in one trace.
    """
    contexts = list(dict.fromkeys([*(trace or "").split(), *filter(None, executions)]))
    return " ".join([*contexts[:1], *contexts[1:][-MAX_LINKS:]]) or None
